"""Opens the faces that a sweep asks for; writes the synthetic ones where there is nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from fl_core.celeba import IMAGE_FOLDER, FaceDataset, open_celeba
from fl_core.faces import write_faces
from orchestrator.config import DataConfig


def resolve_kind(data: DataConfig) -> DataConfig:
    """`auto` made definite: CelebA where its image folder lies under the root, else synthetic faces."""
    if data.kind != "auto":
        return data
    found = (Path(data.root) / IMAGE_FOLDER).is_dir()
    return dataclasses.replace(data, kind="celeba" if found else "synthetic")


def open_faces(data: DataConfig, *, image_size: int, progress: Callable[[str], None]) -> FaceDataset:
    """The data set of a definite kind; synthetic faces are written first where they are missing."""
    root = Path(data.root)
    if data.kind == "synthetic":
        root = root / "synthetic_faces" / f"seed{data.synthetic_seed}_num{data.synthetic_images}"
        if not root.is_dir():
            progress(f"writing {data.synthetic_images} synthetic faces to {root}")
            scratch = root.with_name(f"_{root.name}")
            write_faces(scratch, num=data.synthetic_images, seed=data.synthetic_seed)
            scratch.replace(root)
    return open_celeba(root, attribute=data.attribute, image_size=image_size)
