"""One trial of a results folder, by its id, the beginning of it, or CELL/ATTACKER/VICTIM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fl_core.base.errors import InputError, hint, listed, natural, unknown_name
from orchestrator.analysis.summary import winners
from orchestrator.config.space import Params
from orchestrator.io.places import check_folder_there
from orchestrator.results.schema import study_name
from orchestrator.results.store import Row, read_rows, read_studies

_SHORTEST = 4
"""Digits of an id that must be given at least."""


def find_trial(folder: Path, name: str) -> list[Row]:
    """The rows of a trial, one for each true image.

    `CELL/ATTACKER/VICTIM` is the winner's test trial on that victim, at the sweep's first seed. Raises `InputError` for
    a trial that there is not, with what was probably meant, and for one that several ids begin with.
    """
    check_folder_there(folder)
    trials: dict[str, list[Row]] = {}
    for row in read_rows(folder).to_pylist():
        trials.setdefault(row["trial_id"], []).append(row)
    if name in trials:
        return trials[name]
    if "/" in name:
        return _tested(folder, list(trials.values()), name)
    found = [trial for trial in trials if len(name) >= _SHORTEST and trial.startswith(name)]
    if len(found) > 1:
        raise InputError(f"{folder} has {len(found)} trials that begin with {name!r}: {listed(found)}.")
    if not found:
        raise InputError(
            f"{folder} has no trial {name!r}.{hint(name, trials)} Give an id of the column trial_id, its first "
            f"{_SHORTEST} digits or more, or CELL/ATTACKER/VICTIM."
        )
    return trials[found[0]]


def params_of(folder: Path, row: Row) -> Params:
    """The searched parameters that a trial's suggestion stands for; none where its attacker searches nothing."""
    if row["suggestion"] is None:
        return {}
    study = row["study"] or study_name(row["cell"], row["attacker"], seed=0, first=0)
    for told in read_studies(folder).to_pylist():
        if (told["study"], told["suggestion"]) == (study, row["suggestion"]):
            found: Params = json.loads(told["params"])
            return found
    raise InputError(
        f"{folder} lacks suggestion {row['suggestion']} of study {study}, which trial {row['trial_id']} is of; run the "
        "sweep again, which makes it again."
    )


def _tested(folder: Path, trials: Sequence[list[Row]], name: str) -> list[Row]:
    cell, attacker, number = [*name.split("/"), "", ""][:3]
    for what, given, column in (("cell", cell, "cell"), ("attacker", attacker, "attacker")):
        known = {str(rows[0][column]) for rows in trials}
        if given not in known:
            raise unknown_name(what, given, known)
    mine = [
        rows
        for rows in trials
        if (rows[0]["cell"], rows[0]["attacker"], rows[0]["phase"]) == (cell, attacker, "test")
    ]
    winner = winners(folder).get(f"{cell}/{attacker}")
    if winner is not None:
        mine = [rows for rows in mine if rows[0]["suggestion"] == winner.suggestion]
    found = [rows for rows in mine if rows[0]["victim"] == natural(number)]
    if not found:
        victims = listed(str(victim) for victim in sorted({rows[0]["victim"] for rows in mine}))
        raise InputError(
            f"{folder} has no test victim {number!r} of {cell}/{attacker}; it has: {victims or 'none'}."
        )
    return min(found, key=lambda rows: rows[0]["sweep_seed"] or 0)
