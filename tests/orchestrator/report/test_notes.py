"""The table of a large sweep on a terminal of 80 columns, and the notes above it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from orchestrator.analysis.lines import Line
from orchestrator.analysis.summary import summary_lines
from orchestrator.report.notes import LISTED, notes
from orchestrator.report.terminal import _folded, summary_table
from tests.support.results_folder import failed_row, row, trial, write_folder

CELLS = ("none", *(f"noise-{strength}_adaptive" for strength in range(11)))
ATTACKERS = ("generic", "adaptive", "looks_first")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, ...]:
    """Thirty-six rows that all ran the same, but for one with failures and one cell with a note of its own."""
    trials = []
    for strength, cell in enumerate(CELLS):
        for attacker in ATTACKERS:
            told = [f"layer 0 from its gradients, residual below 1e-{strength}", "the same everywhere"]
            if strength == 3:
                told.append("the known noise hides the layer input")
            trials += [
                trial(row(cell, victim, 20.0 - strength + victim, attacker=attacker, notes=json.dumps(told)))
                for victim in range(2, 8)
            ]
    trials.append(trial(failed_row(CELLS[5], 9, attacker="generic")))
    return summary_lines(write_folder(tmp_path_factory.mktemp("large"), trials))


def lines(shown: Table, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), markup=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get().splitlines()


def test_notes_are_said_once_and_warnings_each_time(table: tuple[Line, ...]) -> None:
    assert len(table) == 36
    said = notes(table)
    assert len(said) <= 12
    assert [line for line in said if "everywhere" in line] == ["all rows: the same everywhere"]
    assert [line for line in said if "residual" in line] == [
        "all rows: layer 0 from its gradients, residual below 1e-1 (its numbers differ between rows)"
    ]
    (own,) = [line for line in said if "hides" in line]
    assert own.endswith(": the known noise hides the layer input")
    assert {name.strip() for name in own.rpartition(":")[0].split(",")} == {
        f"noise-2_adaptive / {attacker}" for attacker in ATTACKERS
    }
    (failed,) = [line for line in said if "trials failed" in line]
    assert failed.startswith("noise-4_adaptive / generic: 1 of 7 trials failed (")


def test_notes_that_differ_in_more_than_numbers_are_limited(tmp_path: Path) -> None:
    some = [
        trial(row(f"cell{letter}", victim, notes=json.dumps([f"note {letter}"])))
        for letter in "abcdefghij"
        for victim in (2, 3)
    ]
    said = [
        line
        for line in notes(summary_lines(write_folder(tmp_path, some)))
        if ": note " in line or "..." in line
    ]
    assert len(said) == LISTED + 1
    assert said[-1] == f"... {10 - LISTED} more like these in the report"


@pytest.mark.parametrize("width", [80, 100, 160])
def test_names_stay_whole_and_the_loss_is_a_column(table: tuple[Line, ...], width: int) -> None:
    shown = lines(summary_table(table, width=width), width)
    assert max(map(len, shown)) <= width
    words = {word for line in shown[3:] for word in line[:24].split()}
    for part in ("none", "adaptive", "looks_", "generic"):
        assert any(word.startswith(part) for word in words), part
    assert any(" loss" in line for line in shown[:4])
    text = " ".join(" ".join(shown).split())
    assert text.count("[") == 36 + 33, "intervals of all means, and of the losses of all but the cell none"


@pytest.mark.parametrize(
    ("name", "room", "expected"),
    [
        ("noise-10_adaptive / looks_first", 31, ["noise-10_adaptive / looks_first"]),
        ("noise-10_adaptive / looks_first", 30, ["noise-10_adaptive /", "looks_first"]),
        ("noise-10_adaptive / looks_first", 13, ["noise-10_", "adaptive /", "looks_first"]),
        ("perturbation", 5, ["perturbation"]),
        ("差分隐私_8", 9, ["差分隐私_", "8"]),
    ],
)
def test_names_break_where_their_parts_meet(name: str, room: int, expected: list[str]) -> None:
    assert _folded(name, room).splitlines() == expected


def test_columns_without_figures_are_left_out(tmp_path: Path) -> None:
    table = summary_lines(write_folder(tmp_path, [trial(row(victim=victim)) for victim in (2, 3)]))
    head = " ".join(lines(summary_table(table), 80)[:4])
    assert "epsilon" not in head
    assert "loss" not in head
    assert "PSNR dB" in head


def test_the_corridor_and_certificates_are_said_where_there_are_any(tmp_path: Path) -> None:
    trials = [
        trial(row(cell, victim, psnr, mse=10.0 ** (-psnr / 10.0), psnr_bound=bound, certified=sure))
        for cell, psnr, bound, sure in (("none", 60.0, None, 1.0), ("private", 12.0, 14.5, 0.0))
        for victim in range(2, 8)
    ]
    table = summary_lines(write_folder(tmp_path, trials))
    said = notes(table)
    (corridor,) = [text for text in said if "no attacker exceeds" in text]
    assert "12.0 of at most 14.5" in corridor
    assert "none /" not in corridor
    (sure,) = [text for text in said if "certified exact" in text]
    assert sure.startswith("none / ")
    assert "100% of the images" in sure
    assert [line.columns()["psnr_bound"] for line in table][1] == 14.5
    assert [line.columns()["psnr_of_mse"] for line in table] == pytest.approx([60.0, 12.0])


def test_an_older_folder_has_neither(table: tuple[Line, ...]) -> None:
    assert not [text for text in notes(table) if "certified" in text or "no attacker" in text]
