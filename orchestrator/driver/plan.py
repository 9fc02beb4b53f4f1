"""What a sweep would do: cells, trials, disk, CPU-hours."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from attack_core.attacks.registry import AnyAttack
from defenses.chain import Chain
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from orchestrator.capture.datasets import check_data, planned_data, with_classes
from orchestrator.config.own import shown
from orchestrator.config.parse import cell_settings, with_params
from orchestrator.config.space import IntRange, Parameter
from orchestrator.config.sweep import AttackerConfig, CellConfig, FamilyConfig, SweepConfig
from orchestrator.driver.checks import check_sweep
from orchestrator.driver.sweep import resolve
from orchestrator.io.identity import content_hash
from orchestrator.report.terminal import WIDTH, figure_table
from orchestrator.trial.cell import check_cell

_SECONDS_PER_GFLOP = 1 / 25.0
"""One CPU core's measured pace on the matching loop (cnn64: 60 ms an iteration); good to a factor of 2."""


def check_plan(config: SweepConfig, cells: Sequence[str]) -> None:
    """Raise `InputError` for what the sweep would be refused for, as far as reading the data's tables tells."""
    chosen = [cell_settings(config, cell) for cell in config.matching_cells(cells)]
    check_data(config.data, chosen)
    chosen = with_classes(chosen)
    check_sweep(config.attackers, chosen)
    opened: dict[str, ImageDataset] = {}
    for settings in map(resolve, chosen):
        shape = settings.model.shape
        key = content_hash({"data": settings.data, "shape": shape})
        if key not in opened:
            opened[key] = planned_data(settings.data, shape)
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


def plan_table(config: SweepConfig, cells: Sequence[str], *, width: int = WIDTH) -> Table:
    """One line for each cell and attacker, and the totals.

    CPU-hours are an estimate from operation counts, not a promise. A trial is one attack on one victim; a cell's
    attackers share its captures.
    """
    chosen = with_classes([cell_settings(config, cell) for cell in config.matching_cells(cells)])
    names: list[str] = []
    figures: list[tuple[str, ...]] = []
    trials, timed, total_hours, total_megabytes = 0, False, 0.0, 0.0
    for settings in chosen:
        seeds = config.seeds
        tests = settings.victims.test * seeds
        megabytes = (settings.victims.tuning * seeds + tests) * 4e-6 * _parameters(settings.model)
        total_megabytes += megabytes
        for attacker in config.attackers:
            time = settings.study.time if attacker.searches else None
            trial = _trial_seconds(settings, attacker)
            budget = _budget(settings, attacker) if time is None else None
            tuning = budget * settings.victims.tuning * seeds if budget is not None else None
            runs = tests * (2 if settings.execution.controls else 1)
            hours = (runs * trial + (tuning * trial if tuning is not None else (time or 0.0) * seeds)) / 3600
            names.append(f"{settings.cell.name} / {attacker.name}")
            figures.append(
                (
                    f"{time:g} s" if budget is None else str(budget),
                    "?" if tuning is None else str(tuning + tests),
                    f"{hours:.2f}",
                    f"{megabytes:.0f}",
                )
            )
            trials, timed = trials + (tuning or 0) + tests, timed or tuning is None
            total_hours += hours
    names.append(f"{len(chosen)} cells x {len(config.attackers)} attackers")
    known = f"{trials} and tuning" if timed else str(trials)
    figures.append(("", known, f"{total_hours:.2f}", f"{total_megabytes:.0f}"))
    columns = dict(zip(_COLUMNS, zip(*figures, strict=True), strict=True))
    counts = config.victims
    title = f"Planned: {counts.tuning} tuning victims and {counts.test} test victims in each cell"
    if config.seeds > 1:
        title += f", at each of {config.seeds} seeds"
    return figure_table(title, "cell / attacker", names, columns, width=width)


_COLUMNS = ("suggestions", "trials", "CPU-hours\n(estimate)", "captures\nMB")


def _budget(settings: SweepConfig, attacker: AttackerConfig) -> int:
    if not attacker.searches:
        return 0
    return len(attacker.space.grid()) if settings.study.sampler == "grid" else settings.study.suggestions


def _trial_seconds(settings: SweepConfig, attacker: AttackerConfig) -> float:
    """The mean over families, which may all be chosen."""
    # About nine passes of a forward's cost: forward, backward, weight gradients, and the second backward.
    gflops = 9 * 2e-9 * _multiplications(settings.model)
    batch = settings.federation.local.batch_size
    families: Sequence[FamilyConfig | AttackerConfig] = list(attacker.families.values()) or [attacker]
    passes = [_passes(family.attack, family.search, batch) for family in families]
    return sum(passes) / len(passes) * gflops * _SECONDS_PER_GFLOP


def _passes(attack: AnyAttack, search: Mapping[str, Parameter], batch: int) -> float:
    """The attack's cost; where its restarts are searched, the mean between the fewest and the most."""
    searched = search.get("restarts")
    if not isinstance(searched, IntRange):
        return attack.cost(batch)
    ends = [with_params(attack, {"restarts": count}) for count in (searched.low, searched.high)]
    return statistics.fmean(each.cost(batch) for each in ends)


def _parameters(model: ModelConfig) -> int:
    return sum(parameter.numel() for parameter in build_model(model).parameters())


def _multiplications(model: ModelConfig) -> float:
    """Multiplications of one forward pass on one image, from a pass on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode  # It imports triton, where that is installed.

    with FlopCounterMode(display=False) as counter:
        build_model(model).eval()(model.shape.empty(1, "meta"))
    return float(counter.get_total_flops()) / 2
