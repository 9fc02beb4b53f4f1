"""From rows to conclusions: one line for each cell and attacker, with statistics over test victims."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from defenses.dp.accounting import replace_one_epsilon
from fl_core.base.decibels import EXACT_DB
from fl_core.base.errors import InputError
from orchestrator.analysis.intervals import (
    NOTHING,
    Interval,
    clustered_share_interval,
    mean_interval,
    share_interval,
)
from orchestrator.analysis.lines import CONTROLS, MEAN_IMAGE, Control, Line, Privacy, Utility, Winner, frame
from orchestrator.capture.used_data import refuse_mixed
from orchestrator.io.files import write_atomically
from orchestrator.io.identity import canonical
from orchestrator.results import store
from orchestrator.results.columns import averaged
from orchestrator.results.folder import claimed
from orchestrator.results.utility_files import UTILITY, UtilityResult, utilities
from orchestrator.results.winner import Measured, choose, front

SUCCESS_DB = 20.0
"""PSNR from which a reconstruction counts as a success: convenient, above what controls reach (docs/statistics.md)."""

_UNIT = ("sweep_seed", "victim")
"""What tells victims apart: at every seed other images are theirs."""

_MEASURES = ("psnr", "label_accuracy", *averaged("victims"))
"""What `by_victim` averages."""


_READ = (
    *("trial_id", "image_id", "cell", "attacker", "study", "phase", "suggestion", "status", "error", "data"),
    *(
        "defense",
        "defense_params",
        "signal",
        "view",
        "round",
        "weights_accuracy",
        "differs",
        "threat",
        "accuracy",
    ),
    *("watched", "epsilon_watched"),
    *("epsilon", "epsilon_release", "delta", "dp_unit", "dp_against", "adjacency", "sampling_rate"),
    *("method", "notes", "preselected", "label_match", *_UNIT, *_MEASURES, *averaged("trials")),
)
"""The columns that statistics need."""


def summary_lines(folder: Path) -> tuple[Line, ...]:
    """One line for each cell and attacker, over the winner's test victims, in the order of the sweep file.

    Raises `InputError` where the folder holds no results.
    """
    return summarized(folder)[0]


def summarized(folder: Path) -> tuple[tuple[Line, ...], dict[tuple[str, str], pd.DataFrame]]:
    """`summary_lines`, and `tested_victims` of the same folder, which is read once."""
    best, trained, order = winners(folder), utilities(folder), _order(folder)
    groups = _groups(folder)
    _check_whole(folder, groups, trained)
    # Rows lie in the order in which trials finished, which differs from run to run.
    keys = sorted(groups, key=lambda key: (order(*key), key))
    tested = _tested(groups, best)
    victims = {key: _victims(rows) for key, rows in tested.items()}
    lines = [
        _line(
            groups.pop(key),
            tested[key],
            victims[key],
            best.get(f"{key[0]}/{key[1]}"),
            trained.get(key[0], ()),
        )
        for key in keys
    ]
    return tuple(_compared(line, lines, tested, victims) for line in lines), victims


def summarize(folder: Path) -> pd.DataFrame:
    """`summary_lines` as a table, with the columns that `orchestrator.results.columns.SUMMARY` declares."""
    return frame(summary_lines(folder))


def tested_victims(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """For each cell and attacker one line a test victim of the winner, as `by_victim` has it.

    With it `images`, how many images the victim has, and `success`, the share of them that is recovered (20 dB).
    """
    return {key: _victims(tested) for key, tested in _tested(_groups(folder), winners(folder)).items()}


def _victims(tested: pd.DataFrame) -> pd.DataFrame:
    ok = tested[tested["status"] == "ok"]
    reached = _reached(ok).groupby([ok[name] for name in _UNIT])
    return by_victim(tested).assign(success=reached.mean(), images=reached.size())


def identified_victims(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """For each cell and attacker with finished attacks `by_victim`'s figures, of victims that are known anywhere.

    The index is `(data, images, sweep_seed, victim)`, where `images` names the images behind the victim's signal: rows
    of two folders with the same index are of the same victim. In the order of the sweep file.
    """
    order = _order(folder)
    tested = _tested(_groups(folder), winners(folder))
    found = {}
    for key in sorted(tested, key=lambda key: (order(*key), key)):
        ok = tested[key][tested[key]["status"] == "ok"]
        if not len(ok):
            continue
        named = ok.groupby([*_UNIT])
        identity = pd.DataFrame(
            {
                "data": named["data"].first().astype(object),
                "images": ok["image_id"]
                .astype(object)
                .groupby([ok[name] for name in _UNIT])
                .agg(lambda names: canonical(sorted(names))),
            }
        )
        victims = by_victim(tested[key]).join(identity)
        found[key] = victims.set_index(["data", "images"], append=True).reorder_levels(
            ["data", "images", *_UNIT]
        )
    return found


def write_summary(folder: Path, lines: Iterable[Line]) -> Path:
    """The table as `summary.parquet`."""
    path = folder / "summary.parquet"
    write_atomically(path, frame(lines).to_parquet(index=False))
    return path


def test_rows(group: pd.DataFrame, winner: int | None) -> pd.DataFrame:
    """The rows that a conclusion rests on: test victims of the winning suggestion."""
    tested = group[group["phase"] == "test"]
    return tested if winner is None else tested[tested["suggestion"] == winner]


def read_trials(folder: Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    """All rows of a results folder; those from before there were several seeds are of the sweep's own.

    With `columns` only those, texts as categories: a folder of a million rows then takes a fraction of the memory.
    """
    rows: pd.DataFrame = store.read_rows(folder, columns).to_pandas(self_destruct=columns is not None)
    if rows["sweep_seed"].isna().any():
        config = claimed(folder)
        rows["sweep_seed"] = rows["sweep_seed"].fillna(config.seed if config else 0)
    return rows.astype({"sweep_seed": "int64"})


def tested_rows(group: pd.DataFrame, best: Mapping[str, Winner]) -> pd.DataFrame:
    """Of one cell's and attacker's rows those that a conclusion rests on: each seed's winner on its test victims.

    `best` as `winners` gives it.
    """
    found = [test_rows(rows, _number(best.get(name))) for name, rows in _by_study(group).items()]
    return pd.concat(found) if len(found) > 1 else found[0]


def _by_study(group: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of one cell and attacker by the name of their study, which each seed has one of."""
    first = group.iloc[0]
    plain = f"{first['cell']}/{first['attacker']}"
    if group["study"].nunique(dropna=False) == 1:
        return {plain if pd.isna(first["study"]) else str(first["study"]): group}
    names = group["study"].astype(object).fillna(plain)
    return {str(name): rows for name, rows in group.groupby(names, sort=False)}


