"""The convolutions of a network in the order in which they run: what they see of one image, and where they pass it on.

Nothing is read off names. One image runs through the network, and hooks note each convolution's input and output; a
BatchNorm in eval mode follows a convolution where it is given that very tensor.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState
from fl_core.models.forward import predict


@dataclass(frozen=True)
class ConvolutionCall:
    """One convolution that runs once: its dotted `name`, the shapes (C, H, W) of its input and output, its `normalised`
    BatchNorm's name where one follows, and that one's factor (O,) of each channel."""

    name: str
    module: nn.Conv2d
    inputs: torch.Size
    outputs: torch.Size
    normalised: str | None
    factor: Tensor | None

    @property
    def positions(self) -> int:
        """How many patches of one image the convolution sees."""
        return self.outputs[1] * self.outputs[2]

    def patches(self, inputs: Tensor) -> Tensor:
        """The patches (I, P) that it multiplies its weight (O, I) with, of `inputs` (C, H, W)."""
        module = self.module
        return functional.unfold(
            inputs[None],
            module.kernel_size,
            module.dilation,
            cast("tuple[int, int]", module.padding),
            module.stride,
        )[0]

    def folded(self, patches: Tensor) -> Tensor:
        """The adjoint of `patches`: from (I, P) to (C, H, W), overlaps added."""
        module = self.module
        return functional.fold(
            patches[None],
            tuple(self.inputs[1:]),
            module.kernel_size,
            module.dilation,
            cast("tuple[int, int]", module.padding),
            module.stride,
        )[0]


@torch.no_grad()
def convolution_calls(model: nn.Module, state: ModelState, shape: ImageShape) -> list[ConvolutionCall]:
    """Those that run once on an image of `shape`, in plain form, with patches that overlap; in order."""
    seen: dict[str, list[tuple[nn.Conv2d, Tensor, Tensor]]] = {}
    norms: list[tuple[str, nn.BatchNorm2d, Tensor]] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                hook = module.register_forward_hook(
                    lambda module, inputs, output, name=name: seen.setdefault(name, []).append(
                        (module, inputs[0], output)
                    )
                )
            elif isinstance(module, nn.BatchNorm2d) and not module.training:
                hook = module.register_forward_pre_hook(
                    lambda module, inputs, name=name: norms.append((name, module, inputs[0]))
                )
            else:
                continue
            hooks.callback(hook.remove)
        device = next(iter(state.parameters.values())).device
        predict(model, state, torch.zeros((1, *shape.size), device=device))
    found = []
    for name, calls in seen.items():
        module, inputs, output = calls[0]
        if len(calls) > 1 or inputs.dim() != 4 or not _is_plain(module):
            continue
        norm = next(((each, norm) for each, norm, given in norms if given is output), None)
        factor = None if norm is None else _factor(*norm, state)
        after = None if norm is None or factor is None else norm[0]
        found.append(ConvolutionCall(name, module, inputs.shape[1:], output.shape[1:], after, factor))
    return found


def _is_plain(module: nn.Conv2d) -> bool:
    """Whether the weight multiplies whole patches of all channels, and neighbouring patches share pixels."""
    overlap = any(
        dilation * (side - 1) >= stride
        for side, stride, dilation in zip(module.kernel_size, module.stride, module.dilation, strict=True)
    )
    numbers = not isinstance(module.padding, str) and module.padding_mode == "zeros"
    return type(module).forward is nn.Conv2d.forward and module.groups == 1 and numbers and overlap


def _factor(name: str, norm: nn.BatchNorm2d, state: ModelState) -> Tensor | None:
    """What BatchNorm in eval mode multiplies each channel (O,) with; None where it has no stored variance or bias."""
    variance, weight = state.buffers.get(f"{name}.running_var"), state.parameters.get(f"{name}.weight")
    if variance is None or weight is None or f"{name}.bias" not in state.parameters:
        return None
    return weight.detach() / torch.sqrt(variance + norm.eps)
