"""The report of a results folder: summary.parquet, figures, and one HTML page that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from attack_core.metrics.metrics import EXACT_DB
from fl_core.base.types import clipped_to_zeros
from orchestrator.analysis.comparison import attackers, by_cell, is_hidden
from orchestrator.analysis.intervals import FEWEST
from orchestrator.analysis.rounds import by_round
from orchestrator.analysis.strength import critical_table, write_critical
from orchestrator.analysis.summary import SUCCESS_DB, differs_in_threat_alone, records, write_summary
from orchestrator.io.files import write_atomically
from orchestrator.io.guard import refuse_links
from orchestrator.report.conclusions import LABELS, accuracy, share, utility_verdict, verdict
from orchestrator.report.notes import chance
from orchestrator.report.reader import Results
from orchestrator.report.remaining import pairs
from orchestrator.report.sections import figures, gallery
from orchestrator.report.terminal import (
    CRITERIA,
    SUM_HEADINGS,
    critical_bracket,
    critical_interval,
    critical_notes,
    critical_value,
    interval,
    labels,
    megabytes,
    number,
    parameters,
    percent,
    sum_costs,
    summed_cells,
)
from orchestrator.results.store import warn_of_strays

Entry = dict[str, Any]


def write_report(folder: Path, table: pd.DataFrame, critical: pd.DataFrame | None = None) -> Path:
    """Write summary, figures and `report.html` of the folder that `table` summarizes; the page's path.

    `critical` is the folder's `critical_table`, for who has it already: its intervals take a while. Raises
    `InputError` where the folder holds no results.
    """
    refuse_links(folder)
    warn_of_strays(folder)
    write_summary(folder, table)
    if critical is None:
        critical = critical_table(folder, table)
    write_critical(folder, critical)
    results = Results(folder, table)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title=results.name,
            facts=_facts(results),
            synthetic=any(str(data).startswith("synthetic") for data in results.rows["data"]),
            unfinished=_unfinished(results),
            fewest=FEWEST,
            chance=chance(table),
            exact=EXACT_DB if (results.rows["psnr"] == float("inf")).any() else None,
            success_db=f"{SUCCESS_DB:.0f}",
            budgets=_budgets(results),
            summary=_summary(results),
            compared=_compared(results.table),
            summed=_summed(results.table),
            rounds=_rounds(results),
            critical=_critical(critical),
            critical_notes=critical_notes(critical) if len(critical) else [],
            footnotes=_footnotes(results),
            lpips_missing=_lpips_missing(results),
            verdicts=_verdicts(results),
            figures=figures(results),
            gallery=gallery(results),
            failures=_failures(results.rows),
            config=json.dumps(results.config, indent=2, ensure_ascii=False) if results.config else None,
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
            ("Seed", str(config["seed"])),
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
    counts = results.table["suggestions"]
    return sorted(set(counts[counts > 0]))


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
    has_lpips = bool(results.table["lpips"].notna().any())
    return [
        {
            "cell": line["cell"],
            "attacker": line["attacker"],
            "mark": marks.get(line["cell"]),
            "entries": _measured(line, has_lpips=has_lpips) + _circumstances(line),
        }
        for line in results.lines
    ]


def _entry(label: str, text: str, *notes: str, figure: bool = True, warning: str = "") -> Entry:
    """A cell of the summary; an interval in `text` goes onto a line of its own."""
    value, bracket, rest = text.partition(" [")
    shown = [note for note in (f"[{rest}" if bracket else "", *notes) if note]
    return {"label": label, "value": value, "notes": shown, "figure": figure, "warning": warning}


def _compared(table: pd.DataFrame) -> list[Entry]:
    """Attackers side by side: a line for each cell."""
    compared = by_cell(table)
    return [
        {
            "cell": one.cell,
            "entries": [
                *(_attacked(name, one.lines.get(name)) for name in attackers(compared)),
                _entry("Worst, dB", number(one.strongest["psnr_worst"]), f"{one.strongest['attacker']}"),
                _entry("Control, dB", number(one.strongest["psnr_control"])),
                _entry("ε total", _epsilon(one.strongest["epsilon"]), *_adjacency(one.strongest)),
                _entry("Accuracy", percent(one.strongest["accuracy"])),
                _entry("MB up", megabytes(one.strongest["bytes_up"])),
                _entry("s/attack", number(one.strongest["seconds"])),
            ],
        }
        for one in compared
    ]


def _summed(table: pd.DataFrame) -> list[Entry]:
    """What secure sums cost, a line for each cell that has one."""
    return [
        {
            "cell": line["cell"],
            "entries": [_entry(*pair) for pair in zip(SUM_HEADINGS, sum_costs(line), strict=True)],
        }
        for line in summed_cells(table)
    ]


def _attacked(name: str, line: Entry | None) -> Entry:
    """What one attacker reaches in a cell, and its lead over the first one there."""
    label = f"{name}, dB"
    if line is None:
        return _entry(label, "-")
    if is_hidden(line):
        return _entry(label, "-", "not observable")
    reached = interval(line["psnr"], line["psnr_low"], line["psnr_high"])
    lead = f"lead {interval(line['lead'], line['lead_low'], line['lead_high'])}"
    return _entry(label, reached, "" if pd.isna(line["lead"]) else lead)


def _critical(critical: pd.DataFrame) -> list[Entry]:
    """Where each defense begins to work, a line for each threshold, attacker and criterion."""
    return [
        {
            "threshold": line["threshold"],
            "attacker": line["attacker"],
            "entries": [
                _entry("Strength", line["strength"], figure=False),
                _entry("Works when", CRITERIA[line["criterion"]], figure=False),
                _entry("Critical strength", critical_value(line)),
                _entry("95%", critical_interval(line)),
                _entry("Bracket", critical_bracket(line)),
                _entry("n", str(line["victims"]), f"{line['strengths']} strengths"),
                _entry("Accuracy there", percent(line["accuracy"])),
            ],
        }
        for line in records(critical)
    ]


def _measured(line: Entry, *, has_lpips: bool) -> list[Entry]:
    gain = interval(line["gain"], line["gain_low"], line["gain_high"])
    return [
        _entry("n", str(line["n"])),
        _entry("PSNR, dB", interval(line["psnr"], line["psnr_low"], line["psnr_high"])),
        _entry("Worst, dB", number(line["psnr_worst"])),
        _entry("Success", *share(line)),
        _entry("Gain, dB", gain, f"{line['control']} {number(line['psnr_control'])}"),
        _entry("Prior, dB", number(line["psnr_prior"])),
        _entry("SSIM", number(line["ssim"], 2)),
        _entry("Labels", labels(line)),
        *([_entry("LPIPS", number(line["lpips"], 3))] if has_lpips else []),
    ]


def _circumstances(line: Entry) -> list[Entry]:
    release = _epsilon(line["epsilon_release"])
    privacy = (
        [*_adjacency(line), f"{release} a release", f"per {line['dp_unit']}", _protects(line["dp_against"])]
        if release != "-"
        else []
    )
    reached, _, majority = accuracy(line).partition(", majority")
    not_finite = number(line["not_finite"], 0)
    in_training = "" if not_finite in ("-", "0") else clipped_to_zeros(int(not_finite))
    searched = line["suggestions"] > 0
    winner = (
        f"suggestion {line['suggestion']:.0f} (0 to {line['suggestions'] - 1})" if searched else "no search"
    )
    winning = parameters(line["hyperparameters"]).split(", ") if searched else []
    hidden = f"{line['not_observable']} not observable" if line["not_observable"] else ""
    return [
        _entry("ε total", _epsilon(line["epsilon"]), *privacy),
        _entry(
            "Accuracy",
            reached,
            f"majority{majority}" if majority else "",
            in_training,
            warning="diverged" if line["diverged"] is True else "",
        ),
        _entry("s/attack", number(line["seconds"])),
        _entry("Winning parameters", winner, *winning, figure=False),
        _entry("Failed", f"{line['trials_failed']} of {line['trials']}", hidden),
    ]


def _rounds(results: Results) -> list[Entry]:
    """Quality against round and accuracy, a line for each cell and attacker of a series."""
    return [
        {
            "series": line["series"],
            "cell": line["cell"],
            "entries": [
                _entry("Round", str(line["round"])),
                _entry("Accuracy of the weights", percent(line["weights_accuracy"])),
                _entry("n", str(line["n"])),
                _entry("PSNR, dB", interval(line["psnr"], line["psnr_low"], line["psnr_high"])),
                _entry("Worst, dB", number(line["psnr_worst"])),
                _entry("Labels", labels(line)),
            ],
        }
        for line in records(by_round(results.table))
    ]


def _epsilon(value: float | None) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:.3g}"


def _adjacency(line: Entry) -> list[str]:
    """The adjacency that the line's epsilon is about, and the epsilon of the same noise under the stricter one."""
    if _epsilon(line["epsilon"]) == "-":
        return []
    other = _epsilon(line["epsilon_replace_one"])
    stricter = line["adjacency"] == "zero_out" and other != "-"
    return [str(line["adjacency"]), *([f"{other} under replace_one"] if stricter else [])]


