"""Labels from a gradient: counts against closed forms and real batches, greedy recovery, choice by strategy."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attack_core.metrics.metrics import label_accuracy
from attack_core.signal.labels import bias_corrected, counted, idlg, resolve_labels, rounded_counts
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.observation import Observation
from tests.support.matched import observed


def gradient_of(labels: list[int], *, classes: int = 10, kind: str = "lenet") -> Observation:
    """What a batch of random images with these labels gives away at random weights."""
    config = ModelConfig(kind=kind, image_size=16, classes=classes)  # type: ignore[arg-type]
    state = initial_state(config, generator("labels"))
    images = torch.rand((len(labels), 3, 16, 16), generator=generator("images")) * 2.0 - 1.0
    gradient = loss_gradient(build_model(config), state, (images, torch.tensor(labels)))
    return Observation(
        signal="gradients",
        model=config,
        state=state,
        tensors=gradient,
        examples=len(labels),
        clients=1,
        batch_size=len(labels),
        steps=1,
        lr=0.1,
        momentum=0.0,
    )


def resolved(strategy: Any, observation: Observation, images: int | None = None) -> torch.Tensor | None:
    count = observation.examples if images is None else images
    return resolve_labels(strategy, observation, build_model(observation.model), count, generator(0))


@pytest.mark.parametrize("kind", ["lenet", "cnn64", "mlp"])
@pytest.mark.parametrize("zeros", range(9))
def test_counts_of_two_classes_are_exact_at_random_weights(kind: str, zeros: int) -> None:
    labels = [0] * zeros + [1] * (8 - zeros)
    found = resolved("counts", gradient_of(labels, classes=2, kind=kind))
    assert found is not None
    assert found.tolist() == labels


def test_repeated_labels_of_many_classes_are_found() -> None:
    labels = [2, 2, 2, 5, 7, 7, 7, 7]
    observation = gradient_of(labels)
    for strategy in ("counts", "bias_corrected", "auto"):
        found = resolved(strategy, observation)
        assert found is not None
        assert found.tolist() == labels, strategy
    one = resolved("idlg", gradient_of([4]))
    assert one is not None
    assert one.tolist() == [4]


def test_greedy_recovery_by_hand() -> None:
    observation = gradient_of([0, 1, 2], classes=3)
    by_hand = torch.tensor([-0.5, 0.3, -0.1])
    tensors = dict(observation.tensors) | {"fc.bias": by_hand}
    # A share is 0.6 / 3 = 0.2: classes 0 and 2 first, then class 0 again, at -0.3.
    seen = dataclasses.replace(observation, tensors=tensors)
    assert bias_corrected(seen, 3).tolist() == [0, 0, 2]
    weight = torch.zeros_like(tensors["fc.weight"])
    weight[:, 0] = by_hand
    del tensors["fc.bias"]
    without = dataclasses.replace(
        observation,
        tensors=tensors | {"fc.weight": weight},
        state=dataclasses.replace(observation.state, parameters=tensors),
    )
    assert bias_corrected(without, 3).tolist() == [0, 0, 2]
    with pytest.raises(InputError, match="needs a last layer with a bias"):
        counted(without, build_model(observation.model), 3, generator(0))


@given(st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=12), st.integers(1, 64))
@example([0.0, 1.401298464324817e-45], 3)
@settings(max_examples=50, deadline=None)
def test_rounded_counts_sum_up_and_stay_within_one_of_the_ideal(shares: list[float], total: int) -> None:
    values = torch.tensor(shares)
    counts = rounded_counts(values, total)
    assert int(counts.sum()) == total
    assert bool((counts >= 0).all())
    positive = values.clamp_min(0.0)
    if float(positive.sum()) > 1e-6:
        assert bool(((counts - positive * total / positive.sum()).abs() < 1.0 + 1e-4).all())


def test_counts_of_a_multi_step_update_are_taken_halfway(faces: ImageDataset) -> None:
    observation, truth = observed(faces, signal="local_update", momentum=0.0)
    found = resolved("counts", observation)
    assert found is not None
    assert label_accuracy(found, truth.labels) >= 1.0 - 1.0 / len(truth.labels)


def test_the_public_mean_stands_in_for_the_faces(faces: ImageDataset) -> None:
    observation, _ = observed(faces, batch=2)
    seen = dataclasses.replace(observation, public_mean=faces.batch(faces.split("test"))[0].mean(0))
    assert resolved("counts", seen) is not None


def test_label_strategies(faces: ImageDataset) -> None:
    single, truth = observed(faces)
    batch, _ = observed(faces, batch=2)
    mean, _ = observed(faces, signal="agg_update")
    inferred = resolved("auto", single)
    assert inferred is not None
    assert torch.equal(inferred, idlg(single))
    assert torch.equal(inferred, truth.labels)
    assert resolved("auto", batch) is not None
    assert resolved("auto", mean, 1) is None
    assert resolved("optimize", single) is None
    with pytest.raises(InputError, match="'idlg' infers one label, but 2"):
        resolved("idlg", batch)
    with pytest.raises(InputError, match="labels: known"):
        resolved("known", single)


def test_label_accuracy_is_the_overlap_of_multisets() -> None:
    def accuracy(found: list[int], truth: list[int]) -> float:
        return label_accuracy(torch.tensor(found), torch.tensor(truth))

    assert accuracy([0, 1, 1], [1, 0, 1]) == 1.0
    assert accuracy([0, 0, 0, 1], [1, 1, 1, 0]) == 0.5
    assert accuracy([3], [2]) == 0.0
    assert accuracy([1], [1, 1, 1, 1]) == 0.25
