"""What is seen of an image: noise, roughness, distance from the mean image."""

from __future__ import annotations

import pytest
import torch

from attack_core.base.types import Reconstruction
from orchestrator.calibration.seen import grain, roughness, seen_of


def test_grain_is_the_standard_deviation_of_noise_on_a_smooth_image() -> None:
    draws = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-0.5, 0.5, 64).expand(3, 64, 64)
    noise = torch.randn(3, 64, 64, generator=draws)
    assert grain(ramp) == pytest.approx(0.0, abs=1e-6)
    assert grain(ramp + 0.05 * noise) == pytest.approx(0.05, rel=0.1)


def test_roughness_is_the_mean_step_between_neighbours() -> None:
    assert roughness(torch.linspace(0, 3, 4).expand(1, 4, 4)) == pytest.approx(0.5)


@pytest.mark.parametrize("size", [(3, 1, 1), (1, 1, 5), (2, 3, 1)])
def test_small_images_have_figures_too(size: tuple[int, int, int]) -> None:
    image = torch.zeros(size)
    assert grain(image) == 0.0
    assert roughness(image) == 0.0


def test_each_image_of_an_answer_is_seen_by_itself() -> None:
    mean = torch.zeros(1, 3, 8, 8)
    images = torch.stack([torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.5)])
    answer = Reconstruction(
        images=images,
        labels=torch.zeros(2, dtype=torch.int64),
        loss=float("nan"),
        candidates=images[None],
        history=torch.zeros(1, 1),
        iterations=1,
        failed=0,
        method="matching",
        outcome="matching",
    )
    first, second = seen_of(answer, mean)
    assert first.apart == 0.0
    assert second.apart == pytest.approx(0.5)
    assert first.features[0] == 6.0, "a loss that is no number is as bad as any"
