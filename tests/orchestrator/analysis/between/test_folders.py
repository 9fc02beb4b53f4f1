"""Two results folders beside each other: paired where victims agree, else unpaired, and what is said of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fl_core.base.errors import InputError
from orchestrator.analysis.between.differences import holm
from orchestrator.analysis.between.folders import compare_folders
from orchestrator.analysis.intervals import mean_interval
from orchestrator.report.terminal import folders_notes, folders_table
from tests.support.command import gradsweep
from tests.support.results_folder import row, trial, write_folder

BEFORE = (20.0, 22.0, 21.0, 25.0, 23.0, 24.0)
GAINED = (1.0, 2.0, 1.5, 0.5, 1.0, 2.5)


def folder(path: Path, values: dict[str, tuple[float, ...]], **changes: Any) -> Path:
    return write_folder(
        path,
        [
            trial(row(cell, victim, psnr, **changes))
            for cell, found in values.items()
            for victim, psnr in enumerate(found, start=2)
        ],
    )


def after() -> tuple[float, ...]:
    return tuple(value + more for value, more in zip(BEFORE, GAINED, strict=True))


def test_victims_that_agree_are_paired(tmp_path: Path) -> None:
    compared = compare_folders(
        folder(tmp_path / "one", {"none": BEFORE, "dp": BEFORE}),
        folder(tmp_path / "other", {"none": after(), "late": BEFORE}),
    )
    found = compared.table.iloc[0]
    expected = mean_interval(np.array(GAINED))
    assert bool(found["paired"])
    assert (found["n"], found["first_n"], found["second_n"]) == (6, 6, 6)
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert found["p"] == pytest.approx(2 / 64)
    assert (compared.first_alone, compared.second_alone) == ((("dp", "generic"),), (("late", "generic"),))
    notes = " ".join(folders_notes(compared))
    assert "Of 1 cells and attackers in both, 1 are paired" in notes
    assert "Only in 1: dp / generic. Only in 2: late / generic." in notes


@pytest.mark.parametrize("changes", [{"data": "synthetic:other"}, {"sweep_seed": 7}])
def test_victims_of_other_data_or_seeds_are_not_paired(tmp_path: Path, changes: dict[str, Any]) -> None:
    compared = compare_folders(
        folder(tmp_path / "one", {"none": BEFORE}), folder(tmp_path / "other", {"none": after()}, **changes)
    )
    found = compared.table.iloc[0]
    assert not found["paired"]
    assert found["difference"] == pytest.approx(np.mean(GAINED))
    assert found["low"] < 0 < found["high"], "unpaired, victims differ more than the attack got better"
    assert found["p"] > 0.05
    assert "Not paired" in " ".join(folders_notes(compared))


def test_other_images_at_the_same_number_are_other_victims(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", {"none": BEFORE})
    other = write_folder(
        tmp_path / "other",
        [
            trial(row("none", victim, psnr, image_id=f"other{victim}.jpg"))
            for victim, psnr in enumerate(after(), start=2)
        ],
    )
    assert not compare_folders(one, other).table["paired"].any()


def test_a_folder_with_more_victims_is_paired_over_those_in_both(tmp_path: Path) -> None:
    compared = compare_folders(
        folder(tmp_path / "one", {"none": BEFORE}), folder(tmp_path / "other", {"none": (*after(), 50.0)})
    )
    found = compared.table.iloc[0]
    assert (bool(found["paired"]), found["n"], found["second_n"]) == (True, 6, 7)
    assert found["difference"] == pytest.approx(np.mean(GAINED))
    assert "over the victims that agree" in " ".join(folders_notes(compared))


def test_p_is_corrected_over_the_rows(tmp_path: Path) -> None:
    cells = {"none": BEFORE, "dp": BEFORE, "late": BEFORE}
    compared = compare_folders(
        folder(tmp_path / "one", cells),
        folder(tmp_path / "other", {"none": after(), "dp": BEFORE, "late": BEFORE[::-1]}),
    )
    assert list(compared.table["p_holm"]) == pytest.approx(list(holm(compared.table["p"].to_numpy())))
    assert compared.table.set_index("cell").loc["dp", "p"] == 1.0


def test_the_table_fits_a_terminal_and_marks_what_is_not_paired(tmp_path: Path) -> None:
    compared = compare_folders(
        folder(tmp_path / "one", {"none": BEFORE}),
        folder(tmp_path / "other", {"none": after()}, data="synthetic:other"),
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(folders_table(compared.table))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "~" in text
    assert "6, 6" in text
    assert max(map(len, text.splitlines())) <= 80


def test_folders_that_have_nothing_in_common_are_refused(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", {"none": BEFORE}), folder(tmp_path / "other", {"dp": BEFORE})
    with pytest.raises(InputError, match="no cell and attacker in common: the first has none / generic"):
        compare_folders(one, other)


def test_the_command_prints_the_table(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", {"none": BEFORE})
    done = gradsweep("compare", str(one), str(folder(tmp_path / "other", {"none": after()})))
    assert done.returncode == 0, done.stderr
    assert "none / generic" in done.stdout
    assert "0.031" in done.stdout
    missing = gradsweep("compare", str(one), str(tmp_path / "nowhere"))
    assert missing.returncode == 2
    assert "nowhere" in missing.stderr
    assert "Traceback" not in missing.stderr
