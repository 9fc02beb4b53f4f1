"""What no factor bounds: NaN and infinity under every defense that clips, and numbers whose squares overflow."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from defenses.chain import AnyDefense, Chain
from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.dp.central import DPCentral
from defenses.dp.distributed import DPDistributed
from defenses.dp.local import DPUpdate
from defenses.dp.per_example import clipped_sum
from defenses.dp.sgd import DPSGD
from defenses.masking.masking import Masking
from defenses.mechanism.base import Mechanism
from defenses.mechanism.clipping import clip
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.decibels import decibels, energy
from fl_core.base.rng import generator, stream
from fl_core.base.types import ClientUpdate, ModelState, clipped_to_zeros
from fl_core.federation.client import LocalTraining, batch_gradient, gradient_update, trainable
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.simulator import ClientWork, InProcess
from fl_core.federation.training import train
from fl_core.models.build import initial_state
from orchestrator.analysis.summary import summary_lines
from orchestrator.report.notes import notes
from orchestrator.report.report import write_report
from orchestrator.results.utility_files import UtilityResult
from tests.support.federations import make_federation
from tests.support.results_folder import row, trial, write_folder
from tests.support.small import run_quietly, sweep

PLAN = FederationConfig(clients=4, fraction=1.0, rounds=1)
NAN, INF = math.nan, math.inf
WRONG = [[NAN, 1e6, -3e5], [INF, 1.0, 2.0], [-INF, 1.0, 2.0], [INF, -INF, NAN]]


def update(*values: float, buffer: float = 1.0) -> ClientUpdate:
    return ClientUpdate(
        client=0,
        tensors={"a": torch.tensor(values), "b": torch.ones(2)},
        buffers={"c": torch.tensor([buffer])},
        examples=1,
        steps=1,
        lr=0.1,
        momentum=0.0,
    )


def norm(update: ClientUpdate) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in update.tensors.values()))


@pytest.mark.parametrize("values", WRONG)
@pytest.mark.parametrize(
    "chain",
    [
        (DPUpdate(epsilon=1.0),),
        (DPUpdate(epsilon=1.0), Prune(ratio=0.5)),
        (DPUpdate(epsilon=1.0), Quantise(bits=4), Masking()),
        (DPCentral(epsilon=1.0),),
        (DPDistributed(epsilon=1.0), Masking()),
        (ClipOnly(max_norm=1.0),),
        (ClipOnly(max_norm=1.0), NoiseOnly(sigma=0.1)),
    ],
    ids=lambda chain: "+".join(each.kind for each in chain),
)
def test_zeros_are_released_where_the_update_is_not_finite(
    chain: tuple[AnyDefense, ...], values: list[float]
) -> None:
    """To the bit what an update of zeros releases: nothing of it passes, and the noise is as ever."""
    clients = Chain(defenses=chain).clients(seed=1, plan=PLAN)
    nothing = dataclasses.replace(
        update(0.0, 0.0, 0.0, buffer=0.0), tensors={"a": torch.zeros(3), "b": torch.zeros(2)}
    )
    sent, _ = clients.on_update(update(*values, buffer=0.0), {}, clients.draws(0, 0))
    other, _ = clients.on_update(nothing, {}, clients.draws(0, 0))
    for name, value in other.tensors.items():
        assert torch.equal(sent.tensors[name], value)
    assert (sent.not_finite, sent.clip_factor) == (1, 0.0)
    assert (other.not_finite, other.clip_factor) == (0, 1.0)


@pytest.mark.parametrize("size", [1e30, 3e38, 1.0, 1e-23, 1e-40])
@pytest.mark.parametrize("max_norm", [1e-25, 1e-3, 2.0])
def test_the_bound_holds_for_all_finite_numbers(size: float, max_norm: float) -> None:
    """Squares of 1e30 are infinite in float32 and those of 1e-23 are 0: neither may decide."""
    given = update(size, -size / 2, -0.0)
    given = dataclasses.replace(
        given, tensors=dict(given.tensors) | {"b": torch.zeros(2), "none": torch.zeros(0)}
    )
    sent = clip(given, max_norm)
    assert sent.not_finite == 0
    assert norm(sent) == pytest.approx(min(max_norm, norm(given)), rel=1e-5)
    whole, before = sent.tensors["a"].double(), given.tensors["a"].double()
    torch.testing.assert_close(whole / whole.norm(), before / before.norm(), rtol=1e-5, atol=0)
    assert clip(update(), max_norm=5.0).clip_factor == 1.0


def test_energies_do_not_overflow() -> None:
    assert energy(torch.tensor([3e30, 4e30])) == pytest.approx(25e60)
    assert energy(torch.tensor([3e-30, 4e-30])) == pytest.approx(25e-60)
    assert energy(torch.zeros(0)) == energy(torch.tensor([-0.0])) == 0.0
    assert math.isnan(energy(torch.tensor([NAN, 1.0]))) and energy(torch.tensor([-INF])) == INF
    assert decibels(1.0, INF) == -INF
    assert decibels(1e-200, 1e200) == pytest.approx(-4000.0)
    noisy = NoiseOnly(sigma=1.0).on_update(update(3e30, 4e30), stream("n"), PLAN)
    assert noisy.noise_to_signal_db == pytest.approx(-10 * math.log10(25e60 / 4), abs=20)


class Slopes(nn.Module):
    """Two weights, whose gradient at one image is what the image's first two numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, images: Tensor) -> Tensor:
        score = (images.flatten(1)[:, :2] * self.weight).sum(1)
        return torch.stack([score, -score], dim=1)


