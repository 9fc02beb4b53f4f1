"""What `gradsweep data synth` and `gradsweep data check` do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, track

from fl_core.base.errors import InputError, listed
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba_folder import Layout
from fl_core.data.places import expanded, is_there
from orchestrator.capture.places import check_there, faces_folder, resolve_kind
from orchestrator.config.plain import build
from orchestrator.config.sweep import DataConfig

if TYPE_CHECKING:
    from fl_core.data.dataset import ImageDataset


def synthesise(out: Path, console: Console, *, num: int, seed: int) -> None:
    """Write `num` synthetic faces in CelebA's layout; raises `InputError` for a folder that cannot be written."""
    from fl_core.data.synthetic.faces import write_faces

    out = expanded(out)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("faces", total=num)
        write_faces(out, num=num, seed=seed, progress=lambda done, _: bar.update(task, completed=done))
    console.print(f"{num} faces in {out}", soft_wrap=True)


def check(folder: Path, console: Console, *, kind: str, name: str | None, size: str) -> int:
    """Print every problem of a data set and what it holds; how many problems. Raises `InputError` for no data set."""
    folder, shape = expanded(folder), ImageShape.parse(size)
    where = "gradsweep data check"
    data = resolve_kind(build(DataConfig, {"kind": kind, "root": str(folder), "name": name}, where=where))
    found: Iterable[str]
    if data.kind in ("celeba", "synthetic"):
        dataset, found = None, _face_problems(_written(data))
    else:
        check_there(data)

        from fl_core.data.check import check_pictures
        from orchestrator.capture.datasets import planned_data

        dataset = planned_data(data, shape)
        found = check_pictures(dataset)
    problems = 0
    for problem in track(found, description="checking", console=console, transient=True):
        problems += 1
        console.print(problem, soft_wrap=True, markup=False)
    for line in _held(dataset, data, shape) if dataset is not None or not problems else ():
        console.print(line, soft_wrap=True, markup=False)
    console.print(
        f"{problems} problems in {folder}" if problems else f"{folder} is fine", soft_wrap=True, markup=False
    )
    return problems


def _face_problems(root: Path) -> Iterable[str]:
    """The problems of a folder of faces; nothing else is looked at where lists or pictures are missing altogether."""
    try:
        Layout.of(root)
    except InputError as error:
        return [str(error)]

    from fl_core.data.kinds.celeba import check_celeba

    return check_celeba(root)


def _written(data: DataConfig) -> Path:
    """The folder of faces; raises `InputError` for synthetic ones that no sweep has written yet."""
    root = faces_folder(data)
    if data.kind == "synthetic" and not is_there(root):
        raise InputError(f"{root}: no synthetic faces yet; a sweep with data.kind: synthetic writes them.")
    return root


def _held(dataset: ImageDataset | None, data: DataConfig, shape: ImageShape) -> list[str]:
    """What a data set holds; None stands for faces, any attribute of which may be the class, so all are listed."""
    from fl_core.data.check import described
    from fl_core.data.kinds.celeba import open_celeba, read_attribute_names

    if dataset is not None:
        return described(dataset)
    root = faces_folder(data)
    attributes = read_attribute_names(root)
    faces = open_celeba(root, attributes=attributes[:1], shape=shape)
    return described(faces, classes=f"{len(attributes)} attributes: {listed(attributes)}")
