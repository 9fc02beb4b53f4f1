"""Frozen results at fixed seeds: a refactoring that changes a figure has changed the attack.

The tolerance is for other processors and library builds, which round differently.
"""

from __future__ import annotations

from typing import Any

import pytest

from attack_core.gradients.objectives import Cosine
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import open_celeba
from fl_core.models.config import ModelConfig
from tests.support.matched import attacked, observed, score

TOLERANCE_DB = 0.3


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("cnn64", {"tv_weight": 1e-5}, 18.77),
        ("cnn64", {"tv_weight": 1e-5, "objective": Cosine()}, 19.00),
        ("cnn64", {"tv_weight": 1e-5, "layer_weights": "early", "init": "fourier", "restarts": 2}, 19.80),
        ("mlp", {"lr": 0.2}, 32.16),
    ],
)
def test_figures_are_what_they_were(
    faces_root: Any, kind: str, options: dict[str, Any], expected: float
) -> None:
    dataset = open_celeba(faces_root, shape=ImageShape.square(16))
    observation, truth = observed(dataset, ModelConfig(kind=kind, image_size=16))  # type: ignore[arg-type]
    assert score(attacked(observation, **options).images, truth.images) == pytest.approx(
        expected, abs=TOLERANCE_DB
    )
