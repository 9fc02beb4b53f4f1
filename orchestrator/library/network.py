"""A caller's network as attacks take it: a copy without values, and its values apart. The caller's stays as it is."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fl_core.base.errors import InputError, first_line, listed
from fl_core.base.types import ModelState
from fl_core.models.build import Normalise
from fl_core.models.finetuning.trainable import freeze, frozen_apart, requiring_gradient
from orchestrator.library.images import ImageSpec


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network without values, its values, its pictures, its classes, and what was assumed of it, in sentences."""

    model: nn.Module
    state: ModelState
    image: ImageSpec
    classes: int
    notes: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return next(iter(self.state.parameters.values())).device


def subject(model: nn.Module, image: ImageSpec, classes: int) -> Subject:
    """The network that takes pictures of `image` in [-1, 1] and gives `classes` logits.

    BatchNorm layers stay in the mode that the caller's are in; dropout is off. Raises `InputError` for what is no
    network, for one without parameters, for values that are not finite, and where a picture does not become logits.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}: must be a torch.nn.Module.")
    if not isinstance(image, ImageSpec):
        raise InputError(
            f"image is {type(image).__name__}: must be gradsweep.ImageSpec(height=..., width=...)."
        )
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 2:
        raise InputError(f"classes = {classes!r}: must be at least 2, a whole number.")
    state = ModelState(
        parameters={name: _value(name, value) for name, value in model.named_parameters()},
        buffers={name: _value(name, value) for name, value in model.named_buffers()},
    )
    if not state.parameters:
        raise InputError(
            f"model ({type(model).__name__}) has no parameters, so there are no gradients to invert."
        )
    notes = []
    own = _without_values(model)
    trained = requiring_gradient(model)
    if trained:
        # Where nothing requires a gradient, the network was put up for evaluation.
        state = frozen_apart(state, freeze(own, trained))
    if len(state.parameters) < len(dict(model.named_parameters())):
        notes.append(
            f"clients train {listed(state.parameters)}; the others do not require a gradient, and are taken as frozen"
        )
    for name, module in own.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            notes.append(
                f"{name} and other BatchNorm layers normalise by the batch, as model is in train mode"
            )
            break
    dropping = [name for name, module in own.named_modules() if _drops(module)]
    if dropping:
        notes.append(f"{dropping[0]} is in train mode, where dropout draws; it is taken as off")
    for module in own.modules():
        module.training = isinstance(module, _BatchNorm) and module.training
    mean, std = image.normalisation
    if (set(mean), set(std)) != ({0.5}, {0.5}):
        own.register_forward_pre_hook(Normalise(mean, std), prepend=True)
    _check_logits(own, state, image, classes)
    return Subject(model=own, state=state, image=image, classes=classes, notes=tuple(notes))


def _value(name: str, value: Tensor) -> Tensor:
    found = value.detach()
    if not found.is_floating_point():
        return found.clone()
    if not bool(torch.isfinite(found).all()):
        raise InputError(f"model: {name} holds NaN or infinity.")
    return found.float().clone()


def _drops(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and module.training and module.p > 0


def _without_values(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are on the meta device; tied ones stay tied."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    made = {
        id(value): nn.Parameter(value.detach().to("meta"))
        if isinstance(value, nn.Parameter)
        else value.detach().to("meta")
        for _, value in tensors
    }
    try:
        # Values that the copy finds in `memo` are taken from there: nothing large is copied.
        return copy.deepcopy(model, memo=dict(made))
    except Exception as error:
        raise InputError(
            f"model ({type(model).__name__}) cannot be copied: {type(error).__name__}: {first_line(error)}"
        ) from error


@torch.no_grad()
def _check_logits(model: nn.Module, state: ModelState, image: ImageSpec, classes: int) -> None:
    device = next(iter(state.parameters.values())).device
    # Two pictures: one alone has no spread that BatchNorm in train mode could normalise by.
    pictures = torch.zeros(2, *image.shape.size, device=device)
    values = {**state.parameters, **state.with_own_buffers().buffers}
    try:
        logits = torch.func.functional_call(model, values, (pictures,))
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"model ({type(model).__name__}) fails on pictures of {image.shape}: {reason}"
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (2, classes):
        raise InputError(
            f"model ({type(model).__name__}) turns two pictures into {shape}: must be logits of shape (2, {classes}), "
            f"as classes = {classes} says."
        )
