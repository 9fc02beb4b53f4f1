"""The report of a results folder: summary.parquet, figures, and one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from attack_core.metrics.metrics import EXACT_DB
from fl_core.base.types import clipped_to_zeros
from orchestrator.analysis.comparison import attackers, by_cell
from orchestrator.analysis.intervals import FEWEST, Interval
from orchestrator.analysis.lines import Line, Privacy, Utility
from orchestrator.analysis.rounds import by_round
from orchestrator.analysis.strength import CriticalLine, critical_lines, write_critical
from orchestrator.analysis.summary import SUCCESS_DB, write_summary
from orchestrator.config.own import shown
from orchestrator.io.files import write_atomically
from orchestrator.io.guard import refuse_links
from orchestrator.report.conclusions import LABELS, majority, utility_verdict, verdict
from orchestrator.report.notes import chance
from orchestrator.report.reader import Results
from orchestrator.report.remaining import pairs
from orchestrator.report.sections import figures, gallery
from orchestrator.report.terminal import (
    CRITERIA,
    NO_FIGURE,
    SUM_HEADINGS,
    bounds,
    critical_bracket,
    critical_interval,
    critical_notes,
    critical_value,
    interval,
    megabytes,
    number,
    parameters,
    percent,
    percents,
    sum_costs,
    summed_cells,
)
from orchestrator.results.columns import SUMMARY, Column
from orchestrator.results.store import warn_of_strays

Entry = dict[str, Any]


def write_report(folder: Path, lines: Sequence[Line], critical: Sequence[CriticalLine] | None = None) -> Path:
    """Write summary, figures and `report.html` of the folder that `lines` summarize; the page's path.

    `critical` holds the folder's `critical_lines`, for who has them already: their intervals take a while. Raises
    `InputError` where the folder holds no results.
    """
    refuse_links(folder)
    warn_of_strays(folder)
    write_summary(folder, lines)
    if critical is None:
        critical = critical_lines(folder, lines)
    write_critical(folder, critical)
    results = Results(folder, lines)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=results.name,
            facts=_facts(results),
            synthetic=any(str(data).startswith("synthetic") for data in results.rows["data"]),
            unfinished=_unfinished(results),
            fewest=FEWEST,
            chance=chance(lines),
            exact=EXACT_DB if (results.rows["psnr"] == float("inf")).any() else None,
            success_db=f"{SUCCESS_DB:.0f}",
            budgets=_budgets(results),
            summary=_summary(results),
            compared=_compared(lines),
            summed=_summed(lines),
            rounds=_rounds(lines),
            critical=_critical(critical),
            critical_notes=critical_notes(critical),
            footnotes=_footnotes(results),
            lpips_missing=_lpips_missing(results),
            verdicts=_verdicts(results),
            figures=figures(results),
            gallery=gallery(results),
            failures=_failures(results.rows),
            config=json.dumps(shown(results.config), indent=2, ensure_ascii=False)
            if results.config
            else None,
            versions=_versions(results.rows),
        )
    )
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _facts(results: Results) -> list[tuple[str, str]]:
    rows, config = results.rows, results.config
    facts = [
        ("Trials started", _period(rows["started_at"])),
        ("Data", _distinct(rows["data"].str.replace(":", ", fingerprint "))),
        ("Model", _distinct(rows["model"])),
        ("Attacked weights", f"{_distinct(rows['weights'].str.partition(':')[0])}{_accuracies(rows)}"),
        ("Signal", f"{_distinct(rows['signal'])}, seen as {_distinct(rows['view'])}"),
        ("Images behind a signal", f"local batches of {_distinct(rows['batch_size'])}"),
        ("Round", f"{_distinct(rows['round'])} of {_distinct(rows['rounds'])} planned (counted from 0)"),
    ]
    if config:
        victims, study, threat = config["victims"], config["study"], config["threat"]
        searched = any(attacker["search"] or attacker["families"] for attacker in config["attackers"])
        budget = f"{_amount(study)} ({study['sampler']}), each on {victims['tuning']} tuning victims"
        facts += [
            (
                "Threat model",
                f"labels {threat['labels']}, {'knows' if threat['knows_defense'] else 'ignorant of'} "
                "the defense in force",
            ),
            ("Victims", f"{victims['test']} for testing, {victims['tuning']} others for tuning"),
            (
                "Tuning budget",
                f"{budget}; the same in every cell{_terms(study)}" if searched else "none",
            ),
            ("Seed", _seeds(config)),
        ]
    commit = _distinct(rows["git_commit"]) or "not recorded"
    return [*facts, ("Device", _distinct(rows["device"])), ("Commit", commit)]


def _amount(study: Entry) -> str:
    """What every study may spend."""
    if study["sampler"] == "grid":
        return "every combination"
    for name, unit in (("seconds", "s"), ("gpu_seconds", "GPU-seconds")):
        if study.get(name) is not None:
            return f"{study[name]:g} {unit} of attack time"
    return f"{study['suggestions']} suggestions"


def _terms(study: Entry) -> str:
    """What else holds for every study."""
    said = ""
    if _timed(study):
        said += "; how much fits into it depends on the machine, so the suggestions are not reproducible"
    if study.get("prune") is not None:
        said += f"; left unfinished when more than {study['prune']:g} dB behind the best"
    if study.get("warm_start") is not None:
        said += f"; first tried: the best of {study['warm_start']}"
    return said


def _timed(study: Entry) -> bool:
    return study.get("seconds") is not None or study.get("gpu_seconds") is not None


def _budgets(results: Results) -> list[int]:
    """The studies' numbers of suggestions, each once; none where time was the budget."""
    if results.config and _timed(results.config["study"]):
        return []
    return sorted({line.winner.count for line in results.lines if line.winner})


