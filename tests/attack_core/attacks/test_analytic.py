"""The analytic attack as a whole: every signal, every way out, and what it says of itself."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from attack_core.attacks.analytic import Analytic
from attack_core.base.types import Reconstruction
from attack_core.fc.head import find_head
from attack_core.fc.inversion import input_estimate, recover_shares
from attack_core.fc.step_order import find_order
from attack_core.gradients.targets import gradient_estimate
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.features import FeatureInverter, along_path
from attack_core.matching.matching import Matching
from attack_core.metrics.metrics import assign, psnr
from attack_core.solving.distance import gradient_mismatch
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import Truth
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Clip, Noise
from fl_core.threat.observation import Observation
from tests.support.analytic import observed
from tests.support.local_training import CNN, LENET
from tests.support.matched import MLP, NoFloat64, score

SHORT = Continuation(evaluations=60)


QUICK = Analytic(inversion=SHORT, refinement=SHORT, passes=2, fallback=Matching(iterations=3))


def attacked(observation: Observation, attack: Analytic = QUICK, seed: int = 0) -> Reconstruction:
    return attack(observation, build_model(observation.model), generator("attack", seed))


def advantage(found: Reconstruction, observation: Observation, truth: Truth) -> float:
    """By how many dB the images beat the better of grey and the mean image."""
    mean = observation.public_mean
    assert mean is not None
    known = (torch.zeros_like(truth.images), mean.expand_as(truth.images))
    return score(found.images, truth.images) - max(float(psnr(each, truth.images).mean()) for each in known)


def labels_right(found: Reconstruction, truth: Truth) -> bool:
    """Whether each image has the label of the face that it shows."""
    order = assign(found.images, truth.images)
    return [found.labels[i].item() for i in order if i is not None] == truth.labels.tolist()


CASES: list[tuple[ModelConfig, str, dict[str, Any], int, float, str]] = [
    (CNN, "gradients", {}, 1, 12.0, "analytic: features"),
    (CNN, "gradients", {"batch": 4}, 4, 8.0, "analytic: features"),
    (CNN, "one_step_update", {}, 1, 12.0, "analytic: features"),
    (CNN, "one_step_update", {"batch": 3}, 3, 8.0, "analytic: features"),
    (CNN, "local_update", {"images": 3}, 3, 8.0, "analytic: features along the steps"),
    (CNN, "local_update", {"images": 4, "momentum": 0.0}, 4, 8.0, "analytic: features along the steps"),
    (CNN, "agg_update", {"images": 2, "batch": 2}, 4, 8.0, "analytic: features"),
    (CNN, "agg_update", {"images": 2}, 4, 6.0, "analytic: features"),
    (LENET, "gradients", {}, 1, 8.0, "analytic: features, refined"),
]


@pytest.mark.parametrize(("model", "signal", "settings", "count", "margin", "method"), CASES)
def test_every_signal_gives_its_images_and_labels(
    faces: ImageDataset,
    model: ModelConfig,
    signal: str,
    settings: dict[str, Any],
    count: int,
    margin: float,
    method: str,
) -> None:
    observation, truth = observed(faces, model, signal=signal, **settings)
    found = attacked(observation)
    assert found.method == method, found.notes
    assert found.images.shape == (count, 3, 16, 16)
    assert advantage(found, observation, truth) > margin
    assert labels_right(found, truth)
    assert float(found.images.abs().max()) <= 1.0
    assert torch.equal(found.candidates[0], found.images)
    assert len(found.history) == found.iterations > 0
    assert float(found.history[-1, 0]) < 0.1 * float(found.history[0, 0])


@pytest.mark.parametrize(
    ("signal", "batch", "lr", "floor"),
    [
        ("gradients", 1, 0.01, 90.0),
        ("gradients", 4, 0.01, 90.0),
        ("one_step_update", 1, 0.01, 60.0),
        # The client's weights are rounded, and delta / lr magnifies it.
        ("one_step_update", 4, 0.2, 60.0),
    ],
)
def test_a_network_that_begins_with_a_linear_layer_gives_the_pixels(
    faces: ImageDataset, signal: str, batch: int, lr: float, floor: float
) -> None:
    observation, truth = observed(faces, MLP, signal=signal, batch=batch, lr=lr)
    found = attacked(observation)
    assert found.method == "analytic: layer input"
    assert found.iterations == 0
    assert score(found.images, truth.images) > floor
    assert labels_right(found, truth)


def test_more_evaluations_give_better_images(faces: ImageDataset) -> None:
    observation, truth = observed(faces)
    short, long = (
        attacked(observation, dataclasses.replace(QUICK, inversion=Continuation(evaluations=evaluations)))
        for evaluations in (20, 200)
    )
    assert score(long.images, truth.images) > score(short.images, truth.images) + 5.0
    assert long.loss < short.loss


@pytest.mark.slow
def test_weights_along_the_steps_matter(faces: ImageDataset) -> None:
    """Long steps: features taken at the weights before all of them give worse images."""
    observation, truth = observed(faces, signal="local_update", images=3, lr=0.1)
    along = attacked(observation, dataclasses.replace(QUICK, inversion=Continuation(evaluations=150)))
    assert along.method == "analytic: features along the steps"
    assert any("one epoch of 3 steps" in note for note in along.notes)
    model, state = build_model(CNN), observation.state
    head = find_head(model, state, ImageShape.square(16))
    shares = recover_shares(
        gradient_estimate(observation),
        state.parameters,
        head,
        3,
        generator("attack", 0),
        estimate="weighted",
        rounds=20,
        tolerance=0.1,
        after={name: value + observation.tensors[name] for name, value in state.parameters.items()},
    )
    still = inverter_of(observation, shares.inputs, Continuation(evaluations=150)).invert(
        [state] * 3, torch.zeros_like(truth.images), [0.0] * 3
    )
    assert score(along.images, truth.images) > score(still, truth.images) + 3.0


def inverter_of(observation: Observation, targets: Tensor, descent: Continuation) -> FeatureInverter:
    model = build_model(observation.model)
    return FeatureInverter(
        model=model,
        layer=find_head(model, observation.state, ImageShape.square(16)).first,
        targets=targets,
        descent=descent,
        stiffness=1.0,
        generator=generator("inverter"),
        report=lambda _: None,
    )


FALLS_BACK: list[tuple[ModelConfig, int, str]] = [
    (
        ModelConfig(kind="resnet18", image_size=16, batch_norm="train"),
        2,
        "analytic: BatchNorm in train mode mixes the images of a batch; fell back to matching",
    ),
    (
        LENET,
        2,
        "analytic: one fully connected layer of 2 outputs holds no ReLU pattern that tells 2 images apart; "
        "fell back to matching",
    ),
]


@pytest.mark.parametrize(("config", "batch", "note"), FALLS_BACK, ids=["batch norm", "one layer"])
def test_what_cannot_be_taken_apart_is_matched_and_the_notes_say_so(
    faces: ImageDataset, config: ModelConfig, batch: int, note: str
) -> None:
    observation, truth = observed(faces, config, batch=batch)
    found = attacked(observation)
    assert found.notes[0] == note
    plain = QUICK.fallback(observation, build_model(config), generator("attack", 0))
    assert found.outcome == plain.outcome == found.method == plain.method == "matching"
    assert torch.equal(found.images, plain.images)
    assert (found.loss, found.iterations) == (plain.loss, 3)
    assert found.images.shape == truth.images.shape


def test_the_same_image_twice_falls_back_too(faces: ImageDataset) -> None:
    observation, truth = observed(faces, batch=2)
    twice = truth.images[[0, 0]], truth.labels[[0, 0]]
    gradients = loss_gradient(build_model(CNN), observation.state, twice)
    found = attacked(dataclasses.replace(observation, tensors=gradients))
    assert found.outcome == found.method == "matching"
    assert "does not have rank 2, one for each image" in found.notes[0]


def noised(observation: Observation, sigma: float) -> Observation:
    random = generator("defense")
    tensors = {
        name: value + sigma * torch.randn(value.shape, generator=random)
        for name, value in observation.tensors.items()
    }
    fact = Noise(distribution="gaussian", sigma=sigma)
    return dataclasses.replace(observation, tensors=tensors, facts=(Clip(max_norm=1.0), fact))


def test_known_noise_that_hides_the_input_is_answered_by_the_mean_image(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    found = attacked(noised(observation, 10.0))
    assert observation.public_mean is not None
    assert torch.equal(found.images, observation.public_mean[None])
    assert (found.outcome, found.method) == ("prior", "analytic: prior alone")
    assert found.notes == ("the known noise hides the layer input: the answer is the mean public image",)
    blind = attacked(dataclasses.replace(noised(observation, 10.0), public_mean=None))
    assert (blind.outcome, blind.method) == ("prior", "analytic: prior alone")
    assert float(blind.images.abs().max()) < 0.1


@pytest.mark.slow
def test_known_noise_that_leaves_the_input_ends_the_descent_in_time(faces: ImageDataset) -> None:
    """Without the fact the descent goes on to fit the noise."""
    observation, truth = observed(faces)
    sigma = 0.003 * float(observation.tensors["fc1.bias"].abs().max())
    attack = dataclasses.replace(QUICK, inversion=Continuation(evaluations=300))
    known = noised(observation, sigma)
    told = attacked(known, attack)
    untold = attacked(dataclasses.replace(known, facts=()), attack)
    assert any("known noise: relative error about" in note for note in told.notes)
    assert advantage(told, observation, truth) > 5.0
    assert score(told.images, truth.images) > score(untold.images, truth.images) + 0.5


@pytest.mark.parametrize("estimate", ["ratio", "weighted", "rank_one"])
def test_the_asked_estimate_is_taken(faces: ImageDataset, estimate: Any) -> None:
    observation, _ = observed(faces, MLP)
    noisy = dataclasses.replace(noised(observation, 1e-3), facts=())
    found = attacked(noisy, dataclasses.replace(QUICK, estimate=estimate))
    expected = input_estimate(noisy.tensors["fc1.weight"], noisy.tensors["fc1.bias"], estimate)
    torch.testing.assert_close(found.images.flatten(), expected.clamp(-1.0, 1.0))
    by_itself = attacked(noisy)
    assert torch.equal(by_itself.images, found.images) is (estimate == "weighted")


@pytest.mark.parametrize(("refine", "refined"), [("auto", False), ("always", True), ("never", False)])
def test_refinement_is_left_out_where_features_suffice(
    faces: ImageDataset, refine: Any, refined: bool
) -> None:
    observation, _ = observed(faces)
    found = attacked(observation, dataclasses.replace(QUICK, refine=refine))
    assert found.method == ("analytic: features, refined" if refined else "analytic: features")
    assert (found.iterations > 80) is refined


@pytest.mark.slow
def test_refinement_helps_where_features_are_few(faces: ImageDataset) -> None:
    observation, truth = observed(faces, LENET)
    attack = dataclasses.replace(
        QUICK, inversion=Continuation(evaluations=200), refinement=Continuation(evaluations=200)
    )
    never = attacked(observation, dataclasses.replace(attack, refine="never"))
    auto = attacked(observation, attack)
    assert any("192 features for 768 pixels" in note for note in auto.notes)
    assert score(auto.images, truth.images) > score(never.images, truth.images) + 2.0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_images(faces: ImageDataset) -> None:
    brief = Continuation(evaluations=30)
    attack = dataclasses.replace(QUICK, inversion=brief, refinement=brief)
    for signal, batch in (("gradients", 3), ("local_update", 1)):
        observation, _ = observed(faces, signal=signal, batch=batch, images=3)
        first, again, other = (attacked(observation, attack, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(first.images, again.images)
        assert first.loss == again.loss
        assert not torch.equal(first.images, other.images)


def test_progress_counts_to_what_was_planned_and_reports_the_best(faces: ImageDataset) -> None:
    observation, _ = observed(faces, batch=2)
    seen: list[tuple[int, int, float]] = []
    found = QUICK(
        observation, build_model(CNN), generator("attack", 0), progress=lambda *told: seen.append(told)
    )
    done, planned, best = zip(*seen, strict=True)
    assert list(done) == list(range(1, found.iterations + 1))
    assert planned[0] == 2 * SHORT.evaluations
    assert all(after <= before for before, after in itertools.pairwise(best))
    assert best[-1] == pytest.approx(float(found.history.min()))


def test_the_loss_is_the_relative_distance_of_gradients(faces: ImageDataset) -> None:
    observation, truth = observed(faces, batch=2)
    model, state = build_model(CNN), observation.state
    other = (truth.images * 0.5, truth.labels)
    found = gradient_mismatch(model, state, observation.tensors, *other)
    gradient = loss_gradient(model, state, other)
    distance = sum((gradient[k] - v).square().sum() for k, v in observation.tensors.items())
    expected = float(distance) / float(sum(v.square().sum() for v in observation.tensors.values()))
    assert expected > 0.01
    assert found == pytest.approx(expected, rel=1e-3)
    assert gradient_mismatch(model, state, observation.tensors, truth.images, truth.labels) < 1e-6
    answer = attacked(observation)
    assert answer.loss == pytest.approx(
        gradient_mismatch(model, state, observation.tensors, answer.images, answer.labels), rel=1e-3
    )


def test_single_images_are_attacked_without_float64(faces: ImageDataset) -> None:
    """Batches, known noise and decoded inputs need linear algebra: in float64 on the CPU wherever the attack runs."""
    short = Continuation(evaluations=6)
    attack = dataclasses.replace(QUICK, inversion=short, refinement=short, decode=False)
    for config in (CNN, LENET, MLP):
        observation, _ = observed(faces, config)
        with NoFloat64(few=256):
            found = attacked(observation, attack)
        assert found.method.startswith("analytic")


@pytest.mark.slow
def test_images_along_the_steps_are_found_without_float64(faces: ImageDataset) -> None:
    observation, _ = observed(faces, signal="local_update", images=3)
    model, start = build_model(CNN), observation.state.parameters
    head = find_head(model, observation.state, ImageShape.square(16))
    shares = recover_shares(
        gradient_estimate(observation),
        start,
        head,
        3,
        generator("attack"),
        estimate="weighted",
        rounds=20,
        tolerance=0.1,
        after={name: value + observation.tensors[name] for name, value in start.items()},
    )
    with NoFloat64(few=256):
        order = find_order(observation, head, shares)
        inverter = inverter_of(observation, shares.inputs, Continuation(evaluations=12))
        images, missed = along_path(
            inverter, observation, order, shares.labels, torch.zeros(1, 3, 16, 16), passes=2
        )
    assert images.shape == (3, 3, 16, 16)
    assert 0.0 < missed < 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds = 0: must be at least 1"),
        ({"tolerance": 0.0}, r"tolerance = 0.0: must be in \(0, 1\)"),
        ({"tolerance": 1.0}, r"tolerance = 1.0: must be in \(0, 1\)"),
        ({"drift_tolerance": 1.5}, r"drift_tolerance = 1.5: must be in \(0, 1\)"),
        ({"passes": 0}, "passes = 0: must be at least 1"),
    ],
)
def test_bad_settings_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"Analytic.{message}"):
        Analytic(**options)


def test_a_signal_that_does_not_fit_the_model_is_refused_by_name(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    tensors = {name: value for name, value in observation.tensors.items() if name != "fc1.bias"}
    with pytest.raises(InputError, match=r"The signal lacks tensor 'fc1.bias'"):
        attacked(dataclasses.replace(observation, tensors=tensors))
    with pytest.raises(InputError, match=r"Observation.steps = 2: must be 1 for signal 'gradients'"):
        attacked(dataclasses.replace(observation, steps=2))


def test_a_batch_that_was_taken_apart_wrongly_is_tried_again_and_then_refused(
    faces: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares that swap their inputs explain nothing, whatever their residual says."""
    observation, _ = observed(faces, batch=2)
    calls = []

    def wrong(*arguments: Any, **settings: Any) -> Any:
        shares = recover_shares(*arguments, **settings)
        calls.append(shares)
        swapped = dataclasses.replace(shares, inputs=shares.inputs.roll(1, 0))
        return swapped if len(calls) < fails else shares

    monkeypatch.setattr("attack_core.fc.layer_inputs.recover_shares", wrong)
    fails = 2
    assert attacked(observation).method == "analytic: features"
    assert len(calls) == 2
    calls.clear()
    fails = 99
    found = attacked(observation)
    assert found.outcome == found.method == "matching"
    assert len(calls) == 3
    assert "the recovered inputs do not cause the recovered errors" in found.notes[0]


def test_clipping_changes_neither_inputs_nor_the_check(faces: ImageDataset) -> None:
    observation, _ = observed(faces, batch=2)
    shorter = {name: 0.1 * value for name, value in observation.tensors.items()}
    clipped = attacked(dataclasses.replace(observation, tensors=shorter))
    assert clipped.method == "analytic: features"
    # The inputs agree to rounding, from which the descent goes another way: processors differ in how far.
    assert score(clipped.images, attacked(observation).images) > 30.0
