"""Several rounds of one client: the same images at each round's weights, under noise drawn anew."""

from __future__ import annotations

import torch

from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining, gradient_update
from fl_core.models.build import build_model
from tests.support.watched import recorded, states, watched


def test_each_round_has_the_same_images_at_its_own_weights(faces: ImageDataset) -> None:
    record, truth = recorded(faces, "mlp", rounds=3, sigma=None)
    network, weights = build_model(record.model), states(record.model, 3)
    batch, local = (truth.images, truth.labels), LocalTraining(batch_size=1)
    rounds = (record, *record.later)
    assert [each.round for each in rounds] == [0, 1, 2]
    for each, state in zip(rounds, weights, strict=True):
        wanted = gradient_update(network, state, batch, local, client=0).tensors
        for name, value in each.updates[0].tensors.items():
            assert torch.allclose(value, wanted[name], atol=1e-6)
            assert torch.equal(each.state.parameters[name], state.parameters[name])


def test_noise_is_drawn_anew_in_each_round(faces: ImageDataset) -> None:
    plain, _ = recorded(faces, "mlp", rounds=2, sigma=None)
    noisy, _ = recorded(faces, "mlp", rounds=2, sigma=0.01)
    drawn = []
    for each, other in zip((plain, *plain.later), (noisy, *noisy.later), strict=True):
        name = next(iter(each.updates[0].tensors))
        drawn.append(other.updates[0].tensors[name] - each.updates[0].tensors[name])
    first, second = (noise.flatten() for noise in drawn)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.02
    assert 0.0098 < float(second.std()) < 0.0102


def test_the_threat_model_holds_for_every_round(faces: ImageDataset) -> None:
    observation, _ = watched(faces, rounds=3, sigma=0.01)
    assert [each.later for each in observation.rounds] == [(), (), ()]
    assert all(each.labels is None and each.facts for each in observation.rounds)
