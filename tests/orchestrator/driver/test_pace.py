"""What a sweep takes, by a measurement on one victim of each kind of cell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.driver import pace
from orchestrator.driver.pace import Calibration, Pace, measure
from orchestrator.driver.plan import ENDS, WORKERS, cost_line, make_plan, measured
from orchestrator.driver.sweep import resolve
from orchestrator.io.identity import content_hash
from tests.support.command import gradsweep
from tests.support.small import sweep

NOISE = [
    {"name": "weak", "defense": [{"kind": "noise", "sigma": 0.001}]},
    {"name": "strong", "defense": [{"kind": "noise", "sigma": 0.1}]},
    {"name": "pruned", "defense": [{"kind": "prune", "ratio": 0.5}]},
]


class Clock:
    """A timer of jobs that say how long they take."""

    def __init__(self) -> None:
        self.now = self.seconds = 0.0

    def __enter__(self) -> Clock:
        self._begin = self.now
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self.now - self._begin


@pytest.mark.parametrize(
    ("fixed", "whole"), [(0.5, 2.0), (0.5, 600.0), (20.0, 60.0), (0.0, 0.1), (50.0, 5000.0)]
)
def test_a_job_that_grows_with_its_share_is_told_exactly(fixed: float, whole: float) -> None:
    clock, shares = Clock(), []

    def run(share: float) -> bool:
        shares.append(share)
        clock.now += fixed + share * whole + (0.0 if len(shares) > 1 else 4.0)
        return share == 1.0

    how = Calibration()
    found = pace._of_the_whole(run, how, clock)  # type: ignore[arg-type]
    assert found == pytest.approx(fixed + whole, rel=0.05)
    # Beyond two shares nothing is run that takes longer than it should.
    for share in shares[3:]:
        assert share == 1.0 or fixed + share * whole <= how.seconds * how.growth


def test_a_job_that_cannot_be_shortened_is_run_as_it_is() -> None:
    clock = Clock()

    def run(_: float) -> bool:
        clock.now += 7.0
        return True

    assert pace._of_the_whole(run, Calibration(), clock) == 7.0  # type: ignore[arg-type]


def test_cells_of_one_kind_are_measured_once(faces_root: Path) -> None:
    config = sweep(faces_root, cells=NOISE)
    plan = make_plan(config, ["*"])
    said: list[str] = []
    paces = measure(config.attackers, [resolve(cell) for cell in plan.cells], said.append)
    assert said == ["measuring weak", "measuring pruned"]
    assert paces.cells["weak"] == paces.cells["strong"] != paces.cells["pruned"]
    assert paces.cells["weak"].trials.keys() == {"generic"}
    assert all(each.capture > 0 and each.trials["generic"] > 0 for each in paces.cells.values())
    # mlp: its numbers, in float32, and a header.
    numbers = sum(value.numel() for value in parameters(config))
    assert 4 * numbers < paces.cells["weak"].capture_bytes < 4 * numbers + 20_000


def parameters(config: Any) -> list[Any]:
    from fl_core.models.build import build_model

    return list(build_model(config.model).parameters())


def test_accuracy_runs_that_cells_share_count_once(faces_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_round_seconds", lambda *_: 2.0)
    monkeypatch.setattr(
        pace, "_pace", lambda *_: Pace(weights=0.0, capture=1.0, capture_bytes=10, trials={"generic": 3.0})
    )
    spec = SimpleNamespace(federation=SimpleNamespace(rounds=4))
    monkeypatch.setattr(pace, "content_hash", lambda value: "one" if value is spec else content_hash(value))
    monkeypatch.setattr(pace, "accuracy_runs", lambda *_: [spec])
    config = sweep(faces_root, cells=NOISE, utility={"train": 1000})
    plan = measured(make_plan(config, ["*"]), lambda _: None)
    assert plan.paces is not None
    assert plan.paces.utility == {"one": 8.0}
    totals = plan.totals(plan.paces)
    # 5 suggestions on 2 tuning victims, and 3 test victims attacked with a control each, in 3 cells.
    assert totals.workers == 8.0 + 3 * 3.0 * (5 * 2 + 3 * 2)
    assert totals.driver == 3 * 5 * 1.0
    assert totals.captures == 3 * 5 * 10
    assert totals.wall(1) == ENDS + WORKERS + totals.workers
    assert totals.wall(1000) == ENDS + WORKERS + totals.driver, "captures are made one after another"
    assert totals.wall(None) == ENDS + totals.driver + totals.workers, (
        "no workers start, and nothing overlaps"
    )
    assert totals.cpu_hours(None) * 3600 == pytest.approx(totals.wall(None))
    assert totals.cpu_hours(2) * 3600 == pytest.approx(totals.wall(None) + WORKERS)


def test_a_dry_run_measures_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\nmodel: {kind: mlp, image_size: 16}\nvictims: {tuning: 0, test: 2}\n"
        "data: {kind: synthetic, root: faces, synthetic_images: 160}\nfederation: {clients: 2}\n"
        "cells: [{name: none}]\nattackers: [{name: plain, attack: {iterations: 10}}]\n"
    )
    done = gradsweep(
        "sweep", file, "--dry-run", "--address", "serial", "--set", "data.train=60", "--set", "data.valid=8"
    )
    assert done.returncode == 0, done.stderr
    assert "with 1 worker here" in done.stdout.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"], "faces are painted in memory"
    unmeasured = gradsweep(
        "sweep", file, "--dry-run", "--no-calibrate", "--set", "data.train=60", "--set", "data.valid=8"
    )
    assert "CPU-hours" in done.stdout
    assert "CPU-hours" not in unmeasured.stdout


def test_an_unmeasured_plan_has_no_cost(faces_root: Path) -> None:
    assert cost_line(make_plan(sweep(faces_root), ["*"]), 2) == ""