def _protects(against: str) -> str:
    """Whom the statement protects from, in words: who sees more than the adversary named here is not covered."""
    return (
        "against the server" if against == "server" else "against who sees the models; none from the server"
    )


def _footnotes(results: Results) -> list[tuple[str, str]]:
    """For each cell that differs in more than its defense: in what, and its own settings beside the common ones."""
    found: dict[str, str] = {}
    for line in results.lines:
        own = json.loads(line["differs"])
        if own:
            alone = differs_in_threat_alone(line["differs"])
            what = (
                "has a threat model of its own, with the same data, weights and rounds"
                if alone
                else "differs from the others in more than its defense, so compare it with care"
            )
            settings = [
                f"{path} = {json.dumps(value)} (the others: {_common(results.config, path)})"
                for path, value in own.items()
            ]
            found[line["cell"]] = f"{what}: {'; '.join(settings)}"
    return list(found.items())


def _common(config: Entry, path: str) -> str:
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return json.dumps(node)


def _lpips_missing(results: Results) -> str | None:
    """Why the summary has no LPIPS; None where it has."""
    if results.table["lpips"].notna().any():
        return None
    if not results.config.get("execution", {}).get("lpips"):
        return "it was not asked for (execution.lpips)"
    return "AlexNet's weights were not there, or no test image was reconstructed"


def _verdicts(results: Results) -> list[Entry]:
    """The verdicts by cell, each cell with the gravest of its attackers' levels."""
    cells = []
    for cell in dict.fromkeys(line["cell"] for line in results.lines):
        lines = [line for line in results.lines if line["cell"] == cell]
        found = [verdict(line, planned=results.planned) for line in lines]
        best = max((line["psnr"] for line in lines if not pd.isna(line["psnr"])), default=None)
        attackers = [
            {
                "attacker": line["attacker"],
                "level": said.level,
                "label": LABELS[said.level],
                "text": said.text,
                "method": line["method"],
                "notes": json.loads(line["notes"]),
                "strongest": len(lines) > 1 and line["psnr"] == best,
            }
            for line, said in zip(lines, found, strict=True)
        ]
        level = min((said.level for said in found), key=list(LABELS).index)
        utility = utility_verdict(lines[0])
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