def _period(started: pd.Series[pd.Timestamp]) -> str:
    first, last = started.min(), started.max()
    date = "" if first.date() == last.date() else f"{last:%Y-%m-%d} "
    return f"{first:%Y-%m-%d %H:%M} to {date}{last:%H:%M} UTC"


def _distinct(column: pd.Series[Any]) -> str:
    return ", ".join(sorted({str(value) for value in column.dropna()}))


def _accuracies(rows: pd.DataFrame) -> str:
    """The accuracy of the attacked weights; nothing where none was measured."""
    found = " / ".join(percent(value) for value in sorted(rows["weights_accuracy"].dropna().unique()))
    return f", accuracy {found} on validation images" if found else ""


def _unfinished(results: Results) -> list[str]:
    """Which cells and attackers still lack test victims."""
    return [
        f"{pair.name}: {pair.tests} of {pair.tests_planned} test victims"
        for pair in pairs(results)
        if pair.tests < pair.tests_planned
    ]


def _summary(results: Results) -> list[Entry]:
    marks = {name: i for i, (name, _) in enumerate(_footnotes(results), start=1)}
    means = [
        column
        for column in SUMMARY
        if column.label
        and (not column.sparse or any(not math.isnan(line.means[column.name]) for line in results.lines))
    ]
    return [
        {
            "cell": line.cell,
            "attacker": line.attacker,
            "mark": marks.get(line.cell),
            "entries": _measured(line, means) + _circumstances(line),
        }
        for line in results.lines
    ]


def _entry(label: str, value: str, *notes: str, figure: bool = True, warning: str = "") -> Entry:
    """A cell of a table: a value, and below it notes of a line each, such as its interval; empty ones are left out."""
    shown = [note for note in notes if note]
    return {"label": label, "value": value, "notes": shown, "figure": figure, "warning": warning}


def _mean(label: str, found: Interval, *notes: str) -> Entry:
    """A mean with its interval."""
    return _entry(label, number(found.mean), bounds(found), *notes)


def _share(label: str, found: Interval, *notes: str, warning: str = "") -> Entry:
    """A share with its interval."""
    return _entry(
        label, percent(found.mean), percents(found) if found.bounded else "", *notes, warning=warning
    )


def _compared(lines: Sequence[Line]) -> list[Entry]:
    """Attackers side by side: a line for each cell."""
    compared = by_cell(lines)
    return [
        {
            "cell": one.cell,
            "entries": [
                *(_attacked(name, one.lines.get(name)) for name in attackers(compared)),
                _entry("Worst, dB", number(one.strongest.psnr_worst), one.strongest.attacker),
                _entry("Control, dB", number(one.strongest.psnr_control)),
                _entry("ε total", _budget(one.strongest), *_adjacency(one.strongest.privacy)),
                _entry("Accuracy", _accuracy(one.strongest)),
                _entry("MB up", megabytes(one.strongest.means["bytes_up"])),
                _entry("s/attack", number(one.strongest.means["seconds"])),
            ],
        }
        for one in compared
    ]


