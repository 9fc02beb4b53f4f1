"""Batches at two hidden layers: directions with exact zeros, images confirmed one by one, and those that are left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attack_core.attacks.auto import Auto
from attack_core.choosing.obstacles import obstacle_to_analytic
from attack_core.fc.head import solvable_head
from attack_core.fc.peeling import PEELING_LIMITS, Peeled, can_peel, peel
from attack_core.fc.sparse_directions import sparse_directions, units_off
from attack_core.fc.spear import Inseparable
from attack_core.matching.matching import Matching
from attack_core.solving.by_features.remainder import remainder
from fl_core.base.rng import generator
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Noise
from fl_core.threat.observation import Observation
from tests.support.batches import batch_of
from tests.support.matched import score

MLP = ModelConfig(kind="mlp", image_size=8, classes=10, widths=(384, 64))


def test_directions_with_exact_zeros_are_found_among_mixtures() -> None:
    draw = torch.Generator().manual_seed(0)
    sources = torch.randn((400, 8), generator=draw, dtype=torch.float64)
    sources *= torch.rand((400, 8), generator=draw) < 0.5
    columns = torch.linalg.qr(sources @ torch.randn((8, 8), generator=draw, dtype=torch.float64)).Q
    found = sparse_directions(columns, generator("attack"))
    errors = columns @ found.mT
    likeness = (errors / errors.norm(dim=0)).mT @ (sources / sources.norm(dim=0))
    assert int((likeness.abs().amax(0) > 1 - 1e-9).sum()) == 8
    best = likeness.abs().argmax(dim=1)
    for number, source in enumerate(best.tolist()):
        assert torch.equal(units_off(errors[:, number]), sources[:, source] == 0)


@pytest.mark.parametrize(("count", "noise"), [(3, 1e-8), (3, 3e-5), (2, 3e-5), (1, 3e-5)])
def test_the_last_images_are_found_though_rounding_is_all_that_many_units_show(
    count: int, noise: float
) -> None:
    # Of few images many units are off for all; their rows are what earlier images left, in no direction.
    draw = torch.Generator().manual_seed(0)
    sources = torch.randn((1000, count), generator=draw, dtype=torch.float64)
    sources *= torch.rand((1000, count), generator=draw) < 0.45
    mixed = sources @ torch.randn((count, count), generator=draw, dtype=torch.float64)
    columns = torch.linalg.qr(mixed + noise * torch.randn(mixed.shape, generator=draw)).Q
    found = columns @ sparse_directions(columns, generator("attack"), noise).mT
    likeness = (found / found.norm(dim=0)).mT @ (sources / sources.norm(dim=0))
    assert float((1 - likeness.abs().amax(0)).max()) < noise
    for number, source in enumerate(likeness.abs().argmax(dim=1).tolist()):
        off = sources[:, source] == 0
        assert float((units_off(found[:, number]) == off).double().mean()) > 0.95


def test_dense_mixtures_have_no_such_directions() -> None:
    dense = torch.randn((400, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert len(sparse_directions(torch.linalg.qr(dense).Q, generator("attack"))) == 0


@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_every_image_of_a_batch_comes_apart_with_its_label(factor: float) -> None:
    # A clipped gradient is a shorter one; how short, the rank tells.
    observation, images, labels = batch_of(12, MLP)
    gradients = {name: factor * value for name, value in observation.tensors.items()}
    head = solvable_head(build_model(MLP), observation)
    assert can_peel(head)
    found = peel(gradients, observation.state.parameters, head, 12, generator("attack"))
    near = torch.cdist(found.inputs, images.flatten(1))
    assert float(near.amin(1).max()) < 1e-3
    assert sorted(near.argmin(1).tolist()) == list(range(12))
    assert torch.equal(found.logit_errors.argmin(1), labels[near.argmin(1)])
    assert found.residual < 1e-5
    assert len(found.others) == 0


def test_auto_takes_more_than_sixteen_images_apart() -> None:
    observation, images, labels = batch_of(20, MLP)
    found = Auto()(observation, build_model(MLP), generator("attack"))
    assert found.outcome == "analytic"
    assert score(found.images, images) > 60.0
    assert torch.equal(found.labels.sort().values, labels.sort().values)


def nine_of_twelve(monkeypatch: pytest.MonkeyPatch) -> tuple[Observation, Tensor]:
    """A batch of which nine images come apart, and the others not; with its pictures."""
    observation, images, labels = batch_of(12, MLP)
    head = solvable_head(build_model(MLP), observation)
    whole = peel(observation.tensors, observation.state.parameters, head, 12, generator("attack"))
    part = replace(
        whole,
        inputs=whole.inputs[:9],
        errors=whole.errors[:9],
        logit_errors=whole.logit_errors[:9],
        others=labels[:3],
    )

    def once(*arguments: object) -> Peeled:
        if arguments[3] == 12:
            return part
        raise Inseparable("none of 3 images came apart")

    def never(*arguments: object) -> None:
        raise Inseparable("none of 12 images came apart")

    monkeypatch.setattr("attack_core.fc.inversion.peel", once)
    monkeypatch.setattr("attack_core.separation.inputs.separated_inputs", never)
    return replace(observation, public_mean=torch.full((3, 8, 8), 0.25)), images


def test_what_does_not_come_apart_is_matched_to_what_the_others_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observation, images = nine_of_twelve(monkeypatch)
    attack = Auto(fallback=Matching(iterations=120, optimizer="adam", lr=0.1, schedule="cosine"))
    found = attack(observation, build_model(MLP), generator("attack"))
    assert len(found.images) == len(found.labels) == 12
    near = torch.cdist(found.images.flatten(1), images.flatten(1))
    assert float(near[:9].amin(1).max()) < 1e-3
    left = [number for number in range(12) if number not in near[:9].argmin(1)]
    grey = torch.full((3, 3, 8, 8), 0.25)
    assert score(found.images[9:], images[left]) > score(grey, images[left]) + 3.0
    assert found.notes[:2] == (
        "9 of 12 images came apart at layer fc1",
        "the other 3 images by what these leave of the gradient",
    )


def test_where_the_others_are_of_no_use_the_rest_is_the_prior_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observation, images = nine_of_twelve(monkeypatch)
    monkeypatch.setattr("attack_core.solving.by_features.remainder.remainder", lambda *_: None)
    found = Auto()(observation, build_model(MLP), generator("attack"))
    assert float(torch.cdist(found.images[:9].flatten(1), images.flatten(1)).amin(1).max()) < 1e-3
    assert torch.equal(found.images[9:], torch.full((3, 3, 8, 8), 0.25))
    assert "9 of 12 images came apart at layer fc1" in found.notes
    assert "for the other 3 images the answer is the mean public image" in found.notes


def test_a_remainder_is_the_gradient_of_the_other_images() -> None:
    observation, images, labels = batch_of(5, MLP)
    model = build_model(MLP)
    rest = remainder(observation, model, images[:3], labels[:3])
    assert rest is not None
    assert (rest.examples, rest.batch_size) == (2, 2)
    expected = loss_gradient(model, observation.state, (images[3:], labels[3:]))
    for name, value in expected.items():
        torch.testing.assert_close(rest.tensors[name], value, atol=1e-6, rtol=1e-4)
    noisy = replace(observation, facts=(Noise(distribution="gaussian", sigma=1e-3),))
    for other, count in ((observation, 5), (replace(observation, steps=2), 3), (noisy, 3)):
        assert remainder(other, model, images[:count], labels[:count]) is None


def test_a_layer_that_is_too_narrow_is_refused_and_predicted() -> None:
    narrow = replace(MLP, widths=(96, 64))
    observation, _, _ = batch_of(20, narrow)
    model = build_model(narrow)
    assert 20 * PEELING_LIMITS.least_units > 96
    reason = obstacle_to_analytic(observation, model)
    assert reason == "20 images are too many to tell apart by 96 units of layer fc1"
    with pytest.raises(Inseparable, match="96 units for 20 images: fewer than 8 for each"):
        peel(
            observation.tensors,
            observation.state.parameters,
            solvable_head(model, observation),
            20,
            generator("attack"),
        )


def test_a_gradient_of_another_rank_is_refused() -> None:
    observation, _, _ = batch_of(6, MLP)
    draw = generator("noise")
    noisy = {
        name: value + 1e-3 * torch.randn(value.shape, generator=draw)
        for name, value in observation.tensors.items()
    }
    head = solvable_head(build_model(MLP), observation)
    with pytest.raises(Inseparable, match="does not have rank 6"):
        peel(noisy, observation.state.parameters, head, 6, generator("attack"))