def _number(winner: Winner | None) -> int | None:
    return winner.suggestion if winner else None


def read_studies(folder: Path) -> pd.DataFrame:
    """All recorded suggestions of a results folder; empty where no attacker was tuned."""
    studies: pd.DataFrame = store.read_studies(folder).to_pandas()
    return studies


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dicts by column name."""
    return [{str(name): value for name, value in line.items()} for line in table.to_dict("records")]


def by_victim(tested: pd.DataFrame) -> pd.DataFrame:
    """One line for each victim of finished attacks, ordered by seed and victim: the mean over its images.

    Images of one batch are not independent, so a victim's images count as one. `psnr_control` is what `psnr` is
    compared with, that of `control_of`.
    """
    ok = tested[tested["status"] == "ok"]
    victims = ok.groupby([*_UNIT])[[*_MEASURES]].mean()
    return victims.assign(psnr_control=victims[control_of(victims).column])


def control_of(victims: pd.DataFrame) -> Control:
    """The control that comes closest to these victims, of those that all of them have."""
    there = [control for control in CONTROLS if victims[control.column].notna().all()]
    return max(there, key=lambda control: victims[control.column].mean(), default=MEAN_IMAGE)


def _groups(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """All rows of a results folder by cell and attacker; raises `InputError` where they are of several data sets."""
    rows = read_trials(folder, _READ)
    refuse_mixed(folder, store.data_by_cell(records(rows[["cell", "data"]].drop_duplicates())))
    groups = rows.groupby(["cell", "attacker"], observed=True)
    return {(str(cell), str(who)): group for (cell, who), group in groups}


def _tested(
    groups: dict[tuple[str, str], pd.DataFrame], best: Mapping[str, Winner]
) -> dict[tuple[str, str], pd.DataFrame]:
    """Of each group the rows that conclusions rest on; `best` as `winners` gives it."""
    found = {}
    for (cell, who), group in groups.items():
        found[cell, who] = exact(tested_rows(group, best))
    return found


def _reached(ok: pd.DataFrame) -> pd.Series[float]:
    """1.0 for each image that is recovered (PSNR >= 20 dB), 0.0 for the others."""
    return (ok["psnr"].fillna(-np.inf) >= SUCCESS_DB).astype(float)


def exact(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with what an exact copy counts as, `EXACT_DB`, in the place of infinite PSNR."""
    columns = [name for name in _MEASURES if name.startswith("psnr")]
    return rows.assign(**{name: rows[name].replace(np.inf, EXACT_DB) for name in columns})


