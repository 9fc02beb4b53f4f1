"""What `gradsweep data synth` and `gradsweep data check` do."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress, track

from fl_core.base.shape import ImageShape
from fl_core.data.check import check_pictures, described
from fl_core.data.kinds.celeba import check_celeba
from fl_core.data.places import expanded
from fl_core.data.synthetic.faces import write_faces
from orchestrator.capture.datasets import planned_data
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
    folder = expanded(folder)
    problems = 0
    if kind == "celeba":
        found, held = check_celeba(folder), []
    else:
        data = build(
            DataConfig, {"kind": kind, "root": str(folder), "name": name}, where="gradsweep data check"
        )
        dataset = planned_data(data, ImageShape.parse(size))
        found, held = check_pictures(dataset), described(dataset)
    for problem in track(found, description="checking", console=console, transient=True):
        problems += 1
        console.print(problem, soft_wrap=True, markup=False)
    for line in held:
        console.print(line, soft_wrap=True, markup=False)
    console.print(
        f"{problems} problems in {folder}" if problems else f"{folder} is fine", soft_wrap=True, markup=False
    )
    return problems
