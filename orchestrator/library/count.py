"""How many images a signal is of, as far as a fully connected layer's gradient tells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from attack_core.fc.head import find_head
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState, Tensors
from orchestrator.library.spectrum import SPECTRUM_LIMITS, Spectrum, spectrum


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The number of images, how that is known, and the noise that was seen on the signal (0: none).

    `certain` says that the signal tells it; otherwise one image is assumed.
    """

    examples: int
    why: str
    certain: bool
    sigma: float = 0.0


def count_images(model: nn.Module, state: ModelState, tensors: Tensors, shape: ImageShape) -> Counted:
    """The images behind a signal.

    Read off the head's layers, the one of the largest smaller side first, since its rank holds the most images.
    Several local steps on other images add up in the same way.
    """
    try:
        layers = find_head(model, state, shape).layers
    except InputError as reason:
        return Counted(
            examples=1, why=f"nothing tells how many there are ({str(reason).rstrip('.')})", certain=False
        )
    layer = max(layers, key=lambda name: min(tensors[f"{name}.weight"].shape))
    weight = tensors[f"{layer}.weight"]
    if not bool(weight.any()):
        return Counted(examples=1, why=f"nothing was sent of {layer}, which would tell", certain=False)
    found = spectrum(weight)
    if found.full:
        why = f"the gradient of {layer} has full rank, {found.rank}, which tells nothing"
        return Counted(examples=1, why=why, certain=False)
    count = max(found.rank, 1)
    why = f"the gradient of {layer} has rank {count}"
    sigma = 0.0 if _subtraction(found, state.parameters[f"{layer}.weight"]) else found.sigma
    return Counted(examples=count, why=f"{why} above its noise" if sigma else why, certain=True, sigma=sigma)


def _subtraction(found: Spectrum, weight: torch.Tensor) -> bool:
    """Whether the noise is what subtracting weights of this size loses."""
    return found.sigma <= SPECTRUM_LIMITS.subtraction * float(weight.square().mean().sqrt())