def _compared(
    line: Line,
    lines: Sequence[Line],
    tested: Mapping[tuple[str, str], pd.DataFrame],
    victims: Mapping[tuple[str, str], pd.DataFrame],
) -> Line:
    """The line with what it loses against the undefended cell, and its lead over the first attacker of its own."""
    undefended, first = _undefended(line, lines), _first(line, lines)
    mine = tested[line.cell, line.attacker]
    return replace(
        line,
        undefended=undefended,
        drop=_lost(mine, tested[undefended, line.attacker] if undefended else mine.iloc[:0]),
        beside=first,
        lead=_lead(victims[line.cell, line.attacker], victims[line.cell, first] if first else None),
    )


def _undefended(line: Line, lines: Sequence[Line]) -> str | None:
    """The cell without a defense that the line is compared with; None where none compares.

    It has the same data, weights and rounds: the same settings of its own, but for those of the threat model.
    """
    plain = (
        other.cell
        for other in lines
        if other.defense == "none"
        and other.attacker == line.attacker
        and other.differs == line.differs_beside_threat
    )
    found = next(plain, None)
    return found if found != line.cell else None


def _first(line: Line, lines: Sequence[Line]) -> str | None:
    """The first attacker of the line's cell; None for that one itself."""
    first = next(other.attacker for other in lines if other.cell == line.cell)
    return first if line.attacker != first else None


def _lost(mine: pd.DataFrame, theirs: pd.DataFrame) -> Interval:
    """How much less PSNR an attacker has in `mine`, paired by victim, on images in both."""
    mine, theirs = _shared_images(mine, theirs), _shared_images(theirs, mine)
    return _mean(_psnr(theirs).sub(_psnr(mine)).dropna())


def _lead(mine: pd.DataFrame, theirs: pd.DataFrame | None) -> Interval:
    """How much more PSNR one attacker has than another in the same cell, paired by victim."""
    if theirs is None:
        return NOTHING
    return _mean(mine["psnr"].sub(theirs["psnr"]).dropna())


def _psnr(tested: pd.DataFrame) -> pd.Series[float]:
    """What `by_victim` has for PSNR, alone."""
    ok = tested[tested["status"] == "ok"]
    return ok.groupby([*_UNIT])["psnr"].mean()