def batch_of(*slopes: tuple[float, float]) -> tuple[Tensor, Tensor]:
    images = torch.zeros(len(slopes), 3, 1, 1)
    images[:, :2, 0, 0] = torch.tensor(slopes)
    return images, torch.zeros(len(slopes), dtype=torch.int64)


STATE = ModelState(parameters={"weight": torch.zeros(2)})


@pytest.mark.parametrize("wrong", [(NAN, 1.0), (INF, 0.0), (-INF, INF)])
def test_an_example_whose_gradient_is_not_finite_counts_as_zeros(wrong: tuple[float, float]) -> None:
    model, state = Slopes(), trainable(STATE)
    rest, factors = clipped_sum(model, state, batch_of((3.0, 4.0), (0.0, 0.0)), 1.0)
    total, all_factors = clipped_sum(model, state, batch_of((3.0, 4.0), wrong, (0.0, 0.0)), 1.0)
    assert torch.equal(total["weight"], rest["weight"])
    assert all_factors.tolist() == [float(factors[0]), 0.0, 1.0]
    assert float(total["weight"].norm()) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [1e30, 1e-23])
def test_an_examples_bound_holds_where_squares_leave_the_range(size: float) -> None:
    total, factors = clipped_sum(Slopes(), trainable(STATE), batch_of((3 * size, -4 * size)), 1e-25)
    torch.testing.assert_close(total["weight"], torch.tensor([-0.6e-25, 0.8e-25]), rtol=1e-5, atol=0)
    assert float(factors[0]) == pytest.approx(1e-25 / (5 * size), rel=1e-3, abs=1e-44)


def test_dp_sgd_says_how_many_examples_it_left_out() -> None:
    local = LocalTraining(batch_size=3)
    plan = dataclasses.replace(PLAN, local=local)
    chain = Chain(defenses=(DPSGD(epsilon=1.0), ClipOnly(max_norm=100.0)))
    clients = chain.clients(seed=0, plan=plan)
    sent = gradient_update(
        Slopes(),
        STATE,
        batch_of((3.0, 4.0), (NAN, 1.0), (INF, 1.0)),
        local,
        client=0,
        rule=clients.on_gradient(batch_gradient, clients.draws(0, 0)),
    )
    released, _ = clients.on_update(sent, {}, clients.draws(0, 1))
    assert released.not_finite == 2
    assert bool(released.tensors["weight"].isfinite().all())
    assert sent.clip_factor == pytest.approx((1 / 5 + 0 + 0) / 3, rel=1e-5)


@pytest.mark.parametrize(
    "defense", [Prune(ratio=0.5), Prune(threshold=0.5), Quantise(), SignOnly(), NoiseOnly()]
)
def test_without_a_bound_a_diverged_update_stays_one_that_is_seen(defense: Mechanism) -> None:
    """These promise nothing: a number that is none must not become one, as if the update were fine."""
    sent = defense.on_update(update(NAN, 0.25, 3.0, 2.0), stream("r"), PLAN)
    assert bool(sent.tensors["a"].isnan().any())
    assert sent.not_finite == 0


