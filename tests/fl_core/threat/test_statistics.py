"""The change of BatchNorm's statistics: who sees it, of which update, and what it says of the client's batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attack_core.gradients.batchnorm import SeenStatistics
from attack_core.metrics.controls import norm_matched_noise
from defenses.compression.compression import Prune
from defenses.dp.local import DPUpdate
from defenses.masking.masking import Masking
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import Signal
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining, batch_gradient, train_locally, trainable
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.models.forward import predict
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation
from tests.support.normalised import NORMS, SEES, batches_of, federation_of, observed


def of_batch(model: nn.Module, state: Any, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and unbiased variance of each BatchNorm layer's inputs, by hand."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str, inputs: Tensor) -> None:
        channels = inputs.detach().double().transpose(0, 1).flatten(1)
        found[name] = channels.mean(1), channels.var(1, unbiased=True)

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))  # type: ignore[misc]
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    predict(model, state, images)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("signal", ["gradients", "one_step_update"])
def test_one_step_shows_the_batchs_mean_and_variance_exactly(faces: ImageDataset, signal: Signal) -> None:
    model, seen = build_model(NORMS), observed(faces, signal=signal)
    found = SeenStatistics.of(seen, model)
    assert found is not None
    assert found.batches == 1
    right = of_batch(model, seen.state.with_own_buffers(), batches_of(faces)[0][0])
    assert found.mean.keys() == right.keys()
    for name, (mean, variance) in right.items():
        torch.testing.assert_close(found.mean[name].double(), mean, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(found.variance[name].double(), variance, rtol=1e-4, atol=2e-5)
        # A biased variance would show.
        assert float((found.variance[name] - 0.99 * variance).abs().max()) > 1e-4


def test_several_steps_show_means_in_which_the_last_counts_most(faces: ImageDataset) -> None:
    model, seen = build_model(NORMS), observed(faces, signal="local_update", momentum=0.0)
    steps = batches_of(faces, momentum=0.0)
    found = SeenStatistics.of(seen, model)
    assert found is not None
    assert found.batches == len(steps) == 3
    state, each = seen.state, []
    for images, labels in steps:
        each.append(of_batch(model, state.with_own_buffers(), images))
        local = LocalTraining(batch_size=2, lr=0.05, momentum=0.0)
        state = train_locally(model, state, [(images, labels)], local).state
    weights = torch.tensor([0.9**2, 0.9, 1.0], dtype=torch.float64)
    weights = weights / weights.sum()
    for name, mean in found.mean.items():
        right = torch.stack([step[name][0] for step in each])
        torch.testing.assert_close(mean.double(), weights @ right, rtol=1e-4, atol=1e-5)
        spread = torch.stack([step[name][1] for step in each])
        torch.testing.assert_close(found.variance[name].double(), weights @ spread, rtol=1e-4, atol=1e-5)


def test_layers_that_keep_plain_means_show_plain_means() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=None)).train()
    images = [torch.rand((2, 3, 4, 4), generator=generator("images", i)) for i in range(3)]
    for batch in images[:1]:
        model(batch)
    before = {name: value.clone() for name, value in model.named_buffers()}
    for batch in images[1:]:
        model(batch)
    changes = {name: value - before[name] for name, value in model.named_buffers()}
    seen = replace(
        Observation(
            signal="local_update",
            model=NORMS,
            state=initial_state(NORMS, generator("model", 0)),
            tensors={},
            examples=4,
            clients=1,
            batch_size=2,
            steps=2,
            lr=0.1,
            momentum=0.0,
        ),
        statistics=changes,
    )
    seen = replace(seen, state=replace(seen.state, buffers=before))
    found = SeenStatistics.of(seen, model)
    assert found is not None
    torch.testing.assert_close(found.mean["0"], torch.stack([x.mean((0, 2, 3)) for x in images[1:]]).mean(0))


def test_nothing_passes_unless_the_threat_model_says_so(faces: ImageDataset) -> None:
    assert observed(faces, threat=ThreatModel()).statistics == {}
    assert observed(faces).statistics
    noise = norm_matched_noise(observed(faces), generator("noise"))
    assert noise.statistics == {}


def test_what_becomes_of_the_statistics_under_defenses(faces: ImageDataset) -> None:
    plain = observed(faces, signal="one_step_update").statistics
    for defense in (ClipOnly(max_norm=1e-3), NoiseOnly(sigma=1.0), Prune(ratio=0.9)):
        sent = observed(faces, defense, signal="one_step_update").statistics
        assert sent.keys() == plain.keys()
        assert all(torch.equal(value, plain[name]) for name, value in sent.items())
    private = DPUpdate(epsilon=8.0, delta=1e-5, max_norm=1.0)
    assert observed(faces, private, signal="one_step_update").statistics == {}


def test_an_aggregate_shows_the_mean_of_its_clients(faces: ImageDataset) -> None:
    seen = observed(faces, signal="agg_update")
    model, state = build_model(NORMS), initial_state(NORMS, generator("model", 0))
    federation = federation_of(faces)
    changes = [
        federation.client_update(state, client, federation.trained_batches(client, 0), round_number=0)[
            0
        ].buffers
        for client in federation.participants(0, first=0)
    ]
    for name, value in seen.statistics.items():
        right = torch.stack([each[name].double() for each in changes]).mean(0)
        torch.testing.assert_close(value.double(), right, rtol=1e-5, atol=1e-6)
    alone = observed(faces, signal="agg_update", threat=replace(SEES, colluders=len(changes) - 1)).statistics
    for name, value in alone.items():
        torch.testing.assert_close(value.double(), changes[0][name].double(), rtol=1e-3, atol=1e-5)
    assert SeenStatistics.of(seen, model) is not None


def test_a_secure_sum_opens_the_mean_of_the_statistics_alone(faces: ImageDataset) -> None:
    plain = observed(faces, signal="agg_update", lr=0.01).statistics
    summed = observed(faces, Masking(), signal="agg_update", lr=0.01).statistics
    assert summed.keys() == plain.keys()
    for name, value in summed.items():
        torch.testing.assert_close(value.double(), plain[name].double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (replace(NORMS, batch_norm="eval"), "resnet20 with model.batch_norm = 'eval' changes no statistics"),
        (ModelConfig(kind="mlp", image_size=16), "mlp has no BatchNorm layer that keeps running statistics"),
        (
            ModelConfig(kind="cnn64", image_size=16, batch_norm="train"),
            "cnn64 has no BatchNorm layer that keeps running statistics",
        ),
    ],
)
def test_networks_without_such_a_change_are_refused(model: ModelConfig, sentence: str) -> None:
    with pytest.raises(InputError, match=r"threat\.sees_statistics = true: ") as refused:
        SEES.check_statistics(model)
    assert sentence in str(refused.value)
    ThreatModel().check_statistics(model)
    SEES.check_statistics(NORMS)


def test_a_gradient_in_evaluation_mode_sends_no_buffers(faces: ImageDataset) -> None:
    federation = federation_of(faces, replace(NORMS, batch_norm="eval"))
    state = initial_state(federation.model, generator("model", 0))
    batch = federation.local_batches(0, 0)[0]
    assert federation.client_gradient(state, 0, batch, round_number=0).buffers == {}


def test_the_gradient_is_what_it_was(faces: ImageDataset) -> None:
    federation, images = federation_of(faces), batches_of(faces)[0]
    state = initial_state(NORMS, generator("model", 0))
    before = {name: value.clone() for name, value in state.buffers.items()}
    sent = federation.client_gradient(state, 0, federation.local_batches(0, 0)[0], round_number=0)
    right = batch_gradient(build_model(NORMS), trainable(state), images)
    assert all(torch.equal(value, right[name]) for name, value in sent.tensors.items())
    assert all(torch.equal(value, before[name]) for name, value in state.buffers.items())
