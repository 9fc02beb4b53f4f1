"""Data sets of every kind: CelebA, class folders, NumPy arrays, Parquet files, sets of torchvision."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arrays": ["open_arrays"],
        "celeba": ["attribute_classes", "check_celeba", "open_celeba"],
        "celeba_folder": ["ATTRIBUTE_CSV", "IMAGE_FOLDER", "Layout", "PARTITION_CSV", "PARTS", "has_images"],
        "class_folders": ["open_folder"],
        "parquet": ["open_parquet"],
        "torchvision_sets": ["open_torchvision"],
    },
)
