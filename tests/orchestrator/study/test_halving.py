"""Successive halving: which suggestions go on, whatever the order of results; whole studies under it."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from attack_core.base.types import Attack
from attack_core.matching.matching import Matching
from fl_core.base.errors import InputError
from orchestrator.config.plain import build
from orchestrator.config.sweep import HalvingConfig, StudyConfig
from orchestrator.driver import sweep as driver
from orchestrator.driver.plan import make_plan
from orchestrator.driver.sweep import run_sweep
from orchestrator.living.replay import replay_trial
from orchestrator.living.status import read_status
from orchestrator.runtime.progress import Silent
from orchestrator.study.halving import Screened, Screening
from tests.support.shuffled import Shuffled
from tests.support.small import comparable, sweep

HALVED: dict[str, Any] = {
    "study__halving": {"iterations": 0.25, "victims": 0.5, "keep": 0.5},
    "study__suggestions": 8,
}


def screened(values: list[float | None], *, keep: float, order: int) -> list[Screened]:
    """What is decided of suggestions with these values on both of two victims, which come back in a random order."""
    screening, found = Screening(2, HalvingConfig(victims=1.0, keep=keep)), []
    waiting: list[tuple[int, int]] = []
    for number in range(len(values)):
        screening.begin(number)
        waiting.extend(screening.ready())
    random.Random(order).shuffle(waiting)
    for number, victim in waiting:
        found += screening.take(number, victim, values[number], 1.0)
    return found


def test_the_better_ones_of_all_before_go_on() -> None:
    found = screened([10.0, 9.0, 11.0, 10.5, 8.0, 12.0], keep=0.5, order=0)
    assert [each.number for each in found] == list(range(6))
    assert [each.goes_on for each in found] == [
        True,  # The first of one.
        False,  # The second of two, one of whom goes on.
        True,
        True,  # The second of four, two of whom go on.
        False,
        True,
    ]


@pytest.mark.parametrize("order", range(5))
def test_the_order_of_results_decides_nothing(order: int) -> None:
    values = [10.0, 9.0, None, 11.0, 11.0, 8.0, 12.0, None, 11.5]
    assert screened(values, keep=0.4, order=order) == screened(values, keep=0.4, order=99)


def test_a_failed_one_goes_no_further_and_an_equal_one_does_not() -> None:
    found = screened([None, 10.0, 10.0], keep=0.3, order=0)
    assert [each.goes_on for each in found] == [False, True, False]
    assert [each.ended.state for each in found] == ["failed", "pruned", "pruned"]
    assert found[0].ended.value is None
    assert found[2].ended.cost == 2.0


def test_about_the_stated_share_goes_on() -> None:
    draws = random.Random(3)
    found = screened([draws.random() for _ in range(400)], keep=0.25, order=0)
    assert 0.22 < sum(each.goes_on for each in found) / 400 < 0.30


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"halving": {"iterations": 0.0}}, "iterations = 0.0: must be more than 0 and at most 1"),
        ({"halving": {"iterations": 1.0, "victims": 1.0}}, "iterations = 1.0: must be less than 1 where"),
        ({"halving": {"keep": 1.0}}, "keep = 1.0: must be more than 0 and less than 1"),
        ({"halving": {}, "prune": 2.0}, "prune = 2.0: must be null beside halving"),
        ({"halving": {}, "objectives": ["psnr", "work"], "within": 1.0}, "halving"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(StudyConfig, changes, where="study")


@pytest.fixture(scope="module")
def halved(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("halved")
    run_sweep(sweep(faces_root, **HALVED), out, address="serial", reporter=Silent())
    return out


def test_short_trials_have_a_share_of_the_iterations(halved: Path) -> None:
    rows = pd.read_parquet(halved / "trials")
    iterations = rows["attack_params"].map(lambda text: json.loads(text)["iterations"])
    assert set(iterations[rows["phase"] == "screen"]) == {2}
    assert set(iterations[rows["phase"] != "screen"]) == {8}


def test_who_goes_on_follows_from_the_rows(halved: Path) -> None:
    rows, studies = pd.read_parquet(halved / "trials"), pd.read_parquet(halved / "studies")
    for study, told in studies.groupby("study"):
        mine = rows[rows["study"] == study]
        short = mine[mine["phase"] == "screen"].groupby("suggestion")["psnr"].mean()
        whole = mine[mine["phase"] == "tune"].groupby("suggestion")["psnr"].mean()
        assert list(short.index) == list(range(8))
        for number in short.index:
            better = int((short[:number] >= short[number]).sum())
            assert (number in whole.index) == (better < max(1, (number + 1) // 2))
        for row in told.itertuples():
            assert (row.state == "ok") == (row.suggestion in whole.index)
            assert len(row.trial_ids) == (3 if row.state == "ok" else 1)
            if row.state == "ok":
                assert row.value == pytest.approx(whole[row.suggestion])
        tested = set(mine.loc[mine["phase"] == "test", "suggestion"])
        assert tested == {whole.idxmax()}


def test_any_order_of_results_gives_the_same_rows(
    halved: Path, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "make_executor", lambda *_, **__: Shuffled(3, 1))
    run_sweep(sweep(faces_root, **HALVED), tmp_path, address="serial", reporter=Silent())
    pd.testing.assert_frame_equal(comparable(tmp_path), comparable(halved))


def test_a_resumed_study_goes_on_where_it_was(halved: Path, faces_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(halved, out)
    assert run_sweep(sweep(faces_root, **HALVED), out, address="serial", reporter=Silent()).fresh == 0
    status = read_status(out)
    assert status.state == "finished"
    assert status.trials.done == status.trials.planned


def test_a_short_trial_runs_again_to_the_same_figures(halved: Path) -> None:
    rows = pd.read_parquet(halved / "trials")
    trial = rows.loc[rows["phase"] == "screen", "trial_id"].iloc[0]
    assert not replay_trial(halved, trial).differences


def test_the_dry_run_counts_short_trials_by_their_share(faces_root: Path) -> None:
    config = sweep(faces_root, **HALVED, execution__controls=False)
    line = make_plan(config, ["*"]).lines[0]
    assert line.tuning == 8 * 1 + 4 * 2
    assert line.attacks == pytest.approx(8 * 1 * 0.25 + 4 * 2 + 3)


def test_an_attack_without_iterations_is_refused(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Matching, "shortened", Attack.shortened)
    said = "study.halving does not go with attackers.generic.attack: Matching has no iterations"
    with pytest.raises(InputError, match=said):
        run_sweep(sweep(faces_root, **HALVED), tmp_path, address="serial", reporter=Silent())
