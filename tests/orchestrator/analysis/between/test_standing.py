"""Where cells stand: grouped by what compares, by their strongest attacker, with ranks, differences and the front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.analysis.between.standing import Group, standings
from orchestrator.analysis.summary import summarized
from orchestrator.config.sweep import CellConfig, SweepConfig, VictimsConfig
from orchestrator.report.answers import Answered, answered
from orchestrator.results.store import FinishedTrial
from tests.support.reports import write
from tests.support.results_folder import failed_row, row, trial, write_folder

VICTIMS = 8
SPREAD = np.linspace(-0.5, 0.5, VICTIMS)


def trials(cell: str, level: float, attacker: str = "generic", **changes: Any) -> list[FinishedTrial]:
    """`VICTIMS` victims around a level; a control has 11 dB."""
    return [
        trial(row(cell, victim, float(level + spread), attacker=attacker, bytes_up=4_000_000, **changes))
        for victim, spread in enumerate(SPREAD, start=2)
    ]


def folder(path: Path, tests: list[FinishedTrial], **accuracies: float) -> Path:
    cells = tuple(dict.fromkeys(entry.rows[0]["cell"] for entry in tests))
    config = SweepConfig(
        name="small",
        cells=tuple(CellConfig(name=cell) for cell in cells),
        victims=VictimsConfig(tuning=2, test=VICTIMS),
    )
    utility = {
        cell: {"accuracy": value, "low": value - 0.05, "high": value + 0.05}
        for cell, value in accuracies.items()
    }
    return write_folder(path, tests, config=config, utility=utility)


def groups(path: Path) -> tuple[Group, ...]:
    return standings(*summarized(path))


def told(path: Path) -> list[Answered]:
    lines, victims = summarized(path)
    return answered(standings(lines, victims), lines)


def three(path: Path) -> Path:
    tests = [*trials("none", 40.0), *trials("weak", 30.0), *trials("strong", 11.0)]
    tests += [*trials("weak", 33.0, "adaptive"), *trials("strong", 10.0, "adaptive")]
    return folder(path, tests, none=0.8, weak=0.79, strong=0.6)


def test_cells_are_ranked_by_their_strongest_attacker(tmp_path: Path) -> None:
    (group,) = groups(three(tmp_path))
    assert [(each.line.cell, each.line.attacker, each.rank) for each in group.standings] == [
        ("strong", "generic", 1),
        ("weak", "adaptive", 2),
        ("none", "generic", 3),
    ]
    assert [(each.rank_low, each.rank_high) for each in group.standings] == [(1, 1), (2, 2), (3, 3)]
    assert group.undefended == "none"
    assert (group.victims, group.seeds) == (VICTIMS, 1)
    # None minus strong: 40 - 11 for every victim; two comparisons of eight victims.
    against = group.standings[0].against
    assert (against.mean, group.standings[0].p_holm) == (
        pytest.approx(29.0),
        pytest.approx(2 * 2 / 2**VICTIMS),
    )
    assert np.isnan(group.standings[2].against.mean)
    assert [each.front for each in group.standings] == [True, True, True]


def test_a_cell_that_another_beats_is_not_on_the_front_and_one_without_accuracy_is_unknown(
    tmp_path: Path,
) -> None:
    tests = [*trials("none", 40.0), *trials("good", 12.0), *trials("bad", 20.0), *trials("unknown", 11.5)]
    (group,) = groups(folder(tmp_path, tests, none=0.8, good=0.75, bad=0.7))
    assert {each.line.cell: each.front for each in group.standings} == {
        "none": True,
        "good": True,
        "bad": False,
        "unknown": None,
    }


def test_cells_of_other_weights_are_a_group_of_their_own(tmp_path: Path) -> None:
    other = json.dumps({"capture.round": 2})
    tests = [*trials("none", 40.0), *trials("dp", 12.0)]
    tests += [*trials("late-none", 20.0, differs=other, defense="none", defense_params="[]")]
    tests += [*trials("late-dp", 11.0, differs=other)]
    found = groups(folder(tmp_path, tests))
    assert [[each.line.cell for each in group.standings] for group in found] == [
        ["dp", "none"],
        ["late-dp", "late-none"],
    ]
    assert [group.undefended for group in found] == ["none", "late-none"]
    assert [group.about for group in told(tmp_path)] == ["", "capture.round = 2"]


def test_the_answers_say_which_defense_its_price_and_how_sure(tmp_path: Path) -> None:
    (group,) = told(three(tmp_path))
    which, price, sure = (answer.text for answer in group.answers)
    assert [answer.question for answer in group.answers] == ["Which defense?", "At what price?", "How sure?"]
    assert which.startswith("strong leaks least of 2 defended cells: its strongest attacker, generic, gains ")
    assert "without a defense (none) it is 29.0 dB" in which
    assert "In 1 of the 2 the attack is not shown to beat a guess without any signal: strong." in which
    assert price.startswith(
        "Under strong the model reaches 60% [55%, 65%], beside 80% [75%, 85%] without a defense (majority 60%)."
    )
    assert "On the Pareto front of leak, accuracy and upload: strong, weak, none." in price
    assert sure.startswith(
        "8 test victims, one seed. Its place among 3 cells, from the least leak, is 1 (95%)."
    )
    assert "below none, paired by victim (p = 0.016 after Holm's correction)" in sure
    assert "So few" not in sure


def test_a_defense_that_leaks_more_than_none_is_not_praised(tmp_path: Path) -> None:
    (group,) = told(folder(tmp_path, [*trials("none", 20.0), *trials("worse", 30.0)]))
    which, price, _ = (answer.text for answer in group.answers)
    assert which.startswith(
        "None leaks less than the cell without a defense. Of those with one, worse leaks least"
    )
    assert "Accuracy was not measured here" in price


def test_too_few_victims_are_said_to_tell_nothing_apart(tmp_path: Path) -> None:
    tests = [
        trial(row(cell, victim, level + victim))
        for cell, level in (("none", 30.0), ("dp", 9.0))
        for victim in (2, 3, 4)
    ]
    (group,) = told(folder(tmp_path, tests))
    sure = group.answers[2].text
    assert sure.startswith("3 test victims, one seed, too few for intervals.")
    assert "is 1 to 2 (95%)" in sure
    assert "the least corrected p that they can give is 0.25" in sure


def test_where_no_cells_compare_each_line_says_what_it_shows(tmp_path: Path) -> None:
    (alone,) = told(folder(tmp_path, trials("none", 40.0)))
    assert (alone.about, alone.answers[0].question) == ("", "How much comes back?")
    assert alone.answers[0].text.startswith("The attack beats the mean public image by 29")


def test_cells_where_nothing_was_measured_have_no_place(tmp_path: Path) -> None:
    tests = [*trials("none", 40.0), *trials("dp", 12.0), trial(failed_row("lost"))]
    (group,) = groups(folder(tmp_path, tests))
    assert [each.line.cell for each in group.standings] == ["dp", "none"]


def test_the_report_shows_ranks_and_answers(tmp_path: Path) -> None:
    _, page = write(three(tmp_path))
    shown = [entry for entry in page.rows if "Rank" in entry]
    assert [(entry["name"], entry["Rank"], entry["Pareto front"]) for entry in shown] == [
        ("strong generic", "1 [1, 1]", "yes"),
        ("weak adaptive", "2 [2, 2]", "yes"),
        ("none generic", "3 [3, 3]", "yes"),
    ]
    assert shown[0]["Below none, dB"].startswith("29.0 [")
    assert shown[0]["p, Holm"] == "0.016"
    assert "Which defense? strong leaks least" in page.text