def _summed(lines: Sequence[Line]) -> list[Entry]:
    """What secure sums cost, a line for each cell that has one."""
    return [
        {
            "cell": line.cell,
            "entries": [_entry(*pair) for pair in zip(SUM_HEADINGS, sum_costs(line), strict=True)],
        }
        for line in summed_cells(lines)
    ]


def _attacked(name: str, line: Line | None) -> Entry:
    """What one attacker reaches in a cell, and its lead over the first one there."""
    label = f"{name}, dB"
    if line is None:
        return _entry(label, NO_FIGURE)
    if line.hidden:
        return _entry(label, NO_FIGURE, "not observable")
    return _mean(label, line.psnr, f"lead {interval(line.lead)}" if line.lead.measured else "")


def _critical(critical: Sequence[CriticalLine]) -> list[Entry]:
    """Where each defense begins to work, a line for each threshold, attacker and criterion."""
    return [
        {
            "threshold": line.threshold,
            "attacker": line.attacker,
            "entries": [
                _entry("Strength", line.strength, figure=False),
                _entry("Works when", CRITERIA[line.criterion.name], figure=False),
                _entry("Critical strength", critical_value(line)),
                _entry("95%", critical_interval(line)),
                _entry("Bracket", critical_bracket(line)),
                _entry("n", str(line.victims), f"{line.strengths} strengths"),
                _entry("Accuracy there", percent(line.accuracy)),
            ],
        }
        for line in critical
    ]


def _measured(line: Line, means: Sequence[Column]) -> list[Entry]:
    """The figures of a line; `means` are the columns that are shown as they are."""
    by_sparse = {
        sparse: [
            _entry(column.label, number(line.means[column.name], column.digits))
            for column in means
            if column.sparse is sparse
        ]
        for sparse in (False, True)
    }
    reached = f"{line.reached} of {line.images}" if line.success.measured else ""
    return [
        _entry("n", str(line.n)),
        _mean("PSNR, dB", line.psnr),
        _entry("Worst, dB", number(line.psnr_worst)),
        _share("Success", line.success, reached),
        _mean("Gain, dB", line.gain, f"{line.control.name} {number(line.psnr_control)}"),
        *by_sparse[False],
        _labels(line),
        *by_sparse[True],
    ]


def _labels(line: Line) -> Entry:
    return _entry("Labels", "known") if line.labels == "known" else _share("Labels", line.label_accuracy)


def _circumstances(line: Line) -> list[Entry]:
    winner, utility = line.winner, line.utility
    won = f"suggestion {winner.suggestion} (0 to {winner.count - 1})" if winner is not None else "no search"
    winning = (parameters(winner.params) or [NO_FIGURE]) if winner is not None else []
    hidden = f"{line.not_observable} not observable" if line.not_observable else ""
    return [
        _entry("ε total", _budget(line), *_statement(line.privacy)),
        _entry("Accuracy", NO_FIGURE) if utility is None else _trained(utility),
        _entry("s/attack", number(line.means["seconds"])),
        _entry("Winning parameters", won, *winning, figure=False),
        _entry("Failed", f"{line.trials_failed} of {line.trials}", hidden),
    ]


def _trained(utility: Utility) -> Entry:
    """The accuracy that the defense leaves."""
    clipped = clipped_to_zeros(utility.not_finite) if utility.not_finite else ""
    warning = "diverged" if utility.diverged else ""
    return _share("Accuracy", utility.accuracy, majority(utility), clipped, warning=warning)


def _accuracy(line: Line) -> str:
    return NO_FIGURE if line.utility is None else percent(line.utility.accuracy.mean)


def _rounds(lines: Sequence[Line]) -> list[Entry]:
    """Quality against round and accuracy, a line for each cell and attacker of a series."""
    return [
        {
            "series": series.name,
            "cell": line.cell,
            "entries": [
                _entry("Round", str(line.round)),
                _entry("Accuracy of the weights", percent(line.weights_accuracy)),
                _entry("n", str(line.n)),
                _mean("PSNR, dB", line.psnr),
                _entry("Worst, dB", number(line.psnr_worst)),
                _labels(line),
            ],
        }
        for series in by_round(lines)
        for line in series.lines
    ]


