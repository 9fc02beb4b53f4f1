"""Statistics of BatchNorm layers over vectors, sequences, images and volumes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attack_core.gradients.batchnorm import has_batch_norm, statistics_distance
from attack_core.gradients.tracing import couples_examples
from fl_core.models.forward import predict
from tests.support.networks import SMALL, built, some, state_of


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["batch_norm_1d", "transposed", "skips", "volumes"])
def test_statistics_are_those_of_each_candidates_channels(name: str, train: bool) -> None:
    model, _ = built(name, train=train, dtype=torch.float32)
    state, images = state_of(model), some((3, 2, 3, SMALL, SMALL), name, torch.float32)
    (layer,) = [key for key, module in model.named_modules() if has_batch_norm(module) and key]
    found = statistics_distance(model, state, images)
    assert couples_examples(model) is train
    for candidate, value in zip(images, found, strict=True):
        seen: list[Tensor] = []
        hook = model.get_submodule(layer).register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))  # type: ignore[misc]
        predict(model, state.with_own_buffers(), candidate)
        hook.remove()
        channels = seen[0].transpose(0, 1).flatten(1)
        mean = channels.mean(1) - state.buffers[f"{layer}.running_mean"]
        variance = channels.var(1, unbiased=False) - state.buffers[f"{layer}.running_var"]
        torch.testing.assert_close(value, mean.norm() + variance.norm())


def test_a_layer_that_keeps_no_statistics_always_mixes_the_batch() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert couples_examples(model)
    assert not has_batch_norm(model)
