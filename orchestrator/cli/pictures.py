"""What `gradsweep data synth` and `gradsweep data check` do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress, track

from fl_core.base.errors import InputError, listed
from fl_core.base.shape import ImageShape
from fl_core.data.check import check_pictures, described
from fl_core.data.kinds.celeba import check_celeba, open_celeba, read_attribute_names
from fl_core.data.places import expanded, is_there
from fl_core.data.synthetic.faces import write_faces
from orchestrator.capture.datasets import faces_folder, planned_data, resolve_kind
from orchestrator.config.plain import build
from orchestrator.config.sweep import DataConfig


def synthesise(out: Path, console: Console, *, num: int, seed: int) -> None:
    """Write `num` synthetic faces in CelebA's layout; raises `InputError` for a folder that cannot be written."""
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
    faces = data.kind in ("celeba", "synthetic")
    dataset = None if faces else planned_data(data, shape)
    problems = 0
    found = check_celeba(_written(data)) if dataset is None else check_pictures(dataset)
    for problem in track(found, description="checking", console=console, transient=True):
        problems += 1
        console.print(problem, soft_wrap=True, markup=False)
    if dataset is not None:
        held = described(dataset)
    else:
        held = [] if problems else _described_faces(faces_folder(data), shape)
    for line in held:
        console.print(line, soft_wrap=True, markup=False)
    console.print(
        f"{problems} problems in {folder}" if problems else f"{folder} is fine", soft_wrap=True, markup=False
    )
    return problems


def _written(data: DataConfig) -> Path:
    """The folder of faces; raises `InputError` for synthetic ones that no sweep has written yet."""
    root = faces_folder(data)
    if data.kind == "synthetic" and not is_there(root):
        raise InputError(f"{root}: no synthetic faces yet; a sweep with data.kind: synthetic writes them.")
    return root


def _described_faces(root: Path, shape: ImageShape) -> list[str]:
    """What a folder of faces holds: any attribute may be the class, so all are listed."""
    attributes = read_attribute_names(root)
    dataset = open_celeba(root, attributes=attributes[:1], shape=shape)
    return described(dataset, classes=f"{len(attributes)} attributes: {listed(attributes)}")
