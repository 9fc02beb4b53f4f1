"""Every epsilon stands beside its adjacency, and beside what the same noise is worth under the stricter one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from defenses.dp.accounting import noise_multiplier, replace_one_epsilon
from defenses.dp.budget import DPMechanism
from defenses.dp.local import DPUpdate
from defenses.dp.sgd import DPSGD
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig
from orchestrator.analysis.lines import frame
from orchestrator.analysis.rounds import by_round
from orchestrator.analysis.summary import summary_lines
from orchestrator.report.notes import notes
from orchestrator.report.report import write_report
from orchestrator.report.terminal import adjacencies
from tests.support.results_folder import row, trial, write_folder


def private(cell: str, epsilon: float, adjacency: str = "zero_out", rate: float = 1.0, **more: Any) -> Any:
    stated = {"epsilon": epsilon, "epsilon_release": epsilon, "delta": 1e-5, "dp_unit": "client"}
    rows = [row(cell, victim, adjacency=adjacency, sampling_rate=rate, **stated, **more) for victim in (2, 3)]
    return [trial(each) for each in rows]


@pytest.mark.parametrize(("epsilon", "replaced"), [(8.0, 19.12), (1.0, 2.155), (0.1, 0.2132)])
def test_it_is_the_epsilon_at_twice_the_sensitivity(epsilon: float, replaced: float) -> None:
    assert replace_one_epsilon(epsilon, 1e-5) == pytest.approx(replaced, rel=1e-3)


@pytest.mark.parametrize("mechanism", [DPUpdate, DPSGD])
def test_it_is_what_the_mechanism_itself_states_at_the_same_noise(mechanism: type[DPMechanism]) -> None:
    """Half the multiplier at twice the sensitivity is the same sigma; rounds and steps are in the total already."""
    plan = FederationConfig(rounds=5, local=LocalTraining(epochs=2))
    zeros = mechanism(epsilon=3.0)
    releases = 10 if mechanism is DPSGD else 5
    half = noise_multiplier(3.0, 1e-5, releases=releases) / 2
    other = mechanism(epsilon=None, noise_multiplier=half, adjacency="replace_one")
    assert other.sigma(plan) == pytest.approx(zeros.sigma(plan))  # type: ignore[attr-defined]
    stated = other.privacy(plan)
    assert stated is not None
    assert stated.epsilon == pytest.approx(replace_one_epsilon(3.0, 1e-5), rel=1e-6)


def test_tables_and_reports_name_it(tmp_path: Path) -> None:
    trials = [trial(row(victim=victim)) for victim in (2, 3)]
    folder = write_folder(
        tmp_path,
        [
            *trials,
            *private("eight", 8.0),
            *private("one", 1.0),
            *private("sampled", 2.0, rate=0.1),
            *private("other", 8.0, "replace_one"),
        ],
    )
    lines = summary_lines(folder)
    by_cell = frame(lines).set_index("cell")
    assert by_cell.loc["eight", "adjacency"] == "zero_out"
    replaced = by_cell["epsilon_replace_one"].astype(float)
    assert replaced["eight"] == pytest.approx(19.12, rel=1e-3)
    assert replaced["other"] == 8.0
    assert np.isnan(replaced["sampled"]), "the accountant has no pairs of samples that hold one or the other"
    assert np.isnan(replaced["none"])
    assert adjacencies(lines) == [
        "epsilon of eight, one, sampled: over the planned rounds, zero_out: "
        "one contribution against zeros in its place.",
        "The same noise under replace_one: epsilon eight 19.1, one 2.15.",
        "epsilon of other: over the planned rounds, replace_one: one contribution against any other in its place.",
    ]
    assert set(adjacencies(lines)) <= set(notes(lines))
    assert adjacencies([line for line in lines if line.cell == "none"]) == []
    html = write_report(folder, lines).read_text(encoding="utf-8")
    for said in ("zero_out", "19.1 under replace_one", "2.15 under replace_one"):
        assert said in html
    assert "8 under replace_one" not in html


def test_series_over_rounds_name_it(tmp_path: Path) -> None:
    early, late = private("early", 8.0, round=0), private("late", 8.0, round=1, differs='{"capture.round":1}')
    (series,) = by_round(summary_lines(write_folder(tmp_path, [*early, *late])))
    assert series.name == "dp_update (epsilon 8, zero_out) / generic"