def _shared_images(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The rows of images that `others` has of the same victim: an aggregate holds more than the victim's own."""
    keys = [*_UNIT, "image_id"]
    return rows[[*keys, "status", "psnr"]].merge(others[keys].drop_duplicates(), on=keys)


def _line(
    group: pd.DataFrame,
    tested: pd.DataFrame,
    victims: pd.DataFrame,
    winner: Winner | None,
    trainings: Sequence[UtilityResult],
) -> Line:
    """The line but for its comparisons with others."""
    first = group.iloc[0]
    ok = tested[tested["status"] == "ok"]
    control = float(victims["psnr_control"].mean())
    trials = group.drop_duplicates("trial_id")
    over_trials = tested.drop_duplicates("trial_id")
    return Line(
        cell=str(first["cell"]),
        attacker=str(first["attacker"]),
        defense=first["defense"],
        defense_params=first["defense_params"],
        signal=first["signal"],
        view=first["view"],
        round=first["round"],
        watched=1 if pd.isna(first["watched"]) else int(first["watched"]),
        epsilon_watched=np.nan if pd.isna(first["epsilon_watched"]) else float(first["epsilon_watched"]),
        weights_accuracy=first["weights_accuracy"],
        privacy=_privacy(first),
        differs=json.loads(first["differs"]),
        labels=json.loads(first["threat"])["labels"],
        methods=_methods(ok),
        notes=_notes(ok),
        n=len(victims),
        seeds=group["sweep_seed"].nunique(),
        images=len(ok),
        tests=tested["trial_id"].nunique(),
        tests_failed=tested.loc[tested["status"] == "failed", "trial_id"].nunique(),
        psnr=_mean(victims["psnr"], failed=control),
        psnr_preselected=_mean(_preselected(ok), failed=control),
        psnr_median=float(victims["psnr"].median()),
        psnr_worst=float(ok["psnr"].max()) if len(ok) else np.nan,
        success=_share(victims["success"], sizes=victims["images"]),
        control=control_of(victims),
        psnr_control=control,
        gain=_mean(victims["psnr"] - victims["psnr_control"]),
        over_prior=_mean(victims["psnr"] - victims["psnr_prior"]),
        label_match=float(ok["label_match"].astype(float).mean()) if len(ok) else np.nan,
        label_accuracy=_share(victims["label_accuracy"]),
        means={
            **{name: float(victims[name].mean()) for name in averaged("victims")},
            **{name: float(over_trials[name].mean()) for name in averaged("trials")},
        },
        utility=_utility(trainings),
        winner=winner,
        trials=len(trials),
        trials_failed=int((trials["status"] == "failed").sum()),
        failure=_commonest(trials.loc[trials["status"] == "failed", "error"]),
        not_observable=int((trials["status"] == "not_observable").sum()),
        undefended=None,
        drop=NOTHING,
        beside=None,
        lead=NOTHING,
    )


def _commonest(errors: pd.Series[str]) -> str:
    counts = errors.dropna().astype(object).value_counts(sort=True)
    return str(counts.index[0]) if len(counts) else ""


def _mean(values: pd.Series[float], *, failed: float = 0.0) -> Interval:
    """The mean of figures of victims; `values` are indexed as `by_victim` is."""
    return mean_interval(np.asarray(values, dtype=np.float64), failed=failed, clusters=_seeds(values))


def _share(values: pd.Series[float], *, sizes: pd.Series[int] | None = None) -> Interval:
    """The share of images, of which each victim has `sizes` many, or one; indexed as `by_victim` is."""
    weights = np.ones(len(values)) if sizes is None else np.asarray(sizes, dtype=np.float64)
    shares = np.asarray(values, dtype=np.float64)
    share = float(np.average(shares, weights=weights)) if len(shares) else np.nan
    seeds = _seeds(values)
    if len(set(seeds)) < 2:
        return share_interval(share, len(shares))
    return clustered_share_interval(share, shares, seeds)


def _seeds(values: pd.Series[Any]) -> npt.NDArray[np.int64]:
    return np.asarray(values.index.get_level_values("sweep_seed"), dtype=np.int64)


def _privacy(row: pd.Series[Any]) -> Privacy | None:
    if pd.isna(row["epsilon"]):
        return None
    return Privacy(
        epsilon=row["epsilon"],
        epsilon_release=row["epsilon_release"],
        delta=row["delta"],
        unit=row["dp_unit"],
        against=row["dp_against"],
        adjacency=row["adjacency"],
        epsilon_replace_one=_replace_one(row),
    )


def _utility(trainings: Sequence[UtilityResult]) -> Utility | None:
    if not trainings:
        return None
    return Utility(
        accuracy=_accuracy(trainings),
        majority=trainings[0].majority,
        trainings=len(trainings),
        diverged=any(one.diverged for one in trainings),
        not_finite=sum(one.not_finite for one in trainings),
    )


def _accuracy(trainings: Sequence[UtilityResult]) -> Interval:
    """One training's with its exact interval over validation images, or the mean of several with that over seeds."""
    if len(trainings) == 1:
        return Interval(trainings[0].accuracy, trainings[0].low, trainings[0].high)
    values = np.array([one.accuracy for one in trainings], dtype=np.float64)
    return mean_interval(values, failed=trainings[0].majority)


def _replace_one(row: pd.Series[Any]) -> float:
    """The row's total epsilon under `replace_one` adjacency; NaN under amplification."""
    if row["sampling_rate"] != 1.0:
        return np.nan
    epsilon = float(row["epsilon"])
    return epsilon if row["adjacency"] == "replace_one" else replace_one_epsilon(epsilon, float(row["delta"]))


def _preselected(ok: pd.DataFrame) -> pd.Series[float]:
    """The PSNR of each victim's preselected image; an image for which nothing was reconstructed has none."""
    chosen = ok[ok["preselected"].astype("boolean").fillna(False)]
    return chosen.set_index([*_UNIT])["psnr"]


def _methods(ok: pd.DataFrame) -> dict[str, int]:
    """What really ran and how often, the most frequent first."""
    counts = ok.drop_duplicates("trial_id")["method"].astype(object).value_counts()
    return {str(method): int(count) for method, count in counts.items()}


def _notes(ok: pd.DataFrame) -> tuple[str, ...]:
    """Each thing that attacks said of their choice, the most frequent first."""
    told = ok.drop_duplicates("trial_id")["notes"].dropna().astype(object).map(json.loads).explode().dropna()
    return tuple(str(note) for note in told.value_counts().index)


def winners(folder: Path) -> dict[str, Winner]:
    """The winning suggestion of each study that has one, by the sweep's objectives."""
    found, config = {}, claimed(folder)
    within = (config.study.within or 0.0) if config else 0.0
    weighs = config is not None and config.study.weighs_work
    for study, group in read_studies(folder).groupby("study", sort=False):
        told = group[group["state"] == "ok"]
        known = bool(told["work"].notna().all())
        measured = [
            Measured(number, value, work if known else 0.0)
            for number, value, work in told[["suggestion", "value", "work"]].itertuples(index=False)
        ]
        # Where PSNR alone counts, the earlier of equals wins, whatever their work.
        best = choose(measured if weighs else [replace(each, work=0.0) for each in measured], within=within)
        if best is None:
            continue
        row = told[told["suggestion"] == best.suggestion].iloc[0]
        found[str(study)] = Winner(
            suggestion=int(best.suggestion),
            value=float(best.psnr),
            params=json.loads(row["params"]),
            count=len(group),
            work=float(row["work"]) if known else math.nan,
            front=tuple(front(measured)) if known else (),
        )
    return found


def _check_whole(
    folder: Path,
    groups: Mapping[tuple[str, str], pd.DataFrame],
    reached: Mapping[str, Sequence[UtilityResult]],
) -> None:
    """Raise `InputError` where a file is gone that the rows speak of: figures without it would be other ones."""
    tuned = set(read_studies(folder)["study"])
    for (cell, _), group in groups.items():
        for name, rows in _by_study(group).items():
            if rows["suggestion"].notna().any() and name not in tuned:
                raise InputError(
                    f"{folder / 'studies' / 'studies.parquet'} lacks the suggestions of {name}, which trials are of; "
                    "run the sweep again, which makes them again."
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
