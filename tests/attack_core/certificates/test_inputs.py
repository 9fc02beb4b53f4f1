"""Certificates of images that a fully connected layer sees: against the truth, and where they are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attack_core.attacks.analytic import Analytic
from attack_core.base.types import Reconstruction
from attack_core.matching.matching import Matching
from attack_core.metrics.metrics import assign, psnr
from fl_core.base.rng import generator
from fl_core.base.types import Truth
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.threat.facts import Noise
from fl_core.threat.observation import Observation
from tests.support.analytic import observed
from tests.support.matched import MLP

ATTACK = Analytic(fallback=Matching(iterations=2))


def attacked(observation: Observation, attack: Analytic = ATTACK) -> Reconstruction:
    return attack(observation, build_model(observation.model), generator("attack", 0))


def reached(found: Reconstruction, truth: Truth) -> list[tuple[float, float]]:
    """Each image's certified PSNR and the real one."""
    order = assign(found.images, truth.images)
    return [
        (certificate.psnr, float(psnr(found.images[j : j + 1], truth.images[i : i + 1])))
        for i, j in enumerate(order)
        if j is not None and (certificate := found.certificates[j]) is not None
    ]


@pytest.mark.parametrize("batch", [1, 3])
def test_exact_gradients_are_certified_and_the_bound_holds(faces: ImageDataset, batch: int) -> None:
    observation, truth = observed(faces, MLP, batch=batch)
    found = attacked(observation)
    assert [each and each.verdict for each in found.certificates] == ["exact"] * batch
    assert all(bound <= real for bound, real in reached(found, truth))


def test_noise_that_nobody_tells_is_not_certified(faces: ImageDataset) -> None:
    observation, truth = observed(faces, MLP)
    size = max(float(value.abs().max()) for value in observation.tensors.values())
    draw = torch.Generator().manual_seed(0)
    noisy = {
        name: value + 0.1 * size * torch.randn(value.shape, generator=draw)
        for name, value in observation.tensors.items()
    }
    found = attacked(replace(observation, tensors=noisy))
    (certificate,) = found.certificates
    assert certificate is not None
    assert certificate.verdict == "determined"
    assert all(bound <= real for bound, real in reached(found, truth))


def test_one_number_for_each_pixel_has_nothing_to_check_it(faces: ImageDataset) -> None:
    observation, _ = observed(faces, MLP)
    first = next(name for name in observation.tensors if name.endswith("weight"))
    bias = f"{first.removesuffix('weight')}bias"
    row = int(observation.tensors[bias].abs().argmax())
    kept = dict(observation.tensors)
    for name in (first, bias):
        alone = torch.zeros_like(kept[name])
        alone[row] = 1.7 * kept[name][row] if name == first else kept[name][row]
        kept[name] = alone
    (certificate,) = attacked(replace(observation, tensors=kept)).certificates
    assert certificate is not None
    assert certificate.verdict == "determined"
    assert "no equation is left over" in certificate.words


def test_known_noise_has_no_certificate_of_this_kind(faces: ImageDataset) -> None:
    observation, _ = observed(faces, MLP)
    told = replace(observation, facts=(Noise(distribution="gaussian", sigma=1e-6),))
    assert all(each is None or each.verdict != "exact" for each in attacked(told).certificates)


def test_few_features_leave_an_image_open(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    found = attacked(observation, replace(ATTACK, decode=False))
    assert found.method.startswith("analytic: features")
    (certificate,) = found.certificates
    assert certificate is not None
    assert certificate.verdict == "open"
    assert certificate.rank < observation.model.shape.numbers


def test_the_input_of_the_last_convolution_determines_the_image(faces: ImageDataset) -> None:
    observation, truth = observed(faces)
    found = attacked(observation)
    ((promised, reached_in_fact),) = reached(found, truth)
    assert found.certificates[0] is not None
    assert found.certificates[0].verdict == "exact"
    assert found.certificates[0].rank == observation.model.shape.numbers
    assert 40.0 <= promised <= reached_in_fact


def test_who_asks_for_no_certificates_gets_none_that_cost_anything(faces: ImageDataset) -> None:
    observation, _ = observed(faces)
    assert attacked(observation, ATTACK.uncertified()).certificates == ()
    pixels, _ = observed(faces, MLP)
    assert attacked(pixels, ATTACK.uncertified()).certificates[0] is not None