def _budget(line: Line) -> str:
    """The total epsilon, where there is a statement."""
    return NO_FIGURE if line.privacy is None else f"{line.privacy.epsilon:.3g}"


def _statement(privacy: Privacy | None) -> list[str]:
    """What a total epsilon is about."""
    if privacy is None:
        return []
    release = f"{privacy.epsilon_release:.3g} a release"
    return [*_adjacency(privacy), release, f"per {privacy.unit}", _protects(privacy.against)]


def _adjacency(privacy: Privacy | None) -> list[str]:
    """The adjacency that an epsilon is about, and the epsilon of the same noise under the stricter one."""
    if privacy is None:
        return []
    other = privacy.epsilon_replace_one
    stricter = privacy.adjacency == "zero_out" and not math.isnan(other)
    return [privacy.adjacency, *([f"{other:.3g} under replace_one"] if stricter else [])]


def _protects(against: str) -> str:
    """Whom the statement protects from, in words: who sees more than the adversary named here is not covered."""
    return (
        "against the server" if against == "server" else "against who sees the models; none from the server"
    )


def _footnotes(results: Results) -> list[tuple[str, str]]:
    """For each cell that differs in more than its defense: in what, and its own settings beside the common ones."""
    found: dict[str, str] = {}
    for line in results.lines:
        if line.differs:
            what = (
                "has a threat model of its own, with the same data, weights and rounds"
                if line.differs_in_threat_alone
                else "differs from the others in more than its defense, so compare it with care"
            )
            settings = [
                f"{path} = {json.dumps(value)} (the others: {_common(results.config, path)})"
                for path, value in line.differs.items()
            ]
            found[line.cell] = f"{what}: {'; '.join(settings)}"
    return list(found.items())


def _seeds(config: Entry) -> str:
    """The seed, or the first and the last of several."""
    first, last = config["seed"], config["seed"] + config["seeds"] - 1
    return str(first) if first == last else f"{first} to {last}"


def _common(config: Entry, path: str) -> str:
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return json.dumps(node)


def _lpips_missing(results: Results) -> str | None:
    """Why the summary has no LPIPS; None where it has."""
    if any(not math.isnan(line.means["lpips"]) for line in results.lines):
        return None
    if not results.config.get("execution", {}).get("lpips"):
        return "it was not asked for (execution.lpips)"
    return "AlexNet's weights were not there, or no test image was reconstructed"


def _verdicts(results: Results) -> list[Entry]:
    """The verdicts by cell, each cell with the gravest of its attackers' levels."""
    cells = []
    for cell in dict.fromkeys(line.cell for line in results.lines):
        lines = [line for line in results.lines if line.cell == cell]
        found = [verdict(line, planned=results.planned) for line in lines]
        best = max((line.psnr.mean for line in lines if line.psnr.measured), default=None)
        attackers = [
            {
                "attacker": line.attacker,
                "level": said.level,
                "label": LABELS[said.level],
                "text": said.text,
                "method": line.method,
                "notes": list(line.notes),
                "strongest": len(lines) > 1 and line.psnr.mean == best,
            }
            for line, said in zip(lines, found, strict=True)
        ]
        level = min((said.level for said in found), key=list(LABELS).index)
        utility = utility_verdict(lines[0].utility)
        cells.append({"cell": cell, "level": level, "attackers": attackers, "utility": utility})
    return cells


def _failures(rows: pd.DataFrame) -> list[Entry]:
    """Trials that ended without scores, those with the same error on one line."""
    ended = rows[rows["status"] != "ok"].drop_duplicates("trial_id")
    ended = ended.assign(error=ended["error"].fillna("no message"))
    groups = ended.groupby(["cell", "attacker", "phase", "status", "error"], sort=False)
    return [
        {
            **dict(zip(("cell", "attacker", "phase", "status", "error"), key, strict=True)),
            "count": len(group),
            "victims": ", ".join(str(victim) for victim in sorted(set(group["victim"]))),
            "trial": group["trial_id"].iloc[0],
        }
        for key, group in groups
    ]


def _versions(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Each package with its versions; more than one where the folder was continued after an update."""
    found: dict[str, list[str]] = {}
    for text in rows["versions"].dropna().unique():
        for package, number_ in json.loads(text).items():
            found.setdefault(package, []).append(number_)
    return [(package, ", ".join(sorted(set(numbers)))) for package, numbers in found.items()]
