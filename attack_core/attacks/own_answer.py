"""What the answer of a user's own attack has to be, so that it can be scored."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attack_core.base.types import Reconstruction
from fl_core.threat.observation import Observation

Require = Callable[[bool, str], None]
"""Raises an error that says what the attack did, unless the first argument holds."""


def check_answer(found: object, observation: Observation, require: Require) -> None:
    """Have `require` raise for an answer that cannot be scored."""
    if not isinstance(found, Reconstruction):
        require(False, f"returned {type(found).__name__}: must be a Reconstruction")
        return
    for name in ("images", "labels", "candidates", "history"):
        value = getattr(found, name)
        require(isinstance(value, Tensor), f"returned {name} as {type(value).__name__}: must be a tensor")
    images, candidates, size = found.images, found.candidates, observation.model.shape.size
    _check_pictures("images", images, f"(images, {', '.join(map(str, size))})", size, 4, require)
    _check_pictures(
        "candidates", candidates, f"(restarts, *{tuple(images.shape)})", tuple(images.shape), 5, require
    )
    require(
        found.labels.shape == (len(images),) and found.labels.dtype == torch.int64,
        f"returned labels of shape {tuple(found.labels.shape)} and {found.labels.dtype}: must be {len(images)} "
        "whole numbers (torch.int64)",
    )


def _check_pictures(
    name: str, pictures: Tensor, wanted: str, end: tuple[int, ...], axes: int, require: Require
) -> None:
    shape = tuple(pictures.shape)
    fits = len(shape) == axes and shape[1:] == end and shape[0] > 0 and pictures.dtype == torch.float32
    require(
        fits,
        f"returned {name} of shape {shape} and {pictures.dtype}: must be {wanted} and torch.float32",
    )
    require(pictures.device.type == "cpu", f"returned {name} on {pictures.device}: must be on the CPU")
    # NaN is in no range.
    inside = bool(((pictures >= -1.0) & (pictures <= 1.0)).all())
    require(inside, f"returned {name} that are not all in [-1, 1]; clamp them, or raise AttackFailed")
