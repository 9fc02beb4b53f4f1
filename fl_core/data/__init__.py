"""Images: data sets on disk, how they are split over clients, and transforms that can be inverted."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "celeba": ["FaceDataset", "Picture", "SplitName", "check_celeba", "open_celeba"],
        "celeba_folder": ["Layout", "check_folder", "expanded", "has_images", "is_there"],
        "mixing": ["circle_map"],
        "partition": ["IID", "Partition"],
        "transforms": ["Transform", "draws_of", "loses", "taken_back", "transformed"],
    },
)
