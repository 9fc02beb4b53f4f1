"""What attackers make of differential privacy's facts, and sweeps through its mechanisms."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.evidence.likelihood_ratio import too_weak
from attack_core.gradients.handles import gradient_handles
from attack_core.gradients.targets import gradient_estimate
from attack_core.inversion.continuation import Continuation
from attack_core.matching.matching import Matching
from attack_core.metrics.metrics import assign, psnr
from attack_core.signal.labels import resolve_labels
from attack_core.signal.signal_model import deviations, hides_the_scale, knows_errors, scales_examples
from defenses.dp.per_example import example_gradients
from defenses.dp.sgd import DPSGD
from fl_core.base.rng import generator
from fl_core.base.types import Signal, Truth
from fl_core.data.dataset import ImageDataset
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import ExampleClip, Noise, StepNoise
from fl_core.threat.observation import Observation
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent
from tests.support import defended
from tests.support.small import comparable, sweep

LENET = ModelConfig(kind="lenet", image_size=16)
CNN = ModelConfig(kind="cnn64", image_size=16)


seen = partial(defended.seen, model=LENET, clients=2, train=8, lr=0.01)


def test_noise_of_steps_is_in_units_of_the_gradient(faces: ImageDataset) -> None:
    observation, _ = seen(faces)

    def sigma(fact: StepNoise | Noise, **changes: Any) -> float:
        known = dataclasses.replace(observation, facts=(fact,), **changes)
        (found,) = set(deviations(known, known.tensors).values())
        assert knows_errors(known)
        return found

    assert sigma(StepNoise(sigma=0.3)) == pytest.approx(0.3)
    assert sigma(StepNoise(sigma=0.3), signal="one_step_update") == pytest.approx(0.3)
    # Two steps with momentum 0.5: the first one's noise is carried one and a half times.
    two = {"signal": "local_update", "steps": 2, "lr": 0.1, "momentum": 0.5}
    assert sigma(StepNoise(sigma=0.3), **two) == pytest.approx(0.3 * math.hypot(1.0, 1.5) / 2.5)
    four = {"signal": "agg_update", "clients": 4, "lr": 1.0, "momentum": 0.0}
    assert sigma(StepNoise(sigma=0.3), **four) == pytest.approx(0.15)
    assert sigma(Noise(distribution="gaussian", sigma=0.3), **four) == pytest.approx(0.15)


def test_the_estimated_gradient_is_off_by_what_is_known(faces: ImageDataset) -> None:
    """Local training of several steps, with and without the noise, at weights that it hardly moves."""
    options = {"signal": "local_update", "batch": 2, "lr": 1e-6, "momentum": 0.9}
    noisy, _ = seen(faces, DPSGD(epsilon=2.0, max_norm=1e3), **options)  # type: ignore[arg-type]
    plain, _ = seen(faces, **options)  # type: ignore[arg-type]
    found, clean = gradient_estimate(noisy), gradient_estimate(plain)
    assert noisy.steps == 2
    name = "fc.weight"
    said = deviations(noisy, found)[name]
    assert float((found[name] - clean[name]).std()) == pytest.approx(said, rel=0.1)


def test_an_example_scaled_by_itself_is_one_with_a_soft_label() -> None:
    """Why labels are optimised under per-example clipping of batches: it is the exact form of the unknown factors."""
    model, state = build_model(CNN), initial_state(CNN, generator("model"))
    images = torch.randn(3, 3, 16, 16, generator=generator("images"))
    labels, factors = torch.tensor([0, 1, 1]), torch.tensor([0.2, 1.0, 0.6])
    each = example_gradients(model, state, (images, labels))
    wanted = {name: torch.tensordot(factors, value, dims=1) / 3 for name, value in each.items()}
    with torch.no_grad():
        p = torch.func.functional_call(model, dict(state.parameters), (images,)).softmax(1)
    hard = torch.nn.functional.one_hot(labels, 2).float()
    soft = (1 - factors[:, None]) * p + factors[:, None] * hard
    handles = gradient_handles(
        model,
        state,
        images[None].requires_grad_(True),
        lambda logits: -(soft * logits.log_softmax(-1)).sum(-1).mean(1),
    )
    for name, value in wanted.items():
        torch.testing.assert_close(handles[name].dense()[0], value, rtol=1e-3, atol=1e-6)


def test_labels_are_optimised_where_each_image_has_its_own_scale(faces: ImageDataset) -> None:
    several, _ = seen(faces, DPSGD(), batch=2)
    one, _ = seen(faces, DPSGD())
    model = build_model(LENET)
    assert scales_examples(several)
    assert not scales_examples(one)
    assert hides_the_scale(several)
    assert hides_the_scale(one)
    assert resolve_labels("auto", several, model, 2, generator("l")) is None
    assert resolve_labels("auto", one, model, 1, generator("l")) is not None
    untold = dataclasses.replace(several, facts=())
    assert resolve_labels("auto", untold, model, 2, generator("l")) is not None


def gain(observation: Observation, truth: Truth, model: ModelConfig) -> float:
    """Of `auto` over the mean public image, in dB, the mean over images."""
    short = Continuation(evaluations=120)
    attack = Auto(
        analytic=Analytic(inversion=short, refinement=short),
        fallback=Matching(iterations=25, schedule="cosine", tv_weight=1e-4),
    )
    found = attack(observation, build_model(model), generator("attack", 0))
    chosen = assign(found.images, truth.images)
    assert observation.public_mean is not None
    gains = [
        float(psnr(found.images[j : j + 1], truth.images[i : i + 1]))
        - float(psnr(observation.public_mean[None], truth.images[i : i + 1]))
        for i, j in enumerate(chosen)
        if j is not None
    ]
    return sum(gains) / len(gains)


@pytest.mark.parametrize("epsilon", [1.0, 50.0, 1e4, 1e6, 1e7])
@pytest.mark.parametrize(
    ("signal", "batch", "model"),
    [
        ("gradients", 1, CNN),
        ("gradients", 2, LENET),
        ("one_step_update", 1, LENET),
        ("local_update", 2, LENET),
    ],
)
def test_auto_never_does_worse_than_the_mean_image(
    faces: ImageDataset, epsilon: float, signal: Signal, batch: int, model: ModelConfig
) -> None:
    """The mean over all strengths would hide it, so for each: at most rounding below."""
    defense = DPSGD(epsilon=epsilon, max_norm=0.1)
    observation, truth = seen(faces, defense, signal=signal, batch=batch, model=model, momentum=0.5)
    assert gain(observation, truth, model) >= -0.05
    if epsilon == 1.0 and model is LENET:  # One draw of noise in some looks like a signal, cnn64's here.
        assert too_weak(observation)


def test_where_the_budget_is_boundless_one_image_is_found(faces: ImageDataset) -> None:
    observation, truth = seen(faces, DPSGD(epsilon=1e9, max_norm=0.1), model=CNN)
    assert gain(observation, truth, CNN) > 3.0


def run(faces_root: Path, out: Path, defense: list[dict[str, Any]], **changes: Any) -> pd.DataFrame:
    """The rows of a small sweep without a search."""
    config = sweep(
        faces_root,
        cells=[{"name": "none"}, {"name": "dp", "defense": defense}],
        attackers__0__search={},
        **changes,
    )
    outcome = run_sweep(config, out, address="serial", reporter=Silent())
    assert (outcome.failed, outcome.fresh) == (0, outcome.trials)
    return comparable(out)


@pytest.mark.slow
def test_a_sweep_through_dp_sgd(faces_root: Path, tmp_path: Path) -> None:
    defense = [{"kind": "dp_sgd", "epsilon": 4.0, "max_norm": 0.5}]
    options = {
        "capture__signal": "local_update",
        "federation__local__batch_size": 3,
        "victims": {"tuning": 0, "test": 3},
    }
    rows = run(faces_root, tmp_path / "a", defense, **options)
    private, plain = rows[rows["cell"] == "dp"], rows[rows["cell"] == "none"]
    assert set(private["epsilon"]) == {4.0}
    assert set(private["dp_unit"]) == {"example"}
    assert set(private["dp_against"]) == {"server"}
    assert bool((private["epsilon_release"] < 4.0).all())
    assert private["clip_factor"].between(0, 1).all()
    assert (private["noise_to_signal_db"] > 0).all()
    assert plain[["epsilon", "dp_against", "clip_factor", "noise_to_signal_db"]].isna().all().all()
    assert json.loads(private["defense_params"].iloc[0])[0]["kind"] == "dp_sgd"
    again = run(faces_root, tmp_path / "b", defense, **options)
    pd.testing.assert_frame_equal(rows, again)
    assert ExampleClip(max_norm=0.5) in DPSGD(max_norm=0.5).facts(FederationConfig())
