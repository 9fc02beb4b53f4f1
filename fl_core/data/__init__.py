"""Images: data sets on disk, how they are split over clients, and transforms that can be inverted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "dataset": ["ImageDataset", "Picture", "SplitName"],
        "partition": ["IID", "Partition"],
        "places": ["check_folder", "expanded", "is_there"],
        "resize": ["Resize"],
        "splits": ["SeededSplit"],
    },
)
