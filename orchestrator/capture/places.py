"""Where the data that a sweep names lie, and whether they are there; nothing is opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fl_core.base.errors import InputError
from fl_core.data.kinds.celeba_folder import PARTS, Layout, has_images
from fl_core.data.places import CLASSES, array_file, check_folder, expanded, is_there, parquet_files
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
        return replace(data, kind="synthetic")
    try:
        Layout.of(root)
    except InputError as error:
        raise InputError(f"{error} For synthetic faces name none.") from error
    return replace(data, kind="celeba")


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
        check_there(data)


def check_there(data: DataConfig) -> None:
    """Raise `InputError` where data of a definite kind are not there, or, if synthetic, cannot be written there.

    Of torchvision's sets it knows nothing.
    """
    root = expanded(data.root)
    match data.kind:
        case "celeba":
            Layout.of(root)
        case "synthetic" if not is_there(synthetic_root(data)):
            check_place(data)
        case "folder":
            check_folder(root, CLASSES)
        case "arrays":
            array_file(root)
        case "parquet":
            parquet_files(root)


def faces_folder(data: DataConfig) -> Path:
    """The folder in CelebA's layout that data of the kind `celeba` or `synthetic` are read from."""
    return synthetic_root(data) if data.kind == "synthetic" else expanded(data.root)


def _is_named(data: DataConfig) -> bool:
    """Whether the user named a root: the default one stands for none."""
    return Path(data.root) != Path(DataConfig.root)


def synthetic_root(data: DataConfig) -> Path:
    """The folder of the synthetic faces that the data are, where they are that."""
    return expanded(data.root) / _SYNTHETIC / f"seed{data.synthetic_seed}_num{data.synthetic_images}"


def check_place(data: DataConfig) -> None:
    """Raise `InputError` for a named root where no synthetic faces belong: one that is in use, or in no folder."""
    root = expanded(data.root)
    if not _is_named(data) or (root / _SYNTHETIC).is_dir():
        return
    check_folder(root if is_there(root) else root.absolute().parent, PARTS)
    if is_there(root) and any(root.iterdir()):
        raise InputError(
            f"data.root = {data.root!r}: synthetic faces are not written into a folder that holds something else; "
            "name a new folder, an empty one, or one with synthetic faces."
        )
