"""Batches whose gradient is noisy, rounded, pruned or a mean of steps: each image at what its noise leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attack_core.attacks.auto import Auto
from attack_core.choosing.obstacles import obstacle_to_analytic
from attack_core.fc.head import solvable_head
from attack_core.fc.layer_inputs import LayerInputs
from attack_core.fc.spear import Inseparable
from attack_core.separation.factors import Layer, clearance, leading_factors, solved_with_errors
from attack_core.separation.inputs import follows_from_damaged, separated_inputs
from fl_core.base.rng import generator
from fl_core.federation.client import LocalTraining, weight_update
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Clip, Noise, Sparsity
from fl_core.threat.observation import Observation
from tests.support.batches import batch_of
from tests.support.matched import score

MLP = ModelConfig(kind="mlp", image_size=8, classes=10, widths=(384, 96))


def noisy(level: float, count: int = 8) -> tuple[Observation, Tensor, Tensor, float]:
    """A batch under told noise of `level` times the gradient's root mean square, and the noise's deviation."""
    observation, images, labels = batch_of(count, MLP)
    every = torch.cat([value.flatten() for value in observation.tensors.values()])
    sigma = level * float(every.square().mean().sqrt())
    draw = generator("noise")
    tensors = {
        name: value + sigma * torch.randn(value.shape, generator=draw)
        for name, value in observation.tensors.items()
    }
    fact = Noise(distribution="gaussian", sigma=sigma)
    return replace(observation, tensors=tensors, facts=(fact,)), images, labels, sigma


def found_in(observation: Observation) -> LayerInputs:
    return separated_inputs(observation, build_model(MLP), generator("attack"))


def off_by(found: LayerInputs, images: Tensor) -> float:
    """The mean squared distance of the inputs from the images that they are nearest to, each of which is met once."""
    near = torch.cdist(found.shares.inputs, images.flatten(1))
    assert sorted(near.argmin(1).tolist()) == list(range(len(images)))
    return float(near.amin(1).square().mean()) / images[0].numel()


@pytest.mark.parametrize("level", [1e-4, 1e-2])
def test_noisy_images_are_as_exact_as_least_squares_with_the_true_errors(level: float) -> None:
    observation, images, labels, sigma = noisy(level)
    found = found_in(observation)
    assert found.measured
    assert found.shares.others is None
    near = torch.cdist(found.shares.inputs, images.flatten(1)).argmin(1)
    assert torch.equal(found.shares.labels, labels[near])
    # What the noise leaves where all errors are known, which nobody can do better than on average.
    bound = sigma**2 * float(torch.linalg.inv(exact_errors(observation, images, labels)).diagonal().mean())
    assert off_by(found, images) == pytest.approx(bound, rel=0.15)
    # The expected error is that too, though nobody told the noise.
    expected = found.error * float(found.shares.inputs.square().mean())
    assert expected == pytest.approx(bound, rel=0.15)


def exact_errors(observation: Observation, images: Tensor, labels: Tensor) -> Tensor:
    """Inner products (B, B) of the images' true errors at the first layer."""
    weights = {name: value.double() for name, value in observation.state.parameters.items()}
    layers = [name.removesuffix(".weight") for name in weights if name.endswith("weight")]
    outputs, errors, passed = [], torch.empty(0), images.flatten(1).double()
    for layer in layers:
        passed = passed @ weights[f"{layer}.weight"].mT + weights[f"{layer}.bias"]
        outputs.append(passed)
        passed = passed.relu()
    errors = (outputs[-1].softmax(1) - torch.eye(10)[labels]) / len(images)
    for layer, output in zip(layers[:0:-1], outputs[-2::-1], strict=True):
        errors = (errors @ weights[f"{layer}.weight"]) * (output > 0)
    return errors @ errors.mT


def test_rounding_that_nobody_told_of_is_measured_as_noise() -> None:
    observation, images, _ = batch_of(8, MLP)
    rounded = {name: value.bfloat16().float() for name, value in observation.tensors.items()}
    found = found_in(replace(observation, tensors=rounded))
    assert off_by(found, images) < 1e-6


def test_a_clipped_noisy_gradient_is_scaled_by_what_stands_behind_the_bias() -> None:
    observation, images, _, _ = noisy(1e-3)
    shorter = {name: 0.1 * value for name, value in observation.tensors.items()}
    facts = (Clip(max_norm=1.0), *observation.facts)
    found = found_in(replace(observation, tensors=shorter, facts=facts))
    assert off_by(found, images) < 1e-3


