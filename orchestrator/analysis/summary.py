"""From rows to conclusions: one line for each cell and attacker, with statistics over test victims."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attack_core.metrics.metrics import EXACT_DB
from defenses.dp.accounting import replaced_epsilon
from fl_core.base.errors import InputError
from orchestrator.analysis.intervals import Interval, mean_interval, share_interval
from orchestrator.capture.used_data import refuse_mixed
from orchestrator.io.files import write_atomically
from orchestrator.results import store
from orchestrator.results.columns import SUMMARY, averaged
from orchestrator.results.folder import claimed
from orchestrator.results.utility_files import UTILITY, UtilityResult, utilities

SUCCESS_DB = 20.0
"""PSNR from which a reconstruction counts as a success: convenient, above what controls reach (docs/statistics.md)."""

_MEASURES = ("psnr", "mse", "label_accuracy", *averaged("victims"))
"""What `by_victim` averages."""

CONTROLS = {
    "mean public image": "psnr_mean_image",
    "random public faces": "psnr_public",
    "means of groups of public faces": "psnr_groups",
}
"""What anybody can answer without a signal, and the column of its PSNR."""


def summarize(folder: Path) -> pd.DataFrame:
    """One row for each cell and attacker, over the winner's test victims, in the order of the sweep file.

    Raises `InputError` where the folder holds no results.
    """
    best, reached, order = winners(folder), utilities(folder), _order(folder)
    groups = _groups(folder)
    _check_whole(folder, groups, reached)
    measured = _tested(groups, best)
    # Rows lie in the order in which trials finished, which differs from run to run.
    keys = sorted(groups, key=lambda key: (order(*key), key))
    lines = [
        _line(groups[cell, who], measured[cell, who], best.get(f"{cell}/{who}"), reached.get(cell, ()))
        for cell, who in keys
    ]
    for line in lines:
        line |= _versus_none(line, lines, measured) | _versus_first(line, lines, measured)
    return pd.DataFrame(lines)[[column.name for column in SUMMARY]]


def tested_victims(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """For each cell and attacker one line a test victim of the winner, as `by_victim` has it.

    With it `images`, how many images the victim has, and `success`, the share of them that is recovered (20 dB).
    """
    found = {}
    for key, tested in _tested(_groups(folder), winners(folder)).items():
        ok = tested[tested["status"] == "ok"]
        reached = _reached(ok).groupby(ok["victim"])
        found[key] = by_victim(tested).assign(success=reached.mean(), images=reached.size())
    return found


def write_summary(folder: Path, table: pd.DataFrame) -> Path:
    """The table as `summary.parquet`."""
    path = folder / "summary.parquet"
    write_atomically(path, table.to_parquet(index=False))
    return path


def test_rows(group: pd.DataFrame, winner: int | None) -> pd.DataFrame:
    """The rows that a conclusion rests on: test victims of the winning suggestion."""
    tested = group[group["phase"] == "test"]
    return tested if winner is None else tested[tested["suggestion"] == winner]


def read_studies(folder: Path) -> pd.DataFrame:
    """All recorded suggestions of a results folder; empty where no attacker was tuned."""
    studies: pd.DataFrame = store.read_studies(folder).to_pandas()
    return studies


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a table as dicts by column name."""
    return [{str(name): value for name, value in line.items()} for line in table.to_dict("records")]


def by_victim(tested: pd.DataFrame) -> pd.DataFrame:
    """One line for each victim of finished attacks, ordered by victim: the mean over its images.

    Images of one batch are not independent, so a victim's images count as one. `psnr_control` is what `psnr` is
    compared with, the column of `control_of`.
    """
    ok = tested[tested["status"] == "ok"]
    victims = ok.groupby("victim")[[*_MEASURES]].mean()
    return victims.assign(psnr_control=victims[CONTROLS[control_of(victims)]])


def control_of(victims: pd.DataFrame) -> str:
    """The control that comes closer to these victims, of those that all of them have: a key of `CONTROLS`."""
    there = [name for name, column in CONTROLS.items() if victims[column].notna().all()]
    return max(there, key=lambda name: victims[CONTROLS[name]].mean(), default="mean public image")


