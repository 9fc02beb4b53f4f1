"""Starting images: what each kind promises."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch

from attack_core.signal.choices import Init
from attack_core.signal.inits import initial_images
from fl_core.base.errors import InputError
from fl_core.base.rng import generator

SHAPE = (2, 3, 3, 24, 24)
MEAN = torch.linspace(-1.0, 1.0, 3 * 24 * 24).view(3, 24, 24)


def images(kind: Any, *, std: float = 0.2, seed: int = 0) -> torch.Tensor:
    return initial_images(kind, SHAPE, std=std, generator=generator(seed), mean=MEAN)


@pytest.mark.parametrize("kind", get_args(Init))
def test_every_start_is_seeded_differs_by_restart_and_has_the_asked_deviation(kind: Init) -> None:
    found = images(kind)
    assert found.shape == SHAPE
    assert found.dtype == torch.float32
    assert torch.equal(found, images(kind))
    assert not torch.equal(found, images(kind, seed=1))
    assert not torch.equal(found[0], found[1])
    around = found - MEAN if kind == "mean" else found
    # The mean image's noise is a tenth of it; tiles repeat few draws, so their deviation is known less well.
    expected = 0.02 if kind == "mean" else 0.2
    assert float(around.square().mean().sqrt()) == pytest.approx(
        expected, rel=0.35 if "pattern" in kind else 0.05
    )


def test_uniform_noise_fills_its_range() -> None:
    bound = 0.2 * math.sqrt(3.0)
    found = images("uniform")
    assert bound * 0.999 < float(found.abs().max()) <= bound


@pytest.mark.parametrize("side", [2, 4, 8])
def test_patterns_repeat_one_tile_and_no_smaller_one(side: int) -> None:
    found = images(f"pattern-{side}")
    assert torch.equal(found, found.roll((side, side), (-2, -1)))
    assert not torch.equal(found, found.roll((side // 2, side // 2), (-2, -1)))
    assert torch.equal(found[..., :side], found[..., side : 2 * side])


def test_a_mean_start_needs_a_mean_image_of_the_right_size() -> None:
    with pytest.raises(InputError, match="this observation has none"):
        initial_images("mean", SHAPE, std=0.1, generator=generator(0))
    with pytest.raises(InputError, match=r"shape \(3, 8, 8\)"):
        initial_images("mean", SHAPE, std=0.1, generator=generator(0), mean=torch.zeros(3, 8, 8))
