"""From rows to conclusions: winners, intervals, victims as units, controls, order."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl_core.base.decibels import EXACT_DB
from fl_core.base.errors import InputError
from orchestrator.analysis import summary as analysis
from orchestrator.analysis.intervals import mean_interval, share_interval
from orchestrator.analysis.summary import records, summarize, summary_lines, write_summary
from orchestrator.config.sweep import AttackerConfig, CellConfig, SweepConfig
from orchestrator.report.notes import notes
from orchestrator.report.terminal import mark
from orchestrator.results.store import FinishedTrial
from orchestrator.results.utility_files import write_utility
from tests.support.results_folder import failed_row, row, suggestion, trial, write_folder


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
        for victim in range(2, 8)
    ]
    none, dp = records(summarize(write_folder(tmp_path, tests, config=_sweep())))
    # All that an interval leaves open is the victim that was not attacked.
    room = mean_interval(np.ones(6))
    assert (none["gain"], none["gain_low"], none["gain_high"]) == pytest.approx((1.0, room.low, room.high))
    assert none["over_prior"] == pytest.approx(22.5)
    assert dp["undefended"] == "none"
    assert (dp["drop"], dp["drop_low"], dp["drop_high"]) == pytest.approx((3.0, 3 * room.low, 3 * room.high))
    assert pd.isna(none["undefended"])
    assert math.isnan(none["drop"])


def batches(**controls: float) -> list[FinishedTrial]:
    """Six victims of two images each; of every second victim one image of two is recovered."""
    found = [(21.0, 13.0 + victim) if victim % 2 else (12.0, 13.0 + victim) for victim in range(6)]
    return [
        trial(
            *(row(victim=v, psnr=psnr, image_id=f"{v}-{i}.jpg", **controls) for i, psnr in enumerate(images))
        )
        for v, images in enumerate(found)
    ]


@pytest.mark.parametrize(
    ("controls", "name", "level"),
    [
        ({}, "mean public image", 11.0),
        ({"psnr_public": 9.0, "psnr_groups": 10.5}, "mean public image", 11.0),
        ({"psnr_public": 9.0, "psnr_groups": 12.0}, "means of groups of public images", 12.0),
        ({"psnr_public": 13.0, "psnr_groups": 12.0}, "random public images", 13.0),
    ],
)
def test_batches_are_compared_with_the_control_that_comes_closest(
    tmp_path: Path, controls: dict[str, float], name: str, level: float
) -> None:
    line = records(summarize(write_folder(tmp_path, batches(**controls))))[0]
    assert (line["control"], line["psnr_control"]) == (name, level)
    assert line["gain"] == pytest.approx(line["psnr"] - level)
    assert line["psnr_mean_image"] == 11.0
    victims = analysis.tested_victims(tmp_path)["none", "generic"]
    assert (victims["psnr_control"] == level).all(), "criteria of thresholds compare with it too"


def test_a_control_that_some_victims_lack_is_not_compared_with(tmp_path: Path) -> None:
    """As where a sweep was begun before there was one."""
    early, late = trial(row(victim=2)), trial(row(victim=3, psnr_public=14.0, psnr_groups=14.0))
    line = records(summarize(write_folder(tmp_path, [early, late])))[0]
    assert (line["control"], line["gain"]) == ("mean public image", 4.0)


def test_shares_have_exact_intervals_over_victims(tmp_path: Path) -> None:
    line = records(summarize(write_folder(tmp_path, batches())))[0]
    assert (line["n"], line["images"]) == (6, 12)
    bounds = share_interval(line["success"], 6)
    assert (line["success_low"], line["success_high"]) == (bounds.low, bounds.high)
    assert line["label_accuracy"] == line["label_accuracy_high"] == 1.0
    assert line["label_accuracy_low"] == pytest.approx(0.025 ** (1 / 6))


def test_fewer_than_five_victims_have_a_mean_alone_and_the_table_says_so(tmp_path: Path) -> None:
    table = summarize(write_folder(tmp_path, [trial(row(victim=victim)) for victim in range(4)]))
    line = records(table)[0]
    assert line["psnr"] == 15.0
    assert all(math.isnan(line[f"{name}_{end}"]) for name in ("psnr", "gain") for end in ("low", "high"))
    assert "none below 5" in " ".join(notes(summary_lines(tmp_path)))
    assert "none of 4 victims leaves up to 60% open" in " ".join(notes(summary_lines(tmp_path)))


def test_the_table_says_how_many_of_its_intervals_may_miss(tmp_path: Path) -> None:
    tests = [trial(row(f"c{cell}", victim)) for cell in range(36) for victim in range(5)]
    said = " ".join(notes(summary_lines(write_folder(tmp_path, tests))))
    assert "36 comparisons, each at 95%: one interval in 20 may miss by chance, here about 2." in said


def test_a_cell_that_differs_is_not_compared_with_the_undefended_one(tmp_path: Path) -> None:
    tests = [trial(row("none", 2)), trial(row("dp", 2, differs='{"capture.round":1}'))]
    dp = records(summarize(write_folder(tmp_path, tests, config=_sweep())))[1]
    assert pd.isna(dp["undefended"])
    assert math.isnan(dp["drop"])


def test_a_cell_is_compared_with_the_undefended_one_that_has_its_settings(tmp_path: Path) -> None:
    """As in a product over settings and defenses: each batch size has an undefended cell of its own."""
    batch, hidden = (
        '{"federation.local.batch_size":4}',
        '{"federation.local.batch_size":4,"threat.view":"public"}',
    )
    tests = [
        trial(row("none", 2, 30.0)),
        trial(row("none-4", 2, 20.0, differs=batch, defense="none")),
        trial(row("dp-4", 2, 17.0, differs=batch, defense="dp_update")),
        trial(row("dp-4-public", 2, 16.0, differs=hidden, defense="dp_update")),
    ]
    found = {line.cell: line for line in summary_lines(write_folder(tmp_path, tests, config=_sweep()))}
    assert {name: line.undefended for name, line in found.items()} == {
        "none": None,
        "none-4": None,
        "dp-4": "none-4",
        "dp-4-public": "none-4",
    }
    assert found["dp-4"].drop.mean == pytest.approx(3.0)


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
    lines = summary_lines(write_folder(tmp_path, tests, config=_sweep()))
    dp = lines[1]
    assert (dp.undefended == "none", dp.drop.mean == pytest.approx(3.0)) == (compared, compared)
    assert mark(dp) == marked
    assert any(line.startswith("+ has another threat model") for line in notes(lines)) == (marked == " +")


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


@pytest.mark.parametrize("trainings", [2, 5])
def test_several_trainings_have_a_mean_and_an_interval_over_them(tmp_path: Path, trainings: int) -> None:
    folder = write_folder(tmp_path, [trial(row("none"))])
    reached = [0.70 + 0.02 * seed for seed in range(trainings)]
    plain = {"low": 0.6, "high": 0.9, "majority": 0.6, "images": 100, "per_round": [0.7], "diverged": False}
    for seed, accuracy in enumerate(reached):
        result = plain | {"accuracy": accuracy, "diverged": seed == 1}
        write_utility(folder / "utility" / f"{seed}.json", cells=["none"], spec={"seed": seed}, result=result)
    line = records(summarize(folder))[0]
    bounds = mean_interval(np.array(reached), failed=0.6)
    assert (line["trainings"], line["accuracy"]) == (trainings, pytest.approx(np.mean(reached)))
    np.testing.assert_equal((line["accuracy_low"], line["accuracy_high"]), (bounds.low, bounds.high))
    assert math.isnan(line["accuracy_low"]) == (trainings < 5)
    assert line["diverged"], "one of them did"


def test_a_run_with_other_settings_is_no_further_training(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [trial(row("none"))], utility={"none": {}})
    result = {"accuracy": 0.1, "low": 0.0, "high": 0.2, "majority": 0.6, "images": 9, "per_round": [0.1]}
    for seed in (0, 1):
        spec = {"seed": seed, "train": 2000}
        write_utility(
            folder / "utility" / f"{seed}.json",
            cells=["none"],
            spec=spec,
            result=result | {"diverged": False},
        )
    assert records(summarize(folder))[0]["trainings"] == 2


def test_summary_file_holds_the_table(tmp_path: Path) -> None:
    table = summarize(write_folder(tmp_path, [trial(row("none")), trial(row("dp"))], config=_sweep()))
    read = pd.read_parquet(write_summary(tmp_path, summary_lines(tmp_path)))
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
