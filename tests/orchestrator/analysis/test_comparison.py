"""Attackers side by side: one line for each cell, paired differences, the strongest attacker's price and figure."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orchestrator.analysis.comparison import attackers, by_cell
from orchestrator.analysis.intervals import mean_interval
from orchestrator.analysis.summary import summarize, summary_lines
from orchestrator.report.sections import SCATTERED
from orchestrator.report.terminal import comparison_table
from orchestrator.results.store import FinishedTrial
from tests.support.reports import write
from tests.support.results_folder import row, trial, write_folder

PSNR = {"none": (23.0, 46.0), "noise": (9.0, 9.5), "prune": (30.0, 18.0)}


def attacked(cells: dict[str, tuple[float, float]] = PSNR) -> list[FinishedTrial]:
    """Five victims a cell, by two attackers; the second one's lead is 1 dB larger on each further victim."""
    return [
        trial(row(cell, victim, found + victim * (1 + lead), attacker=name, bytes_up=4_000_000))
        for cell, both in cells.items()
        for lead, (name, found) in enumerate(zip(("generic", "adaptive"), both, strict=True))
        for victim in range(2, 7)
    ]


def hidden(cell: str, name: str) -> FinishedTrial:
    nothing = dict.fromkeys(("image_id", "psnr_prior", "psnr_mean_image", "method", "notes"))
    return trial(row(cell, 2, None, attacker=name, status="not_observable", error="hidden") | nothing)


def test_each_cell_has_all_attackers_and_the_strongest_one(tmp_path: Path) -> None:
    lines = summary_lines(write_folder(tmp_path, attacked()))
    compared = by_cell(lines)
    assert [one.cell for one in compared] == ["noise", "none", "prune"]
    assert attackers(compared) == ["adaptive", "generic"]
    assert [one.strongest.attacker for one in compared] == ["adaptive", "adaptive", "generic"]
    assert by_cell([line for line in lines if line.attacker == "generic"]) == []


def test_the_lead_is_paired_by_victim(tmp_path: Path) -> None:
    """Adaptive 46 + 4, 46 + 6 ..., generic 23 + 2, 23 + 3 ...: leads of 25 to 29 dB, and their interval's own room."""
    table = summarize(write_folder(tmp_path, attacked())).set_index(["cell", "attacker"])
    lead = table.loc[("none", "generic")]
    assert (lead["beside"], lead["lead"]) == ("adaptive", -27.0)
    bounds = mean_interval(-np.arange(25.0, 30.0))
    assert (lead["lead_low"], lead["lead_high"]) == (bounds.low, bounds.high)
    assert table.loc[("none", "adaptive")].isna()[["beside", "lead"]].all()


def test_the_report_and_the_terminal_show_them(tmp_path: Path) -> None:
    trials = [*attacked(), hidden("sum", "generic"), hidden("sum", "adaptive")]
    folder = write_folder(tmp_path, trials)
    _, page = write(folder)
    told = {entry["name"]: entry for entry in page.rows if "adaptive, dB" in entry}
    assert told["none"]["adaptive, dB"].startswith("54.0 [")
    assert "lead -27.0 [" in told["none"]["generic, dB"]
    assert told["none"]["MB up"] == "4"
    assert "not observable" in told["sum"]["generic, dB"]
    console = Console(width=80, file=io.StringIO())
    with console.capture() as shown:
        console.print(comparison_table(by_cell(summary_lines(folder))))
    assert max(map(len, shown.get().splitlines())) <= 80
    assert "hidden" in shown.get()


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True])
def test_privacy_and_utility_of_many_cells_have_a_figure_that_can_be_read(tmp_path: Path, many: bool) -> None:
    count = SCATTERED if many else 2
    cells = {f"c{i}": (10.0 + i, 20.0 + i) for i in range(count)}
    folder = write_folder(tmp_path, attacked(cells), utility={cell: {} for cell in cells})
    html, _ = write(folder)
    assert ("Filled: the strongest attacker" in html) is many
    assert (folder / "figures" / "utility-light.png").read_bytes().startswith(b"\x89PNG")
