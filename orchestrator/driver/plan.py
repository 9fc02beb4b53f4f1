"""What a sweep would do: cells, trials, and by a measurement on this machine hours and disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from defenses.chain import Chain
from fl_core.data.dataset import ImageDataset
from orchestrator.capture.datasets import planned_data, with_classes
from orchestrator.capture.places import check_data
from orchestrator.config.own import shown
from orchestrator.config.parse import cell_settings
from orchestrator.config.sweep import AttackerConfig, CellConfig, SweepConfig
from orchestrator.driver.checks import check_sweep
from orchestrator.driver.pace import Pace, Paces, Say, measure
from orchestrator.driver.sweep import resolve
from orchestrator.io.identity import content_hash
from orchestrator.report.terminal import WIDTH, figure_table
from orchestrator.runtime.progress import duration
from orchestrator.trial.cell import check_cell


def check_plan(config: SweepConfig, cells: Sequence[str]) -> None:
    """Raise `InputError` for what the sweep would be refused for, as far as reading the data's tables tells."""
    chosen = [cell_settings(config, cell) for cell in config.matching_cells(cells)]
    check_data(config.data, chosen)
    chosen = with_classes(chosen)
    check_sweep(config.attackers, chosen)
    opened: dict[str, ImageDataset] = {}
    for settings in map(resolve, chosen):
        shape = settings.model.shape
        own_data = [each.prior.data for each in settings.attackers if each.prior and each.prior.data]
        for data in (settings.data, *own_data):
            if (place := content_hash({"data": data, "shape": shape})) not in opened:
                opened[place] = planned_data(data, shape)
        key = content_hash({"data": settings.data, "shape": shape})
        for seed in settings.replicates:
            own = dataclasses.replace(settings, seed=seed)
            check_cell(own, Chain(defenses=settings.cell.defense), opened[key])


def cells_table(config: SweepConfig, cells: Sequence[str], *, width: int = WIDTH) -> Table:
    """What each cell is: its name, its defenses, and the settings that are its own."""
    chosen = config.matching_cells(cells)
    table = Table(
        title="Cells", title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=0, width=width
    )
    for heading in ("cell", "defense", "its own settings"):
        table.add_column(heading, overflow="fold")
    for cell in chosen:
        own = (f"{path}={json.dumps(value)}" for path, value in shown(cell.differs).items())
        table.add_row(*map(Text, (f"{cell.name} ", f"{_chain(cell)} ", ", ".join(own))))
    return table


