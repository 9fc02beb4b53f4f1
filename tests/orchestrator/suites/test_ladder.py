"""A ladder of cells: each rung is compared with the one before on the images that both have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.analysis.intervals import mean_interval
from orchestrator.analysis.summary import summary_lines
from orchestrator.report.reader import Results
from orchestrator.results.store import FinishedTrial
from orchestrator.suites.ladder import rungs
from tests.support.results_folder import failed_row, row, trial, write_folder
from tests.support.small import sweep

FIRST, SECOND = [30.0, 28.0, 33.0, 31.0, 29.0], [20.0, 21.0, 22.0, 18.0, 19.0]


def ladder(folder: Path, root: Path, **cells: list[FinishedTrial]) -> Results:
    """A results folder of cells in this order, each with its trials."""
    config = sweep(root, cells=[{"name": name} for name in cells])
    write_folder(folder, [one for trials in cells.values() for one in trials], config=config)
    return Results(folder, summary_lines(folder))


def of(cell: str, values: list[float], **changes: Any) -> list[FinishedTrial]:
    return [trial(row(cell, victim, psnr, defense="none", **changes)) for victim, psnr in enumerate(values)]


def test_rungs_are_paired_by_image(tmp_path: Path, faces_root: Path) -> None:
    first, second = rungs(ladder(tmp_path, faces_root, a=of("a", FIRST), b=of("b", SECOND)))
    assert (first.line.cell, second.line.cell) == ("a", "b")
    assert not first.lost.measured
    lost = np.array(FIRST) - np.array(SECOND)
    expected = mean_interval(lost)
    assert second.shared == 5
    assert (second.lost.mean, second.lost.low, second.lost.high) == pytest.approx(
        (lost.mean(), expected.low, expected.high)
    )


def test_a_mirrored_image_is_the_same_and_one_that_is_missing_is_left_out(
    tmp_path: Path, faces_root: Path
) -> None:
    mirrored = trial(row("b", 0, 20.0, defense="none", image_id="000000.jpg:flip"))
    lost = trial(failed_row("b", 1, defense="none"))
    _, second = rungs(ladder(tmp_path, faces_root, a=of("a", FIRST), b=[mirrored, lost]))
    assert (second.shared, second.lost.mean) == (1, 10.0)
    assert not second.lost.bounded


def test_other_images_of_a_batch_do_not_count(tmp_path: Path, faces_root: Path) -> None:
    batch = trial(
        row("b", 0, 25.0, defense="none"),
        row("b", 0, 5.0, defense="none", image_id="other.jpg", preselected=False),
    )
    _, second = rungs(ladder(tmp_path, faces_root, a=of("a", FIRST[:1]), b=[batch]))
    assert (second.shared, second.lost.mean) == (1, 5.0)


def test_rungs_without_a_common_image_are_compared_by_their_means(tmp_path: Path, faces_root: Path) -> None:
    others = [trial(row("b", i, psnr, defense="none", image_id=f"x{i}.jpg")) for i, psnr in enumerate(SECOND)]
    _, second = rungs(ladder(tmp_path, faces_root, a=of("a", FIRST), b=others))
    assert (second.shared, second.lost.mean) == (0, pytest.approx(np.mean(FIRST) - np.mean(SECOND)))
    assert not second.lost.bounded


def test_an_image_that_both_have_by_chance_does_not_stand_for_the_others(
    tmp_path: Path, faces_root: Path
) -> None:
    others = [trial(row("b", i, psnr, defense="none", image_id=f"x{i}.jpg")) for i, psnr in enumerate(SECOND)]
    by_chance = trial(row("b", 0, 5.0, defense="none"))
    _, second = rungs(ladder(tmp_path, faces_root, a=of("a", FIRST), b=[by_chance, *others[1:]]))
    assert (second.shared, second.lost.mean) == (
        0,
        pytest.approx(np.mean(FIRST) - np.mean([5.0, *SECOND[1:]])),
    )
