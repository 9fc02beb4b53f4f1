"""Opens the faces that a sweep asks for; writes the synthetic ones where nothing else was named."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fl_core.base.errors import InputError
from fl_core.data.celeba import FaceDataset, open_celeba
from fl_core.data.celeba_folder import Layout, check_folder, expanded, has_images, is_there
from fl_core.data.synthetic.faces import unwritten_faces, write_faces
from orchestrator.config.parse import build, put
from orchestrator.config.sweep import DataConfig, SweepConfig

_SYNTHETIC = "synthetic_faces"


def resolve_kind(data: DataConfig) -> DataConfig:
    """`auto` made definite: CelebA where its images lie under the root, synthetic faces where no root was named.

    The default root counts as none, and a root that holds synthetic faces already goes on with them. Raises
    `InputError` for any other root without CelebA.
    """
    if data.kind != "auto":
        return data
    root = expanded(data.root)
    if not has_images(root) and (not _is_named(data) or is_there(root / _SYNTHETIC)):
        return dataclasses.replace(data, kind="synthetic")
    try:
        Layout.of(root)
    except InputError as error:
        raise InputError(f"{error} For synthetic faces name none.") from error
    return dataclasses.replace(data, kind="celeba")


def check_data(common: DataConfig, cells: Iterable[SweepConfig]) -> None:
    """Raise `InputError` where the data that the cells name are not there; nothing is read or written.

    `cells` are the settings of each cell, `common` what the sweep file says for all of them.
    """
    kind = resolve_kind(common).kind
    for own in cells:
        named = own.data
        data = resolve_kind(named)
        if named.kind == "auto" and data.kind != kind:
            raise InputError(
                f"cells.{own.cell.name}.differs: data.root = {named.root!r} means {data.kind} data, where other "
                f"cells have {kind}; say so with data.kind = {data.kind!r} beside it."
            )
        if data.kind == "celeba":
            Layout.of(expanded(data.root))
        elif not is_there(_synthetic_root(data)):
            _check_place(data)


def open_faces(data: DataConfig, *, image_size: int, progress: Callable[[str], None]) -> FaceDataset:
    """The data set of a definite kind; synthetic faces are written first where they are missing."""
    root = expanded(data.root)
    if data.kind == "synthetic":
        root = _synthetic_root(data)
        if not root.is_dir():
            _check_place(data)
            progress(f"writing {data.synthetic_images} synthetic faces to {root}")
            _write_whole(root, data)
    return open_celeba(root, attribute=data.attribute, image_size=image_size)


def planned_faces(data: DataConfig, *, image_size: int) -> FaceDataset:
    """What `open_faces` will open, without a write: synthetic faces to come have names, labels and splits alone."""
    if data.kind == "synthetic" and not _synthetic_root(data).is_dir():
        return unwritten_faces(
            _synthetic_root(data),
            num=data.synthetic_images,
            seed=data.synthetic_seed,
            attribute=data.attribute,
            image_size=image_size,
        )
    return open_faces(data, image_size=image_size, progress=lambda _: None)


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
    if data.kind == "synthetic":
        what = f"synthetic faces (seed {data.synthetic_seed}, {data.synthetic_images})"
    else:
        what = f"CelebA layout at {data.root}"
    return f"{what}, attribute {data.attribute}"


def _is_named(data: DataConfig) -> bool:
    """Whether the user named a root: the default one stands for none."""
    return Path(data.root) != Path(DataConfig.root)


def _synthetic_root(data: DataConfig) -> Path:
    return expanded(data.root) / _SYNTHETIC / f"seed{data.synthetic_seed}_num{data.synthetic_images}"


def _check_place(data: DataConfig) -> None:
    """Raise `InputError` for a named root where no synthetic faces belong: one that is in use, or in no folder."""
    root = expanded(data.root)
    if not _is_named(data) or (root / _SYNTHETIC).is_dir():
        return
    check_folder(root if is_there(root) else root.absolute().parent)
    if is_there(root) and any(root.iterdir()):
        raise InputError(
            f"data.root = {data.root!r}: synthetic faces are not written into a folder that holds something else; "
            "name a new folder, an empty one, or one with synthetic faces."
        )


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
