"""Warm starts: what another sweep found best becomes a study's first suggestions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fl_core.errors import InputError
from orchestrator.analysis import winners
from orchestrator.config import AttackerConfig, SweepConfig
from orchestrator.files import read_json, write_atomically
from orchestrator.folder import CLAIM
from orchestrator.space import Params

FILE = "warm_start.json"


def warm_starts(config: SweepConfig, out: Path, say: Callable[[str], None]) -> dict[str, list[Params]]:
    """The first suggestions of each study `CELL/ATTACKER`; empty without `study.warm_start`.

    They are noted in the results folder once, so that the other folder is not needed again; `say` is then told
    what came of it. Called before the folder is claimed, so that a sweep that cannot start claims none. Raises
    `InputError` where the other folder has nothing to start from, or something that is outside the search space.
    """
    path = out / FILE
    if config.study.warm_start is None or ((out / CLAIM).is_file() and not path.is_file()):
        return {}  # A folder that was claimed without it is another sweep's, and is about to be refused.
    if not path.is_file():
        found = _find(config, Path(config.study.warm_start), say)
        content = {"from": config.study.warm_start, "studies": found}
        write_atomically(path, json.dumps(content, indent=1).encode())
    noted: dict[str, list[Params]] = read_json(path)["studies"]
    return noted


def _find(config: SweepConfig, folder: Path, say: Callable[[str], None]) -> dict[str, list[Params]]:
    best: dict[str, dict[str, Params]] = {}
    for study, winner in winners(folder).items():
        where, _, who = study.partition("/")
        best.setdefault(who, {})[where] = json.loads(winner["params"])
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
            found[f"{cell.name}/{attacker.name}"] = _first(
                config, attacker, best[attacker.name], cell.name, folder
            )
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
