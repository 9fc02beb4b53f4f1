"""The report of a results folder: summary.parquet, figures, and one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fl_core.base.decibels import EXACT_DB
from orchestrator.analysis.between.standing import standings
from orchestrator.analysis.importance import FEWEST_SUGGESTIONS, importances
from orchestrator.analysis.intervals import FEWEST
from orchestrator.analysis.lines import Line
from orchestrator.analysis.strength import CriticalLine, critical_lines, write_critical
from orchestrator.analysis.summary import SUCCESS_DB, write_summary
from orchestrator.config.own import shown
from orchestrator.io.files import write_atomically
from orchestrator.io.guard import refuse_links
from orchestrator.pages.self_contained import data_uri, environment
from orchestrator.report import tables
from orchestrator.report.answers import answered
from orchestrator.report.conclusions import LABELS, utility_verdict, verdict
from orchestrator.report.figures.gallery import gallery
from orchestrator.report.notes import chance
from orchestrator.report.reader import Results
from orchestrator.report.remaining import pairs
from orchestrator.report.sections import figures
from orchestrator.report.terminal import critical_notes, percent
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
    footnotes = _footnotes(results)
    groups = standings(lines, results.victims)
    page = (
        environment("orchestrator.report")
        .get_template("report.html")
        .render(
            scripted=True,
            title=results.name,
            synthetic=any(str(data).startswith("synthetic") for data in results.rows["data"]),
            unfinished=_unfinished(results),
            answered=answered(groups, lines, planned=results.planned),
            summary=tables.summary(
                lines,
                planned=results.planned,
                marks={name: i for i, (name, _) in enumerate(footnotes, start=1)},
            ),
            further=tables.further(lines),
            footnotes=footnotes,
            lpips_missing=_lpips_missing(results),
            figures=figures(results),
            standings=[(group, tables.standing(group)) for group in groups if len(group.standings) > 1],
            importance=tables.importance(importances(results.studies, results.spaces)),
            fewest_suggestions=FEWEST_SUGGESTIONS,
            compared=tables.compared(lines),
            summed=tables.summed(lines),
            rounds=tables.rounds(lines),
            critical=tables.critical(critical),
            critical_notes=critical_notes(critical),
            verdicts=_verdicts(results),
            fewest=FEWEST,
            chance=chance(lines),
            exact=EXACT_DB if (results.rows["psnr"] == float("inf")).any() else None,
            success_db=f"{SUCCESS_DB:.0f}",
            budgets=_budgets(results),
            gallery=gallery(results),
            facts=_facts(results),
            failures=_failures(results.rows),
            versions=_versions(results.rows),
            **_repeating(results),
        )
    )
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


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
    if study.get("halving") is not None:
        part, victims, keep = (percent(study["halving"][name]) for name in ("iterations", "victims", "keep"))
        said += (
            f"; first with {part} of the iterations on {victims} of the victims, the best {keep} then whole"
        )
    if study.get("within") is not None:
        said += f"; the least work at most {study['within']:g} dB behind the best wins"
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


def _repeating(results: Results) -> Entry:
    """The configuration as text and as a file to save, and the command of each cell's rows with that file."""
    if not results.config:
        return {"config": None, "config_file": None, "config_name": None, "commands": []}
    text = json.dumps(shown(results.config), indent=2, ensure_ascii=False)
    name = f"{results.name}.yaml"
    cells = dict.fromkeys(line.cell for line in results.lines)
    return {
        "config": text,
        # JSON is YAML, so what is saved is a sweep file.
        "config_file": data_uri(text.encode(), "application/yaml"),
        "config_name": name,
        "commands": [
            (cell, f"gradsweep sweep {shlex.quote(name)} --cells {shlex.quote(cell)} --out again")
            for cell in cells
        ],
    }
