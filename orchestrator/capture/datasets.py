"""Opens the pictures that a sweep asks for; writes synthetic faces where nothing else was named."""

from __future__ import annotations

import copy
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.arrays import open_arrays
from fl_core.data.kinds.celeba import open_celeba
from fl_core.data.kinds.class_folders import open_folder
from fl_core.data.kinds.parquet import open_parquet
from fl_core.data.kinds.torchvision_sets import open_torchvision
from fl_core.data.places import expanded
from fl_core.data.resize import Resize
from fl_core.data.synthetic.faces import unwritten_faces, write_faces
from orchestrator.axes.paths import put
from orchestrator.capture.places import check_place, faces_folder, resolve_kind, synthetic_root
from orchestrator.config.plain import build
from orchestrator.config.sweep import DataConfig, DataKind, SweepConfig
from orchestrator.io.identity import content_hash


def with_classes(several: Sequence[SweepConfig]) -> list[SweepConfig]:
    """Settings whose networks have as many outputs as their data have classes, where that is left to the data.

    Raises `InputError` where that takes reading the data's tables and they cannot be read, and for a single class.
    """
    counted: dict[str, int] = {}
    found = []
    for settings in several:
        model = settings.model
        if model.classes is None:
            data = resolve_kind(settings.data)
            key = content_hash(data)
            if key not in counted:
                counted[key] = _class_count(data, model.shape)
            settings = replace(settings, model=replace(model, classes=counted[key]))
        found.append(settings)
    return found


def _class_count(data: DataConfig, shape: ImageShape) -> int:
    """How many classes the data have; only tables are read."""
    faces = data.kind in ("celeba", "synthetic")
    count = 2 ** len(_attributes(data)) if faces else len(planned_data(data, shape).classes)
    if count < 2:
        raise InputError(
            f"data.root = {data.root!r}: the images have one class; a network needs two to tell apart."
        )
    return count


def open_data(data: DataConfig, shape: ImageShape, *, progress: Callable[[str], None]) -> ImageDataset:
    """The data set of a definite kind, with pictures of `shape`; synthetic faces are written first where missing."""
    if data.kind == "synthetic" and not synthetic_root(data).is_dir():
        root = synthetic_root(data)
        check_place(data)
        progress(f"writing {data.synthetic_images} synthetic faces to {root}")
        _write_whole(root, data)
    return _OPENERS[data.kind](data, shape)


def planned_data(data: DataConfig, shape: ImageShape) -> ImageDataset:
    """What `open_data` will open, without a write: synthetic faces to come have names, labels and splits alone."""
    if data.kind == "synthetic" and not synthetic_root(data).is_dir():
        return unwritten_faces(
            synthetic_root(data),
            num=data.synthetic_images,
            seed=data.synthetic_seed,
            attributes=_attributes(data),
            shape=shape,
            resize=_resize(data),
        )
    return open_data(replace(data, download=None), shape, progress=lambda _: None)


def _open_faces(data: DataConfig, shape: ImageShape) -> ImageDataset:
    return open_celeba(faces_folder(data), attributes=_attributes(data), shape=shape, resize=_resize(data))


def _stored(open_set: Callable[..., ImageDataset]) -> Callable[[DataConfig, ImageShape], ImageDataset]:
    """The opener of a kind that has no settings of its own beside the split."""

    def opened(data: DataConfig, shape: ImageShape) -> ImageDataset:
        return open_set(expanded(data.root), shape=shape, resize=_resize(data), split=data.split)

    return opened


def _open_torchvision(data: DataConfig, shape: ImageShape) -> ImageDataset:
    return open_torchvision(
        expanded(data.root),
        name=data.name or "",
        shape=shape,
        resize=_resize(data),
        split=data.split,
        download=bool(data.download),
    )


_OPENERS: Mapping[DataKind, Callable[[DataConfig, ImageShape], ImageDataset]] = {
    "celeba": _open_faces,
    "synthetic": _open_faces,
    "folder": _stored(open_folder),
    "arrays": _stored(open_arrays),
    "parquet": _stored(open_parquet),
    "torchvision": _open_torchvision,
}
"""How each definite kind is opened: a new kind is a function, a line here and its name in `DataKind`."""


def _resize(data: DataConfig) -> Resize:
    return data.resize or "crop"


def _attributes(data: DataConfig) -> tuple[str, ...]:
    return (data.attribute,) if isinstance(data.attribute, str) else data.attribute


def data_line(config: Mapping[str, Any]) -> str:
    """Which data a sweep is about, in one line; `config` as `sweep.json` has it."""
    cells = [build(DataConfig, own_settings(config, cell)["data"], where="data") for cell in config["cells"]]
    return f"Data: {'; '.join(dict.fromkeys(_described(data) for data in cells))}"


def own_settings(config: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell has for the settings that decide which pictures it uses; both as `sweep.json` has them."""
    tree = {group: copy.deepcopy(config.get(group)) for group in ("data", "model", "utility")}
    for path, value in cell["differs"].items():
        if path.split(".")[0] in tree:
            put(tree, path, value, where=f"cells.{cell['name']}.differs")
    return tree


def _described(data: DataConfig) -> str:
    place = f" at {data.root}"
    if data.kind == "synthetic":
        what = f"synthetic faces (seed {data.synthetic_seed}, {data.synthetic_images})"
    else:
        what = {
            "folder": "class folders",
            "arrays": "arrays",
            "parquet": "Parquet",
            "torchvision": f"torchvision's {data.name}",
        }.get(data.kind, "CelebA layout")
        what += place
    faces = data.kind in ("auto", "celeba", "synthetic")
    parts = [
        what,
        f"attribute {' + '.join(_attributes(data))}" if faces else None,
        str(data.split) if data.split else None,
        f"resize {data.resize}" if data.resize else None,
    ]
    return ", ".join(part for part in parts if part)


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
