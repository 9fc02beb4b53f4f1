"""Images: data sets on disk, how they are split over clients, and transforms that can be inverted."""

from __future__ import annotations

from fl_core.data.celeba import FaceDataset, Picture, SplitName, check_celeba, open_celeba
from fl_core.data.celeba_folder import Layout, check_folder, expanded, has_images, is_there
from fl_core.data.mixing import circle_map
from fl_core.data.partition import IID, Partition, partition
from fl_core.data.transforms import Transform, draws_of, loses, taken_back, transformed

__all__ = [
    "check_celeba",
    "check_folder",
    "circle_map",
    "draws_of",
    "expanded",
    "FaceDataset",
    "has_images",
    "IID",
    "is_there",
    "Layout",
    "loses",
    "open_celeba",
    "Partition",
    "partition",
    "Picture",
    "SplitName",
    "taken_back",
    "Transform",
    "transformed",
]
