"""What a sweep would do: cells, trials, disk, CPU-hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from attack_core.analytic import Analytic
from attack_core.auto import Auto
from attack_core.families import AnyAttack, matching_part
from fl_core.models import ModelConfig, build_model
from orchestrator.checks import check_sweep
from orchestrator.config import AttackerConfig, FamilyConfig, SweepConfig
from orchestrator.parse import cell_settings
from orchestrator.space import IntRange, Parameter

_SECONDS_PER_GFLOP = 1 / 25.0
"""One CPU core's measured pace on the matching loop (cnn64: 60 ms an iteration); good to a factor of 2."""


def plan_table(config: SweepConfig, cells: str) -> Table:
    """One line for each cell and attacker. CPU-hours are an estimate from operation counts, not a promise."""
    check_sweep(config, config.matching_cells(cells))
    shown = Table("cell", "attacker", "suggestions", "trials", "CPU-hours (estimate)", "captures MB")
    for cell in config.matching_cells(cells):
        settings = cell_settings(config, cell)
        for attacker in config.attackers:
            tests, time = settings.victims.test, settings.study.time if attacker.searches else None
            trial = _trial_seconds(settings, attacker)
            budget = _budget(settings, attacker) if time is None else None
            tuning = budget * settings.victims.tuning if budget is not None else None
            runs = tests * (2 if settings.execution.controls else 1)
            hours = (runs * trial + (tuning * trial if tuning is not None else time or 0.0)) / 3600
            records = settings.victims.tuning + tests
            megabytes = records * 4e-6 * _parameters(settings.model)
            shown.add_row(
                cell.name,
                attacker.name,
                f"{time:g} s" if budget is None else str(budget),
                "?" if tuning is None else str(tuning + tests),
                f"{hours:.2f}",
                f"{megabytes:.0f}",
            )
    return shown


def _budget(settings: SweepConfig, attacker: AttackerConfig) -> int:
    if not attacker.searches:
        return 0
    return len(attacker.space.grid()) if settings.study.sampler == "grid" else settings.study.suggestions


def _trial_seconds(settings: SweepConfig, attacker: AttackerConfig) -> float:
    """The mean over families, which may all be chosen; that the analytic attack need not fall back is assumed."""
    # About nine passes of a forward's cost: forward, backward, weight gradients, and the second backward.
    gflops = 9 * 2e-9 * _multiplications(settings.model)
    batch = settings.federation.local.batch_size
    families: Sequence[FamilyConfig | AttackerConfig] = list(attacker.families.values()) or [attacker]
    passes = [_passes(family.attack, family.search, batch) for family in families]
    return sum(passes) / len(passes) * gflops * _SECONDS_PER_GFLOP


def _passes(attack: AnyAttack, search: Mapping[str, Parameter], batch: int) -> float:
    """How many images an attack differentiates twice in all its iterations."""
    if isinstance(attack, Analytic | Auto):
        analytic = attack.analytic if isinstance(attack, Auto) else attack
        # One backward pass instead of two, and no weight gradients.
        return analytic.inversion.evaluations * batch / 3
    loop = matching_part(attack)
    restarts: float = loop.restarts
    searched = search.get("restarts")
    if isinstance(searched, IntRange):
        restarts = (searched.low + searched.high) / 2
    return loop.iterations * restarts * (loop.images or batch)


def _parameters(model: ModelConfig) -> int:
    return sum(parameter.numel() for parameter in build_model(model).parameters())


def _multiplications(model: ModelConfig) -> float:
    """Multiplications of one forward pass on one image, from a pass on the meta device."""
    with FlopCounterMode(display=False) as counter:
        build_model(model).eval()(torch.empty(1, 3, model.image_size, model.image_size, device="meta"))
    return float(counter.get_total_flops()) / 2