def test_pruning_counts_nan_among_the_largest() -> None:
    sent = Prune(ratio=0.5, scope="tensor").on_update(update(NAN, 0.25, -3.0, 2.0), stream("r"), PLAN)
    assert torch.equal(sent.tensors["a"].isnan(), torch.tensor([True, False, False, False]))
    assert sent.tensors["a"][1:].tolist() == [0.0, -3.0, 0.0]
    empty = dataclasses.replace(update(), tensors={"a": torch.zeros(0), "b": torch.ones(2)})
    for defense in (Prune(scope="tensor"), Quantise(), SignOnly()):
        assert defense.on_update(empty, stream("r"), PLAN).tensors["a"].shape == (0,)


def test_training_goes_on_and_counts(faces: Any) -> None:
    """Learning rates of 1e30 send every client's weights out of range: the sum holds zeros and noise."""
    local = LocalTraining(lr=1e30, momentum=0.0, epochs=3, batch_size=2)
    federation = make_federation(faces, config=dataclasses.replace(PLAN, rounds=2, local=local, chunk=2))
    chain = Chain(defenses=(DPUpdate(epsilon=1e6, max_norm=1e-3),))
    work = ClientWork(
        federation=federation,
        defense=chain.clients(seed=0, plan=federation.config),
        reduction=chain.reduction(seed=0, plan=federation.config),
    )
    results = list(train(InProcess(work), initial_state(federation.model, generator("m")), rounds=2))
    assert [result.not_finite for result in results] == [4, 4]
    for value in results[-1].state.parameters.values():
        assert bool(value.isfinite().all())


def test_a_sweep_tells_the_user(faces_root: Path, tmp_path: Path) -> None:
    config = sweep(
        faces_root,
        federation__local={"lr": 1e30, "momentum": 0.0, "epochs": 3},
        capture={"signal": "local_update"},
        victims={"tuning": 0, "test": 2},
        cells=[{"name": "dp", "defense": [{"kind": "dp_update", "max_norm": 1.0}]}],
        attackers=[{"name": "m", "attack": {"kind": "matching", "iterations": 2}}],
    )
    rows = run_quietly(config, tmp_path)
    assert set(rows["status"]) == {"ok"}
    assert (rows["clip_factor"] == 0).all()
    for noted in rows["notes"]:
        assert clipped_to_zeros(1) in json.loads(noted)


def test_a_secure_sum_refuses_it_in_that_trial_alone(faces_root: Path, tmp_path: Path) -> None:
    """Without a bound nothing can be summed: the trial has failed, and the other cell has its results."""
    config = sweep(
        faces_root,
        data__train=60,
        federation__local={"lr": 1e30, "momentum": 0.0, "epochs": 3},
        capture={"signal": "local_update"},
        victims={"tuning": 0, "test": 2},
        cells=[
            {"name": "sum", "defense": [{"kind": "masking"}]},
            {"name": "bounded", "defense": [{"kind": "dp_update"}, {"kind": "masking"}]},
        ],
        attackers=[{"name": "m", "attack": {"kind": "matching", "iterations": 2}}],
    )
    rows = run_quietly(config, tmp_path)
    assert rows.groupby("cell")["status"].agg(set).to_dict() == {"sum": {"failed"}, "bounded": {"ok"}}
    assert rows["error"].dropna().str.contains("cannot be summed exactly: must be finite").all()


def test_the_report_tells_of_a_training(tmp_path: Path) -> None:
    tests = [trial(row("dp", victim)) for victim in (2, 3)]
    folder = write_folder(tmp_path, tests, utility={"dp": {"not_finite": 7}})
    lines = summary_lines(folder)
    told = "clipped to zeros for holding NaN or infinity: 7"
    assert any(told in line for line in notes(lines))
    assert told in write_report(folder, lines).read_text(encoding="utf-8")
    assert UtilityResult.__dataclass_fields__["not_finite"].default == 0, "older files hold none"
