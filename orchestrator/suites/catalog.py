"""Which suites there are: the sweep files of each, its modes, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fl_core.base.errors import InputError, unknown_name

FOLDER = Path(__file__).resolve().parents[2] / "sweeps"
"""Where the sweep files of suites lie: in a clone, beside the packages."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite: sweeps that answer one question, and how their runs are compared.

    `parts` are its sweep files in `FOLDER` without their ending, run one after another; the results of several lie in
    a folder each. `modes` maps what `--mode` takes to the parts that it runs. `clients` names the cells of a suite that
    attacks the same clients whatever `--capture-client` says, and gives the mean over them; None for a suite that
    attacks one. With `ladder` each cell adds something to the one before, and the table says what that costs.
    """

    name: str
    parts: tuple[str, ...]
    modes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    clients: str | None = None
    ladder: bool = False

    def chosen(self, mode: str | None) -> tuple[str, ...]:
        """The parts of a mode, all of them for None; raises `InputError` for a mode that the suite has not."""
        if mode is None:
            return self.parts
        if not self.modes:
            raise InputError(f"--mode {mode}: {self.name} has no modes; leave it out.")
        if mode not in self.modes:
            raise InputError(unknown_name("--mode", mode, self.modes))
        return self.modes[mode]

    def folder(self, part: str, out: Path) -> Path:
        """The results folder of a part, where `out` is the suite's."""
        return out if len(self.parts) == 1 else out / Path(part).name

    def begun(self, out: Path) -> list[Path]:
        """The results folders that are there of its parts; raises `InputError` where none is."""
        there = [folder for part in self.parts if (folder := self.folder(part, out)).is_dir()]
        if not there:
            raise InputError(f"{out} holds no results of the suite {self.name}; run it first.")
        return there


def _original(*names: str) -> tuple[str, ...]:
    return tuple(f"original/{name}" for name in names)


_SHOWCASE = _original("base/quick", "base/showcase")
_ABLATION = _original("base/ablation", "base/batch", "base/realistic")
_TV, _PERCEPTUAL = _original("phase1/tv-sweep"), _original("phase1/perceptual")
_WEIGHTS = _original("phase1/layer-weights", "phase1/combinations")

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(name="showcase", parts=_original("showcase")),
        Suite(name="benchmark", parts=_original("benchmark")),
        Suite(name="multi_client", parts=_original("multi_client"), clients="bmk_c{client}"),
        Suite(name="defenses", parts=_original("defenses")),
        Suite(name="ablation", parts=_original("ablation"), clients="c{client}"),
        Suite(
            name="base",
            parts=_SHOWCASE + _ABLATION,
            modes={"showcase": _SHOWCASE, "ablation": _ABLATION, "all": _SHOWCASE + _ABLATION},
        ),
        Suite(
            name="phase1",
            parts=_TV + _WEIGHTS + _PERCEPTUAL,
            modes={"tv-sweep": _TV, "layer-ablation": _WEIGHTS, "perceptual": _PERCEPTUAL},
        ),
        Suite(name="realism", parts=("realism",), ladder=True),
    )
}
"""Every suite by its name, which is that of its script."""


def suite_of(name: str) -> Suite:
    """The suite of this name; raises `InputError` for one that there is not."""
    if name not in SUITES:
        raise InputError(unknown_name("suite", name, SUITES))
    return SUITES[name]


def sweep_file(part: str) -> Path:
    """The sweep file of a part; raises `InputError` outside of a clone."""
    path = FOLDER / f"{part}.yaml"
    if not path.is_file():
        raise InputError(
            f"{path} is not there: the suites lie in a clone of gradsweep, in its folder sweeps; start them there."
        )
    return path
