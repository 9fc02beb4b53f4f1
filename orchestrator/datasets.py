"""Opens the faces that a sweep asks for; writes the synthetic ones where there is nothing else."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
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
            _write_whole(root, data)
    return open_celeba(root, attribute=data.attribute, image_size=image_size)


def _write_whole(root: Path, data: DataConfig) -> None:
    """Write the faces elsewhere and then rename, so that neither a kill nor a second sweep leaves half of them."""
    scratch = root.with_name(f"_{root.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        write_faces(scratch, num=data.synthetic_images, seed=data.synthetic_seed)
        try:
            scratch.replace(root)
        except OSError:
            if not root.is_dir():  # Else another sweep was faster, with the same faces.
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