def test_numbers_withheld_follow_from_the_rank() -> None:
    observation, images, _ = batch_of(4, MLP)
    every = torch.cat([value.abs().flatten() for value in observation.tensors.values()])
    least = float(every.quantile(0.5))
    pruned = {
        name: torch.where(value.abs() < least, torch.zeros_like(value), value)
        for name, value in observation.tensors.items()
    }
    found = found_in(replace(observation, tensors=pruned, facts=(Sparsity(scope="all"),)))
    assert off_by(found, images) < 1e-6


@pytest.mark.parametrize(("size", "passes"), [(4, 1), (8, 2)])
def test_several_steps_are_simulated_with_the_images_that_were_found(size: int, passes: int) -> None:
    observation, images, labels = batch_of(8, MLP)
    batches = [part for _ in range(passes) for part in torch.arange(8).split(size)]
    update, _ = weight_update(
        build_model(MLP),
        initial_state(MLP, generator("model")),
        ((images[part], labels[part]) for part in batches),
        LocalTraining(batch_size=size, lr=0.01, momentum=0.0),
        client=0,
        examples=8,
    )
    observation = replace(
        observation,
        signal="local_update",
        tensors=update.tensors,
        batch_size=size,
        steps=len(batches),
        lr=0.01,
    )
    assert off_by(found_in(observation), images) < 1e-6


def test_noise_above_all_images_is_refused_with_the_reason() -> None:
    observation, _, _, _ = noisy(300.0)
    with pytest.raises(Inseparable, match="noise hides all of 8 images"):
        found_in(observation)


def test_auto_takes_a_noisy_batch_apart_and_says_so() -> None:
    observation, images, _, _ = noisy(1e-3)
    observation = replace(observation, public_mean=torch.zeros(3, 8, 8))
    assert obstacle_to_analytic(observation, build_model(MLP)) is None
    found = Auto()(observation, build_model(MLP), generator("attack"))
    assert found.outcome == "analytic"
    assert "came apart" in found.notes[0]
    assert "relative error about" in found.notes[0]
    assert score(found.images, images) > 45.0
    assert found.certificates == ()


def test_smaller_batches_seen_again_and_numbers_of_several_clients_are_left_to_others() -> None:
    observation, _, _ = batch_of(8, MLP)
    head = solvable_head(build_model(MLP), observation)
    assert follows_from_damaged(observation, head)
    shuffled = replace(observation, signal="local_update", batch_size=4, steps=4)
    assert not follows_from_damaged(shuffled, head)
    sparse = replace(observation, clients=2, facts=(Sparsity(scope="all"),))
    assert not follows_from_damaged(sparse, head)


def test_the_noise_beyond_a_rank_is_its_standard_deviation() -> None:
    draw = torch.Generator().manual_seed(0)
    low = torch.randn((200, 5), generator=draw).double() @ torch.randn((5, 300), generator=draw).double()
    noise = 0.3 * torch.randn((200, 300), generator=draw).double()
    assert leading_factors(Layer(low + noise), 5).noise == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("level", [1e-4, 1e-2])
def test_the_quick_clearance_is_that_of_the_factors(level: float) -> None:
    draw = generator("factors")
    rows, columns, noise = (
        torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((300, 8), (8, 400), (300, 400))
    )
    matrix = rows @ columns + level * noise
    assert clearance(matrix, 8) == pytest.approx(leading_factors(Layer(matrix), 8).clearance, rel=0.02)
    assert clearance(rows @ columns, 8) > 1e6
    with pytest.raises(Inseparable, match="noise hides all of 8 images"):
        clearance(noise, 8)


def test_rows_with_withheld_numbers_have_the_deviation_of_what_was_sent() -> None:
    draw = torch.Generator().manual_seed(0)
    basis = torch.randn((300, 3), generator=draw).double()
    rows = torch.randn((400, 3), generator=draw).double()
    mask = torch.rand((400, 300), generator=draw) < 0.2
    noise = 0.1 * torch.randn((400, 300), generator=draw).double()
    found, unit = solved_with_errors(Layer((rows @ basis.mT + noise) * mask, mask), basis)
    scaled = (found - rows) / (0.1 * unit)
    assert math.isclose(float(scaled.square().mean()), 1.0, rel_tol=0.1)