def _chain(cell: CellConfig) -> str:
    """The defenses with the settings that are not the defaults, such as `clip(max_norm=0.5), ckks`."""
    found = []
    for defense in cell.defense:
        left = {"kind": None} | {field.name: field.default for field in dataclasses.fields(defense)}
        settings = [
            f"{name}={json.dumps(value)}"
            for name, value in shown(defense).items()
            if name != "kind" and value != left.get(name, dataclasses.MISSING)
        ]
        found.append(f"{defense.label}({', '.join(settings)})" if settings else defense.label)
    return ", ".join(found) or "none"


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one attacker does in one cell, at all seeds.

    `suggestions` and `tuning` (trials) are None where a study has a budget of time, `budget` (seconds) at each seed.
    """

    settings: SweepConfig
    attacker: AttackerConfig
    suggestions: int | None
    budget: float
    tuning: int | None
    tests: int

    @property
    def attacks(self) -> float:
        """How many whole attacks that is, without what a budget of time pays for; controls are attacks too."""
        tests = self.tests * (2 if self.settings.execution.controls else 1)
        halving, victims = self.settings.study.halving, self.settings.victims.tuning
        if halving is None or not victims:
            return (self.tuning or 0) + tests
        # For each suggestion so many short trials, and on average so many whole ones.
        short, whole = halving.screened(victims), halving.keep * victims
        return (self.tuning or 0) * (short * halving.iterations + whole) / (short + whole) + tests

    def seconds(self, pace: Pace) -> float:
        """How long its trials take on one worker."""
        return self.attacks * pace.trials[self.attacker.name] + self.budget * self.settings.seeds


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep would do; `paces` where they were measured."""

    lines: tuple[Line, ...]
    paces: Paces | None

    @property
    def cells(self) -> list[SweepConfig]:
        """The settings of each cell, once."""
        return list({line.settings.cell.name: line.settings for line in self.lines}.values())

    @property
    def trials(self) -> int:
        """How many trials are known of."""
        return sum((line.tuning or 0) + line.tests for line in self.lines)

    @property
    def timed(self) -> bool:
        """Whether there are tuning trials that nobody can count beforehand."""
        return any(line.tuning is None for line in self.lines)

    def totals(self, paces: Paces) -> Totals:
        """The seconds and bytes of all of it."""
        work = sum(line.seconds(paces.cells[line.settings.cell.name]) for line in self.lines)
        captures = weights = size = 0.0
        for settings in self.cells:
            pace, seeds = paces.cells[settings.cell.name], settings.seeds
            victims = (settings.victims.tuning + settings.victims.test) * seeds
            weights += pace.weights * seeds
            captures += pace.capture * victims
            size += pace.capture_bytes * victims if settings.execution.keep_captures else 0
        return Totals(
            driver=weights + captures,
            workers=work + sum(paces.utility.values()),
            captures=size,
            rest=_OUTPUTS + _ROW * self.trials + sum(map(_pictures, self.lines)),
        )


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Seconds of work in the driver (training before the captured round, captures) and on workers; bytes on disk."""

    driver: float
    workers: float
    captures: float
    rest: float

    def wall(self, workers: int | None) -> float:
        """Seconds from the start to the end with so many workers; None: without any, all in the driver.

        Captures are made while workers attack. Without workers one thing follows the other.
        """
        work = self.driver + self.workers if workers is None else max(self.driver, self.workers / workers)
        return _starts(workers) + work

    def cpu_hours(self, workers: int | None) -> float:
        """Hours of one core; `workers` as for `wall`."""
        return (_starts(workers) + self.driver + self.workers) / 3600

    @property
    def megabytes(self) -> float:
        """Disk, captures included."""
        return (self.captures + self.rest) * 1e-6


ENDS = 8.0
"""Seconds that a sweep takes before its first trial and after its last: its start, and the report."""
WORKERS = 12.0
"""Seconds that starting workers takes besides (two cores)."""
_OUTPUTS = 2_000_000
"""Bytes of the report, its figures and tables, without pictures."""
_ROW = 1_500
"""Bytes of a trial in the table and the journal."""


def _pictures(line: Line) -> float:
    """Bytes of the pictures that are kept: the truth and the answer, a byte for each number."""
    settings = line.settings
    kept = {"none": 0, "test": line.tests, "all": line.tests + (line.tuning or 0)}[settings.execution.images]
    return 2.0 * kept * settings.federation.local.batch_size * settings.model.shape.numbers


def make_plan(config: SweepConfig, cells: Sequence[str]) -> Plan:
    """The plan of the cells whose name matches one of the patterns, without a measurement."""
    chosen = with_classes([cell_settings(config, cell) for cell in config.matching_cells(cells)])
    lines = []
    for settings in chosen:
        seeds, counts = config.seeds, settings.victims
        for attacker in config.attackers:
            timed = settings.study.time if attacker.searches else None
            suggestions = _suggestions(settings, attacker) if timed is None else None
            lines.append(
                Line(
                    settings=settings,
                    attacker=attacker,
                    suggestions=suggestions,
                    budget=timed or 0.0,
                    tuning=None if suggestions is None else _tuning(settings, suggestions) * seeds,
                    tests=counts.test * seeds,
                )
            )
    return Plan(lines=tuple(lines), paces=None)


def measured(plan: Plan, say: Say) -> Plan:
    """The plan with the pace of each kind of cell on this machine; `say` is told what is being measured."""
    cells = [resolve(settings) for settings in plan.cells]
    attackers = list({line.attacker.name: line.attacker for line in plan.lines}.values())
    return dataclasses.replace(plan, paces=measure(attackers, cells, say))


def victims_line(plan: Plan) -> str:
    """How many victims each cell has, and at how many seeds."""
    settings = plan.lines[0].settings
    counts = settings.victims
    seeds = f", at each of {settings.seeds} seeds" if settings.seeds > 1 else ""
    return f"Planned: {counts.tuning} tuning victims and {counts.test} test victims in each cell{seeds}"


def plan_table(plan: Plan, *, width: int = WIDTH) -> Table:
    """One line for each cell and attacker, and the totals.

    A trial is one attack on one victim; a cell's attackers share its captures. Hours of CPU are shown where the plan is
    measured.
    """
    names, figures = [], []
    for line in plan.lines:
        names.append(f"{line.settings.cell.name} / {line.attacker.name}")
        hours = (
            ()
            if plan.paces is None
            else (f"{line.seconds(plan.paces.cells[line.settings.cell.name]) / 3600:.2f}",)
        )
        figures.append(
            (
                f"{line.budget:g} s" if line.suggestions is None else str(line.suggestions),
                "?" if line.tuning is None else str(line.tuning + line.tests),
                *hours,
            )
        )
    attackers = {line.attacker.name for line in plan.lines}
    names.append(f"{len(plan.cells)} cells x {len(attackers)} attackers")
    total = () if plan.paces is None else (f"{plan.totals(plan.paces).workers / 3600:.2f}",)
    figures.append(("", f"{plan.trials} and tuning" if plan.timed else str(plan.trials), *total))
    headings = ("suggestions", "trials", "CPU-hours")
    columns = dict(zip(headings, zip(*figures, strict=True), strict=False))
    return figure_table(None, "cell / attacker", names, columns, width=width)


def cost_line(plan: Plan, workers: int | None) -> str:
    """How long the plan takes with so many workers (None: in this process), and how much disk, in one line.

    Empty if it is not measured.
    """
    if plan.paces is None:
        return ""
    totals = plan.totals(plan.paces)
    least = "at least " if plan.timed else ""
    return (
        f"About {least}{duration(totals.wall(workers))} with {_counted(workers)} here: "
        f"{totals.cpu_hours(workers):.2f} CPU-hours, {totals.megabytes:.0f} MB on disk. Good to a factor of two."
    )


def _starts(workers: int | None) -> float:
    """Seconds that begin and end a sweep, those in which workers start among them."""
    return ENDS if workers is None else ENDS + WORKERS


def _counted(workers: int | None) -> str:
    """How many do the work, in words; the driver counts as one where it does it."""
    return f"{workers} workers" if workers is not None and workers > 1 else "1 worker"


def _tuning(settings: SweepConfig, suggestions: int) -> int:
    """Tuning trials of one study; with halving about so many."""
    halving, victims = settings.study.halving, settings.victims.tuning
    if halving is None:
        return suggestions * victims
    return suggestions * halving.screened(victims) + round(suggestions * halving.keep * victims)


def _suggestions(settings: SweepConfig, attacker: AttackerConfig) -> int:
    if not attacker.searches:
        return 0
    return len(attacker.space.grid()) if settings.study.sampler == "grid" else settings.study.suggestions
