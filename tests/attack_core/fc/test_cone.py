"""Batches by the zeros of a layer's inputs: corners of a simplex, means over several passes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attack_core.attacks.analytic import Analytic
from attack_core.choosing.obstacles import obstacle_to_analytic
from attack_core.fc.cone import rectified_inputs, separate_rectified
from attack_core.fc.head import Prefix, find_head
from attack_core.fc.inversion import recover_shares
from attack_core.fc.spear import Inseparable
from attack_core.inversion.continuation import Continuation
from attack_core.metrics.metrics import assign
from fl_core.base.rng import generator
from fl_core.federation.client import LocalTraining, loss_gradient, weight_update
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from fl_core.threat.record import RoundRecord
from tests.support.matched import score

CNN = ModelConfig(kind="cnn64", image_size=16, classes=10)


def rectified(count: int, width: int = 300) -> Tensor:
    draw = generator("inputs")
    shared = torch.randn(width, generator=draw)
    return (shared + torch.randn((count, width), generator=draw)).relu()


def pictures(count: int, classes: int) -> tuple[Tensor, Tensor]:
    draw = generator("pictures")
    coarse = torch.randn((count, 3, 4, 4), generator=draw)
    images = torch.nn.functional.interpolate(coarse, 16, mode="bilinear").clamp(-1.0, 1.0)
    return images, torch.randint(classes, (count,), generator=draw)


def nearest(found: Tensor, wanted: Tensor) -> Tensor:
    """The relative distance (B,) of each wanted row to the found row that is nearest."""
    return torch.cdist(wanted.double(), found.double()).amin(1) / wanted.double().norm(dim=1)


def test_inputs_and_errors_are_the_corners_of_a_simplex() -> None:
    inputs, errors = rectified(9), torch.randn((9, 12), generator=generator("errors"))
    found = separate_rectified(errors.mT @ inputs, errors.sum(0), 9, generator("attack"))
    assert float(nearest(found.inputs, inputs).max()) < 1e-4
    assert float(nearest(found.errors, errors).max()) < 1e-3
    assert found.residual < 1e-5


def test_inputs_that_move_a_little_are_found_as_means() -> None:
    draw, inputs = generator("moves"), rectified(6)
    errors = torch.randn((6, 40), generator=draw)
    # A unit that is off stays off, as nearly all do.
    again = inputs * (1.0 + 0.02 * torch.randn(inputs.shape, generator=draw))
    found = separate_rectified(
        errors.mT @ (inputs + again), 2 * errors.sum(0), 6, generator("attack"), moved=True
    )
    assert float(nearest(found.inputs, (inputs + again) / 2).max()) < 0.02


def test_inputs_without_zeros_and_other_ranks_are_refused() -> None:
    inputs, errors = rectified(5), torch.randn((5, 12), generator=generator("errors"))
    with pytest.raises(Inseparable, match="0 of 5 images were told apart by the zeros of their inputs"):
        separate_rectified(errors.mT @ (inputs + 0.5), errors.sum(0), 5, generator("attack"))
    with pytest.raises(Inseparable, match="does not have rank 4"):
        separate_rectified(errors.mT @ inputs, errors.sum(0), 4, generator("attack"))


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        (CNN, True),
        (ModelConfig(kind="convnet", image_size=18), True),
        (ModelConfig(kind="lenet", image_size=16), False),
        (ModelConfig(kind="mlp", image_size=8), False),
    ],
)
def test_rectified_inputs_are_seen_on_noise(config: ModelConfig, fits: bool) -> None:
    model, state = build_model(config), initial_state(config, generator("model"))
    head = find_head(model, state, config.shape)
    assert rectified_inputs(model, state, head, config.shape) is fits


def test_ten_classes_and_many_images_behind_one_hidden_layer() -> None:
    images, labels = pictures(20, 10)
    model, state = build_model(CNN), initial_state(CNN, generator("model"))
    observation = Observation(
        signal="gradients",
        model=CNN,
        state=state,
        tensors=loss_gradient(model, state, (images, labels)),
        examples=20,
        clients=1,
        batch_size=20,
        steps=1,
        lr=0.1,
        momentum=0.0,
    )
    assert obstacle_to_analytic(observation, model) is None
    head = find_head(model, state, CNN.shape)
    shares = recover_shares(
        observation.tensors,
        state.parameters,
        head,
        20,
        generator("attack"),
        estimate="weighted",
        rounds=1,
        tolerance=1e-3,
        rectified=True,
    )
    truth = Prefix(model, state, head.first)(images)
    assert float(nearest(shares.inputs, truth).max()) < 1e-3
    assert shares.labels.sort().values.tolist() == labels.sort().values.tolist()


def test_two_epochs_in_other_orders_are_inverted_at_their_mean_weights() -> None:
    images, labels = pictures(4, 10)
    model, state = build_model(CNN), initial_state(CNN, generator("model"))
    steps = [([0, 1]), ([2, 3]), ([3, 0]), ([1, 2])]
    update, _ = weight_update(
        model,
        state,
        ((images[step], labels[step]) for step in steps),
        LocalTraining(lr=0.01, momentum=0.0, batch_size=2),
        client=0,
        examples=4,
    )
    record = RoundRecord(
        signal="local_update", round=0, model=CNN, state=state, batch_size=2, updates=(update,)
    )
    observation = observe(record, ThreatModel())
    assert obstacle_to_analytic(observation, model) is None
    attack = Analytic(inversion=Continuation(evaluations=60))
    found = attack(observation, model, generator("attack"))
    assert found.outcome == "analytic"
    assert any("seen several times" in note for note in found.notes)
    order = assign(found.images, images)
    assert found.labels[[each for each in order if each is not None]].tolist() == labels.tolist()
    assert score(found.images, images) > 20.0
