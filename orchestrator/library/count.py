"""How many images a signal is of, as far as a fully connected layer's gradient tells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from attack_core.fc.head import find_head
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState, Tensors
from orchestrator.library.spectrum import SPECTRUM_LIMITS, Spectrum, above, spectrum


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The number of images, how that is known, and the noise that was seen on the signal (0: none).

    `certain` says that the signal tells it; otherwise one image is assumed. `limited` says that the layer could not
    have shown more: as many of its inputs or outputs were on as images are seen.
    """

    examples: int
    why: str
    certain: bool
    limited: bool = False
    sigma: float = 0.0


def count_images(
    model: nn.Module,
    state: ModelState,
    tensors: Tensors,
    shape: ImageShape,
    *,
    stored: torch.dtype = torch.float32,
    sent_as: torch.dtype = torch.float32,
) -> Counted:
    """The images behind a signal.

    Read off the head's layers, the one of the largest smaller side first, since its rank holds the most images.
    Several local steps on other images add up in the same way. `stored` is the type that rounded the weights,
    `sent_as` the one that rounded the signal itself.
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
    coarse = stored if stored != torch.float32 else sent_as
    if coarse != torch.float32:
        if stored != torch.float32:
            sigma = rounding_error(state.parameters[f"{layer}.weight"], stored)
            count = above(weight, sigma)
        else:
            # A gradient's rows differ in size by orders of magnitude, and so do the errors of their rounding.
            errors = _gaps(weight, sent_as) / math.sqrt(12.0)
            sigma, count = float(errors.square().mean().sqrt()), above(weight, errors)
        kind = str(coarse).removeprefix("torch.")
        why = f"the gradient of {layer} has {count} singular values above what rounding to {kind} leaves"
        return Counted(examples=max(count, 1), why=why, certain=count > 0, sigma=sigma)
    found = spectrum(weight)
    if found.full:
        why = f"the gradient of {layer} has full rank, {found.rank}, which tells nothing"
        return Counted(examples=1, why=why, certain=False)
    count = max(found.rank, 1)
    why = f"the gradient of {layer} has rank {count}"
    sigma = 0.0 if _subtraction(found, state.parameters[f"{layer}.weight"]) else found.sigma
    limited = count >= min(int(weight.any(dim=1).sum()), int(weight.any(dim=0).sum()))
    return Counted(
        examples=count,
        why=f"{why} above its noise" if sigma else why,
        certain=True,
        limited=limited,
        sigma=sigma,
    )


def rounding_error(weights: torch.Tensor, stored: torch.dtype) -> float:
    """The deviation of the errors that storing weights in few bits leaves in their change.

    A number between two neighbours of a type is rounded to one of them, with a deviation of their distance over the
    root of 12; the weights before and after may both have been.
    """
    return float(_gaps(weights, stored).square().mean().div(6.0).sqrt())


def _gaps(values: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    """How far the neighbours of each value are apart in a type, in float64."""
    info = torch.finfo(stored)
    return info.eps * torch.log2(values.abs().double().clamp_min(info.tiny)).floor().exp2()


def _subtraction(found: Spectrum, weight: torch.Tensor) -> bool:
    """Whether the noise is what subtracting weights of this size loses."""
    return found.sigma <= SPECTRUM_LIMITS.subtraction * float(weight.square().mean().sqrt())