def _groups(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """All rows of a results folder by cell and attacker; raises `InputError` where they are of several data sets."""
    rows = store.read_rows(folder).to_pandas()
    refuse_mixed(folder, store.data_by_cell(records(rows[["cell", "data"]].drop_duplicates())))
    return {(str(cell), str(who)): group for (cell, who), group in rows.groupby(["cell", "attacker"])}


def _tested(
    groups: dict[tuple[str, str], pd.DataFrame], best: dict[str, dict[str, Any]]
) -> dict[tuple[str, str], pd.DataFrame]:
    """Of each group the rows that conclusions rest on; `best` as `winners` gives it."""
    found = {}
    for (cell, who), group in groups.items():
        winner = best.get(f"{cell}/{who}")
        found[cell, who] = _exact(test_rows(group, winner["suggestion"] if winner else None))
    return found


def _reached(ok: pd.DataFrame) -> pd.Series[float]:
    """1.0 for each image that is recovered (PSNR >= 20 dB), 0.0 for the others."""
    return (ok["psnr"].fillna(-np.inf) >= SUCCESS_DB).astype(float)


def _exact(rows: pd.DataFrame) -> pd.DataFrame:
    columns = [name for name in _MEASURES if name.startswith("psnr")]
    return rows.assign(**{name: rows[name].replace(np.inf, EXACT_DB) for name in columns})


def _bounds(name: str, values: pd.Series[float], *, failed: float = 0.0) -> dict[str, float]:
    return _columns(name, mean_interval(np.asarray(values, dtype=np.float64), failed=failed))


def _columns(name: str, found: Interval) -> dict[str, float]:
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _versus_none(
    line: dict[str, Any], lines: list[dict[str, Any]], measured: dict[tuple[str, str], pd.DataFrame]
) -> dict[str, Any]:
    """How much PSNR the same attacker loses against the undefended cell, paired by victim, on images in both."""
    against = [
        other["cell"]
        for other in lines
        if other["defense"] == "none" and other["differs"] == "{}" and other["attacker"] == line["attacker"]
    ]
    comparable = bool(against) and differs_in_threat_alone(line["differs"]) and line["cell"] != against[0]
    name = against[0] if comparable else None
    mine = measured[line["cell"], line["attacker"]]
    theirs = measured[name, line["attacker"]] if name else mine.iloc[:0]
    mine, theirs = _shared_images(mine, theirs), _shared_images(theirs, mine)
    lost = by_victim(theirs)["psnr"].sub(by_victim(mine)["psnr"])
    return {"undefended": name, **_bounds("drop", lost.dropna())}


def differs_in_threat_alone(differs: str) -> bool:
    """Whether a cell with these own settings (JSON) has the data, weights and rounds of the cells without any.

    What the attacker sees or knows changes none of them, so such a cell is compared victim by victim like the others.
    """
    return all(path.startswith("threat.") for path in json.loads(differs))


def _shared_images(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The rows of images that `others` has of the same victim: an aggregate holds more than the victim's own."""
    keys = ["victim", "image_id"]
    return rows.merge(others[keys].drop_duplicates(), on=keys)


def _versus_first(
    line: dict[str, Any], lines: list[dict[str, Any]], measured: dict[tuple[str, str], pd.DataFrame]
) -> dict[str, Any]:
    """How much PSNR the attacker has over the first one of the same cell, paired by victim."""
    first = next(other["attacker"] for other in lines if other["cell"] == line["cell"])
    name = first if line["attacker"] != first else None
    mine = by_victim(measured[line["cell"], line["attacker"]])["psnr"]
    theirs = by_victim(measured[line["cell"], name])["psnr"] if name else mine * np.nan
    return {"beside": name, **_bounds("lead", mine.sub(theirs).dropna())}


def _line(
    group: pd.DataFrame,
    tested: pd.DataFrame,
    winner: dict[str, Any] | None,
    trainings: Sequence[UtilityResult],
) -> dict[str, Any]:
    first = group.iloc[0]
    ok = tested[tested["status"] == "ok"]
    victims = by_victim(tested)
    control = float(victims["psnr_control"].mean())
    success = float(_reached(ok).mean()) if len(ok) else np.nan
    trials = group.drop_duplicates("trial_id")
    kept = (
        *("cell", "attacker", "defense", "defense_params", "signal", "view", "round", "weights_accuracy"),
        *("epsilon", "epsilon_release", "delta", "dp_unit", "dp_against", "adjacency", "differs"),
    )
    return {
        **{name: first[name] for name in kept},
        "epsilon_replace_one": _replace_one(first),
        "labels": json.loads(first["threat"])["labels"],
        "method": _methods(ok),
        "notes": json.dumps(_notes(ok), ensure_ascii=False),
        "n": len(victims),
        "images": len(ok),
        "tests": tested["trial_id"].nunique(),
        "tests_failed": tested.loc[tested["status"] == "failed", "trial_id"].nunique(),
        **_bounds("psnr", victims["psnr"], failed=control),
        **_bounds("psnr_preselected", _preselected(ok), failed=control),
        "psnr_worst": float(ok["psnr"].max()) if len(ok) else np.nan,
        **_columns("success", share_interval(success, len(victims))),
        "control": control_of(victims),
        "psnr_control": control,
        **_bounds("gain", victims["psnr"] - victims["psnr_control"]),
        **_bounds("over_prior", victims["psnr"] - victims["psnr_prior"]),
        "label_match": float(ok["label_match"].astype(float).mean()) if len(ok) else np.nan,
        **_columns("label_accuracy", share_interval(float(victims["label_accuracy"].mean()), len(victims))),
        **{name: float(victims[name].mean()) for name in averaged("victims")},
        **{name: float(tested.drop_duplicates("trial_id")[name].mean()) for name in averaged("trials")},
        **_columns("accuracy", _accuracy(trainings)),
        "trainings": len(trainings),
        "majority": trainings[0].majority if trainings else np.nan,
        "diverged": any(one.diverged for one in trainings) if trainings else None,
        "not_finite": sum(one.not_finite for one in trainings) if trainings else None,
        "suggestion": winner["suggestion"] if winner else None,
        "tuning_psnr": winner["value"] if winner else np.nan,
        "suggestions": winner["count"] if winner else 0,
        "hyperparameters": winner["params"] if winner else "{}",
        "trials": len(trials),
        "trials_failed": int((trials["status"] == "failed").sum()),
        "not_observable": int((trials["status"] == "not_observable").sum()),
    }


def _accuracy(trainings: Sequence[UtilityResult]) -> Interval:
    """One training's with its exact interval over validation images, or the mean of several with that over seeds."""
    if len(trainings) == 1:
        return Interval(trainings[0].accuracy, trainings[0].low, trainings[0].high)
    values = np.array([one.accuracy for one in trainings], dtype=np.float64)
    return mean_interval(values, failed=trainings[0].majority if trainings else np.nan)


def _replace_one(row: pd.Series[Any]) -> float:
    """The row's total epsilon under `replace_one` adjacency; NaN without a statement, and under amplification."""
    if pd.isna(row["epsilon"]) or row["sampling_rate"] != 1.0:
        return np.nan
    epsilon = float(row["epsilon"])
    return epsilon if row["adjacency"] == "replace_one" else replaced_epsilon(epsilon, float(row["delta"]))


def _preselected(ok: pd.DataFrame) -> pd.Series[float]:
    """The PSNR of each victim's preselected image; an image for which nothing was reconstructed has none."""
    chosen = ok[ok["preselected"].astype("boolean").fillna(False)]
    return chosen.set_index("victim")["psnr"]


def _methods(ok: pd.DataFrame) -> str:
    """What really ran, the most frequent first; with how often where it was not always the same."""
    counts = ok.drop_duplicates("trial_id")["method"].value_counts()
    if len(counts) < 2:
        return "".join(counts.index)
    return ", ".join(f"{method} ({count})" for method, count in counts.items())


def _notes(ok: pd.DataFrame) -> list[str]:
    """Each thing that attacks said of their choice, the most frequent first."""
    told = ok.drop_duplicates("trial_id")["notes"].dropna().map(json.loads).explode().dropna()
    return [str(note) for note in told.value_counts().index]


def winners(folder: Path) -> dict[str, dict[str, Any]]:
    """The best suggestion of each study: number, value (dB), params (JSON), and how many were recorded."""
    found = {}
    for study, group in read_studies(folder).groupby("study", sort=False):
        told = group[group["state"] == "ok"].sort_values(["value", "suggestion"], ascending=[False, True])
        if len(told):
            best = told.iloc[0]
            found[str(study)] = {
                "suggestion": int(best["suggestion"]),
                "value": float(best["value"]),
                "params": str(best["params"]),
                "count": len(group),
            }
    return found


def _check_whole(
    folder: Path,
    groups: Mapping[tuple[str, str], pd.DataFrame],
    reached: Mapping[str, Sequence[UtilityResult]],
) -> None:
    """Raise `InputError` where a file is gone that the rows speak of: figures without it would be other ones."""
    tuned = set(read_studies(folder)["study"])
    for (cell, who), group in groups.items():
        if group["suggestion"].notna().any() and f"{cell}/{who}" not in tuned:
            raise InputError(
                f"{folder / 'studies' / 'studies.parquet'} lacks the suggestions of {cell}/{who}, which trials are "
                "of; run the sweep again, which makes them again."
            )
        if group["accuracy"].notna().any() and cell not in reached:
            raise InputError(
                f"{folder / UTILITY} lacks the file with the accuracy of {cell}, which trials name; run the sweep "
                "again, which measures it again."
            )


def _order(folder: Path) -> Callable[[str, str], tuple[int, int]]:
    """The place of a cell and attacker in the sweep file; unknown names come last."""
    config = claimed(folder)
    cells, attackers = (
        ([entry.name for entry in kind] for kind in (config.cells, config.attackers)) if config else ([], [])
    )
    ranks = [{name: i for i, name in enumerate(names)} for names in (cells, attackers)]
    return lambda cell, who: (ranks[0].get(cell, len(cells)), ranks[1].get(who, len(attackers)))
