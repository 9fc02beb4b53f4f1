"""Warm starts: what another sweep found best becomes a study's first suggestions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import winners
from orchestrator.config.space import Params
from orchestrator.config.sweep import AttackerConfig, SweepConfig
from orchestrator.io.files import RESTORE, read_json, write_json
from orchestrator.results.schema import study_name

FILE = "warm_start.json"


@dataclass(frozen=True)
class _Noted:
    """What the file holds: by study, the parameters that are tried first."""

    studies: dict[str, list[Params]]


def warm_starts(
    config: SweepConfig, out: Path, *, before: SweepConfig | None, say: Callable[[str], None]
) -> dict[str, list[Params]]:
    """The first suggestions of each study `CELL/ATTACKER`; empty without `study.warm_start`.

    A folder that was claimed `before` has them noted; for studies that the sweep gained since, or without a folder,
    they are looked for, and `say` is told what came of it. Raises `InputError` where the other folder has nothing to
    start from, or something that is outside the search space.
    """
    if config.study.warm_start is None:
        return {}
    folder = Path(config.study.warm_start)
    if before is None:
        return _find(config, folder, say)
    try:
        noted = read_json(_Noted, out / FILE).studies
    except FileNotFoundError as error:
        raise InputError(
            f"{out / FILE} is missing, which says what the studies started from; {RESTORE}."
        ) from error
    gained = _studies(config) - _studies(before)
    if not gained:
        return noted
    found = _find(config, folder, say)
    return noted | {study: first for study, first in found.items() if study in gained}


def _studies(config: SweepConfig) -> set[str]:
    """The names of all studies of a sweep."""
    return {
        study_name(cell.name, attacker.name, seed=seed, first=config.seed)
        for cell in config.cells
        for attacker in config.attackers
        if attacker.searches
        for seed in config.replicates
    }


def note_warm_starts(config: SweepConfig, out: Path, start: dict[str, list[Params]]) -> None:
    """Note them in the results folder, so that the other folder is not needed again."""
    if config.study.warm_start is not None:
        write_json(out / FILE, {"from": config.study.warm_start, "studies": start})


def _find(config: SweepConfig, folder: Path, say: Callable[[str], None]) -> dict[str, list[Params]]:
    best: dict[str, dict[str, Params]] = {}
    for study, winner in winners(folder).items():
        where, who, *further = study.split("/")
        if not further:  # Of several seeds the first speaks for all.
            best.setdefault(who, {})[where] = winner.params
    tuned = [attacker for attacker in config.attackers if attacker.searches]
    if not any(attacker.name in best for attacker in tuned):
        raise InputError(
            f"study.warm_start: {folder} has a finished suggestion of none of the attackers "
            f"{', '.join(attacker.name for attacker in tuned)}; it has: {', '.join(sorted(best)) or 'none'}."
        )
    found = {}
    for attacker in tuned:
        if attacker.name not in best:
            say(f"{attacker.name} starts cold: {folder} has nothing of an attacker of this name")
            continue
        say(f"{attacker.name} starts from the best parameters in {folder}")
        for cell in config.cells:
            first = _first(config, attacker, best[attacker.name], cell.name, folder)
            for seed in config.replicates:
                found[study_name(cell.name, attacker.name, seed=seed, first=config.seed)] = first
    return found


def _first(
    config: SweepConfig, attacker: AttackerConfig, best: dict[str, Params], cell: str, folder: Path
) -> list[Params]:
    """The best parameters of the cell of the same name, else those of all cells, each set once."""
    origin = {cell: best[cell]} if cell in best else best
    chosen: list[Params] = []
    for source, params in origin.items():
        if not attacker.space.allows(params):
            raise InputError(
                f"study.warm_start: the best of {source}/{attacker.name} in {folder} is {params}, outside the "
                f"search space of {attacker.name} here; widen the space, or start without it."
            )
        if params not in chosen:
            chosen.append(params)
    if config.study.time is None and len(chosen) > config.study.suggestions:
        raise InputError(
            f"study.warm_start: {folder} has {len(chosen)} sets of parameters for {cell}/{attacker.name}, which is "
            f"more than study.suggestions = {config.study.suggestions}."
        )
    return chosen
