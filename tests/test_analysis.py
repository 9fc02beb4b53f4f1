"""From rows to conclusions: winners, intervals, victims as units, controls, order."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl_core.errors import InputError
from orchestrator import analysis
from orchestrator.analysis import mean_interval, records, summarize, write_summary
from orchestrator.config import AttackerConfig, CellConfig, SweepConfig
from orchestrator.notes import notes
from orchestrator.tables import mark
from orchestrator.trial import EXACT_DB
from tests.results_folder import failed_row, row, suggestion, trial, write_folder


def test_interval_contains_the_mean_and_repeats() -> None:
    values = np.array([8.0, 12.0, 9.5, 20.0, 14.0, 11.0])
    first, second = mean_interval(values), mean_interval(values)
    assert first == second
    assert first.mean == pytest.approx(values.mean())
    assert values.min() < first.low < first.mean < first.high < values.max()


def test_interval_narrows_with_more_victims() -> None:
    few, many = (mean_interval(np.tile([10.0, 14.0], count)) for count in (3, 48))
    assert many.high - many.low < (few.high - few.low) / 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (math.nan, math.nan, math.nan)),
        ([math.nan], (math.nan, math.nan, math.nan)),
        ([7.0], (7.0, math.nan, math.nan)),
        ([7.0, math.nan], (7.0, math.nan, math.nan)),
        ([7.0, 7.0], (7.0, 7.0, 7.0)),
    ],
)
def test_interval_of_too_few_values(values: list[float], expected: tuple[float, float, float]) -> None:
    found = mean_interval(np.array(values, dtype=np.float64))
    np.testing.assert_equal((found.mean, found.low, found.high), expected)


def test_winner_is_the_earliest_of_the_best_and_only_its_tests_count(tmp_path: Path) -> None:
    tests = [trial(row(victim=2, psnr=10.0 + 5 * number, suggestion=number)) for number in (0, 1, 2)]
    told = [suggestion(2, 12.0), suggestion(1, 12.0, lr=0.5), suggestion(0, 10.0), suggestion(3, None)]
    line = summarize(write_folder(tmp_path, tests, suggestions=told)).iloc[0]
    assert line["suggestion"] == 1
    assert line["psnr"] == 15.0
    assert line["tuning_psnr"] == 12.0
    assert line["suggestions"] == 4
    assert line["hyperparameters"] == '{"lr": 0.5}'


def test_a_study_without_a_success_has_no_winner_and_no_figures(tmp_path: Path) -> None:
    tuning = [trial(failed_row(victim=0, phase="tune", suggestion=number)) for number in (0, 1)]
    told = [suggestion(0, None), suggestion(1, None)]
    line = summarize(write_folder(tmp_path, tuning, suggestions=told)).iloc[0]
    assert pd.isna(line["suggestion"])
    assert (line["n"], line["tests"], line["trials"], line["trials_failed"]) == (0, 0, 2, 2)
    assert pd.isna(line["psnr"])


def test_a_victims_images_count_once(tmp_path: Path) -> None:
    batch = trial(*(row(victim=2, psnr=psnr, image_id=f"{psnr}.jpg") for psnr in (10.0, 12.0, 14.0)))
    line = summarize(write_folder(tmp_path, [batch, trial(row(victim=3, psnr=20.0))])).iloc[0]
    assert (line["n"], line["images"]) == (2, 4)
    assert line["psnr"] == pytest.approx(16.0)
    assert line["psnr_worst"] == 20.0
    assert line["gain"] == pytest.approx(5.0)


def test_images_without_a_reconstruction_count_as_not_reached(tmp_path: Path) -> None:
    batch = trial(row(psnr=25.0, image_id="a.jpg"), row(psnr=None, image_id="b.jpg"))
    line = summarize(write_folder(tmp_path, [batch])).iloc[0]
    assert line["success"] == 0.5
    assert line["psnr"] == 25.0
    assert line["label_match"] == 1.0


def test_tuning_victims_enter_no_figure(tmp_path: Path) -> None:
    tuning = trial(row(victim=0, psnr=40.0, phase="tune", suggestion=0))
    tests = [trial(row(victim=victim, psnr=12.0, suggestion=0)) for victim in (2, 3)]
    line = summarize(write_folder(tmp_path, [tuning, *tests], suggestions=[suggestion(0, 40.0)])).iloc[0]
    assert (line["n"], line["psnr"], line["psnr_worst"]) == (2, 12.0, 12.0)


def test_an_exact_reconstruction_is_the_worst_case_and_not_left_out(tmp_path: Path) -> None:
    tests = [trial(row(victim=2, psnr=math.inf)), trial(row(victim=3, psnr=50.0))]
    line = summarize(write_folder(tmp_path, tests)).iloc[0]
    assert line["psnr_worst"] == EXACT_DB
    assert line["psnr"] == pytest.approx((EXACT_DB + 50.0) / 2)
    assert line["success"] == 1.0


def test_failed_tests_are_counted_apart(tmp_path: Path) -> None:
    tests = [trial(row(victim=2)), trial(failed_row(victim=3)), trial(failed_row(victim=4))]
    line = summarize(write_folder(tmp_path, tests)).iloc[0]
    assert (line["n"], line["tests"], line["tests_failed"], line["trials_failed"]) == (1, 3, 2, 2)


def test_controls_are_paired_by_victim(tmp_path: Path) -> None:
    # The victims differ a lot, the differences within a victim do not: pairing shows in the intervals.
    tests = [
        trial(row(cell, victim, 10.0 + 5 * victim - loss, psnr_mean_image=9.0 + 5 * victim, psnr_prior=10.0))
        for cell, loss in (("none", 0.0), ("dp", 3.0))
        for victim in (2, 3, 4)
    ]
    none, dp = records(summarize(write_folder(tmp_path, tests, config=_sweep())))
    assert (none["gain"], none["gain_low"], none["gain_high"]) == pytest.approx((1.0, 1.0, 1.0))
    assert none["over_prior"] == pytest.approx(15.0)
    assert (dp["undefended"], dp["drop"], dp["drop_low"], dp["drop_high"]) == ("none", 3.0, 3.0, 3.0)
    assert pd.isna(none["undefended"])
    assert math.isnan(none["drop"])


def test_a_cell_that_differs_is_not_compared_with_the_undefended_one(tmp_path: Path) -> None:
    tests = [trial(row("none", 2)), trial(row("dp", 2, differs='{"capture.round":1}'))]
    dp = records(summarize(write_folder(tmp_path, tests, config=_sweep())))[1]
    assert pd.isna(dp["undefended"])
    assert math.isnan(dp["drop"])


@pytest.mark.parametrize(
    ("differs", "compared", "marked"),
    [
        ('{"threat.view":"key_holder"}', True, " +"),
        ('{"threat.colluders":1,"threat.labels":"known"}', True, " +"),
        ('{"capture.round":1,"threat.colluders":1}', False, " *"),
        ("{}", True, ""),
    ],
)
def test_a_threat_model_of_its_own_is_shown_and_still_compared(
    tmp_path: Path, differs: str, compared: bool, marked: str
) -> None:
    """It changes neither data nor weights nor rounds."""
    tests = [trial(row("none", 2, 20.0)), trial(row("dp", 2, 17.0, differs=differs))]
    table = summarize(write_folder(tmp_path, tests, config=_sweep()))
    dp = records(table)[1]
    assert (dp["undefended"] == "none", dp["drop"] == pytest.approx(3.0)) == (compared, compared)
    assert mark(dp) == marked
    assert any(line.startswith("+ has another threat model") for line in notes(table)) == (marked == " +")


def test_order_is_the_sweep_files_whatever_finished_first(tmp_path: Path) -> None:
    finished = [("dp", "second"), ("extra", "first"), ("none", "second"), ("dp", "first"), ("none", "first")]
    tests = [trial(row(cell, attacker=attacker)) for cell, attacker in finished]
    table = summarize(write_folder(tmp_path, tests, config=_sweep()))
    assert list(zip(table["cell"], table["attacker"], strict=True)) == [
        ("none", "first"),
        ("none", "second"),
        ("dp", "first"),
        ("dp", "second"),
        ("extra", "first"),
    ]


def test_accuracy_comes_from_the_cells_own_run(tmp_path: Path) -> None:
    tests = [trial(row("none")), trial(row("dp"))]
    utility = {"dp": {"accuracy": 0.7, "diverged": True}}
    none, dp = records(summarize(write_folder(tmp_path, tests, config=_sweep(), utility=utility)))
    assert math.isnan(none["accuracy"])
    assert (dp["accuracy"], dp["majority"], dp["diverged"]) == (0.7, 0.6, True)


def test_summary_file_holds_the_table(tmp_path: Path) -> None:
    table = summarize(write_folder(tmp_path, [trial(row("none")), trial(row("dp"))], config=_sweep()))
    read = pd.read_parquet(write_summary(tmp_path, table))
    assert list(read.columns) == list(table.columns)
    assert list(read["psnr"]) == list(table["psnr"])


def test_a_folder_without_results_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        summarize(tmp_path)


def test_without_a_study_every_test_row_counts() -> None:
    group = pd.DataFrame({"phase": ["tune", "test", "test"], "suggestion": [0, None, 1]})
    assert len(analysis.test_rows(group, None)) == 2
    assert len(analysis.test_rows(group, 1)) == 1


def _sweep() -> SweepConfig:
    return SweepConfig(
        name="small",
        cells=(CellConfig(name="none"), CellConfig(name="dp")),
        attackers=(AttackerConfig(name="first"), AttackerConfig(name="second")),
    )
