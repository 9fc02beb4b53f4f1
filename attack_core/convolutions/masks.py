"""The last convolution's exact input, from its weight's gradient and the errors behind its ReLU, by decoding the zeros.

The gradient of a convolution's weight is the sum over positions of error times patch. Where nothing but one ReLU and
linear operations (average pooling, flattening) lie between the convolution and the fully connected layers, the errors
behind the ReLU are known, as linear algebra gives the fully connected layers' own. In front of it they are the same or
0: what is unknown is where the ReLU is off, one bit for each output. With the right bits the input solves linear
equations, one system for all channels, with many more equations than numbers.

Bits and input follow from each other in turn. The input at hand says which units are off. Least squares over the
gradient then leave much where channels have wrong bits: such channels count less in the next solution, and bits that
explain what is left turn (matching pursuit, Mallat and Zhang 1993). It ends where nothing is left but rounding, which
wrong bits do not reach, as there are more equations than numbers. Zhu and Blaschko 2021 (R-GAP, arXiv:2010.07733)
solve convolutions backwards too, with activations whose slopes tell their signs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.convolutions.calls import ConvolutionCall
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.types import ModelState
from fl_core.models.forward import layer_inputs

_PURPOSE = "solving for a convolution's input"


@dataclass(frozen=True, kw_only=True)
class MaskLimits:
    """When bits are decoded, and how.

    Chosen on three CelebA pictures of the validation split: cnn64 at 64 pixels, from 0 to 30 evaluations of feature
    inversion, all of which gave the exact input.
    """

    equations: float = 8.0
    """Equations for each unknown number below which nothing is tried.

    With 9 (cnn64, 64 pixels, one image) every input was found. With 4.5, two images, none was: 3% of the bits stayed
    wrong. Not measured in between.
    """
    turns: int = 10
    """How often the bits are read off the input anew, at most. Four to six were enough."""
    solutions: int = 4
    """Least squares in each turn. With three 16 to 21 were needed in all, with four 20; with two nothing came out."""
    flips: int = 4
    """Bits that may turn for each output channel after each of them; 12 took as many solutions."""
    worth: float = 0.1
    """The share of what a channel leaves that a turned bit has to explain; not measured against others."""
    contradiction: float = 0.05
    """The same share for each squared deviation by which the input contradicts the bit; not measured against others."""
    evenness: float = 0.1
    """Channels count in inverse proportion to what they leave, plus this share of the median."""
    progress: float = 0.8
    """The decoding is given up where a turn leaves more than this share of what the one before it left."""
    exact: float = 1e-5
    """The share of the gradient at which the decoding ends. Right inputs of an exact one leave 3e-7."""
    taken: float = 1e-3
    """The share that may be left where more turns leave as much: a weight delta is off by the weights' rounding.

    Of an update of one step (cnn64, 64 pixels, three CelebA pictures of the validation split) right inputs leave about
    1e-4. A bit that is wrong leaves a few thousandths.
    """
    same: float = 1e-4
    """How far, relatively, errors may differ from those that a single ReLU in front of linear operations would pass."""


MASK_LIMITS = MaskLimits()
"""The limits in force."""


@dataclass(frozen=True)
class DecodedInput:
    """What layer `layer` sees of the images, `values` (B, C, H, W), and how far off, relatively, that may be.

    `error` takes the bits to be right, as what is left says.
    """

    layer: str
    values: Tensor
    error: float


def decoded_input(
    call: ConvolutionCall,
    model: nn.Module,
    state: ModelState,
    gradient: Tensor,
    behind: tuple[str, Tensor],
    images: Tensor,
    limits: MaskLimits = MASK_LIMITS,
) -> DecodedInput | None:
    """The input of the convolution `call` for a batch; `gradient` (O, C, h, w) is that of its weight.

    `behind` is a later layer with the errors (B, I) at its input. The search starts from `images` (B, C, S, S).
    None where other operations lie between the two, equations are few, or no bits explain the gradient.
    """
    inputs = call.inputs.numel() // call.inputs[0] * len(images)
    if gradient.shape[0] * gradient[0, 0].numel() < limits.equations * inputs:
        return None
    errors = _passed_errors(call, model, state, behind, images, limits)
    if errors is None:
        return None
    with torch.no_grad():
        (start,) = layer_inputs(model, state, (call.name,), images)
        bias = state.parameters.get(f"{call.name}.bias")
        decoding = _Decoding(call, state.parameters[f"{call.name}.weight"], bias, gradient, errors, limits)
        return decoding.solve(start)


def _passed_errors(
    call: ConvolutionCall,
    model: nn.Module,
    state: ModelState,
    behind: tuple[str, Tensor],
    images: Tensor,
    limits: MaskLimits,
) -> Tensor | None:
    """The errors (B, O, H, W) behind the ReLU that follows the convolution; None where more than that follows."""
    layer, errors = behind
    # Any outputs tell; drawn anew, they leave the attack's own draws alone.
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn((len(errors), *call.outputs), generator=generator).to(errors)

    def back(outputs: Tensor) -> Tensor:
        outputs = outputs.requires_grad_(True)
        with torch.enable_grad(), _replaced(call.module, outputs):
            (found,) = layer_inputs(model, state, (layer,), images)
            (slope,) = torch.autograd.grad((found.flatten(1) * errors).sum(), outputs, materialize_grads=True)
        return slope

    on = back(drawn.abs() + 1.0)
    size = float(on.abs().max())
    apart = float((on * (drawn > 0) - back(drawn)).abs().max())
    return on if size > 0.0 and apart <= limits.same * size else None


@contextmanager
def _replaced(module: nn.Module, outputs: Tensor) -> Iterator[None]:
    """`outputs` in the place of the module's own; a copy, as what follows may work in place."""
    hook = module.register_forward_hook(lambda *_: outputs.clone())
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class _Decoding:
    """The equations of one convolution: `gradient` (O, C, h, w) and `errors` (B, O, H, W) behind its ReLU.

    Axes below: K numbers of the kernel's window, N positions of all images, Q numbers of one channel's inputs.
    """

    call: ConvolutionCall
    weight: Tensor
    bias: Tensor | None
    gradient: Tensor
    errors: Tensor
    limits: MaskLimits

    def solve(self, start: Tensor) -> DecodedInput | None:
        """From inputs (B, C, H, W) that are nearly right, or far off, to the exact ones; None where it fails."""
        limits, rows = self.limits, self.gradient.flatten(1)
        size = max(float(torch.linalg.vector_norm(rows)), TINY)
        live = (rows.abs().amax(1) > 0).to(rows)
        errors = self.errors.flatten(2).transpose(0, 1).flatten(1)
        # What a ReLU and a pooling pass is nowhere negative.
        floor = 0.0 if float(start.min()) >= 0.0 else -math.inf
        inputs, share = start, math.inf
        for _ in range(limits.turns):
            before = share
            outputs = self._outputs(self._patches(inputs))
            on, weights = outputs > 0, live
            system = self._system(errors * on)
            left = self._left(system, inputs)
            for more in reversed(range(limits.solutions)):
                inputs = (inputs + self._step(system, weights, left)).clamp_min(floor)
                left = self._left(system, inputs)
                share = float(torch.linalg.vector_norm(left)) / size
                if share <= limits.exact:
                    return self._answer(inputs, system, share * size)
                if more:
                    left = self._turn_bits(on, left, errors, self._patches(inputs), outputs, live > 0)
                    system = self._system(errors * on)
                    weights = self._evened(live, left)
            if not share <= limits.progress * before:
                break
        return self._answer(inputs, system, share * size) if share <= limits.taken else None

    def _evened(self, live: Tensor, left: Tensor) -> Tensor:
        """How much channels count (O,), of which those that are not 0 in `live` (O,) leave `left` (O, C K)."""
        each = torch.linalg.vector_norm(left, dim=1)
        weights: Tensor = live / (each + self.limits.evenness * each[live > 0].median()).clamp_min(TINY)
        return weights

    def _turn_bits(
        self, on: Tensor, left: Tensor, errors: Tensor, patches: Tensor, before: Tensor, live: Tensor
    ) -> Tensor:
        """Turns bits of `on` (O, N) that explain what channels leave, `left` (O, C K); what is left then.

        `before` (O, N) are the outputs that the bits were read from: how far the new ones are from them says how sure
        these are.
        """
        outputs = self._outputs(patches)
        unsure = (outputs - before).square().mean().sqrt().clamp_min(TINY)
        against = (torch.where(on, outputs, -outputs).clamp_min(0.0) / unsure).square()
        products, along = patches @ patches.mT, left @ patches.mT
        whole = left.square().sum(1)
        worth = errors.square() * products.diagonal() + self.limits.contradiction * whole[:, None] * against
        steps = torch.where(on, -errors, errors)
        turned = torch.zeros_like(errors)
        for _ in range(self.limits.flips):
            best, position = torch.addcmul(-worth, steps, along, value=2.0).max(1)
            chosen = (best > self.limits.worth * whole) & live
            channels = chosen.nonzero()[:, 0]
            if not len(channels):
                break
            at = position[channels]
            # One pass over all channels takes less time than picking some.
            step = steps.gather(1, position[:, None]) * chosen[:, None]
            along.addcmul_(step, products.index_select(0, position), value=-1.0)
            turned[channels, at] = step[channels, 0]
            on[channels, at] = ~on[channels, at]
            worth[channels, at] = math.inf
        return left - turned @ patches

    def _step(self, system: Tensor, weights: Tensor, left: Tensor) -> Tensor:
        """The change of inputs (B, C, H, W) that explains most of `left` (O, C K), by `weights` (O,) of channels."""
        channels, height, width = self.call.inputs
        each = weights.repeat_interleave(len(system) // len(weights))[:, None]
        weighted = system * each
        factor = exact(weighted.mT @ weighted, _PURPOSE)
        factor.diagonal().add_(torch.finfo(torch.float32).eps * float(factor.diagonal().mean()))
        rows = left.view(len(weights), channels, -1).transpose(1, 2).reshape(-1, channels)
        step: Tensor = torch.linalg.solve(factor, exact(weighted.mT @ (rows * each), _PURPOSE)).to(left)
        return step.view(-1, height, width, channels).movedim(-1, 1)

    def _left(self, system: Tensor, inputs: Tensor) -> Tensor:
        """What inputs (B, C, H, W) leave of the gradient, (O, C K)."""
        channels = inputs.shape[1]
        found = system @ inputs.movedim(1, -1).reshape(-1, channels)
        shaped = found.view(len(self.gradient), -1, channels).transpose(1, 2)
        return self.gradient.flatten(1) - shaped.flatten(1)

    def _answer(self, inputs: Tensor, system: Tensor, left: float) -> DecodedInput:
        """With the error that what is `left` may make of the inputs."""
        system = exact(system, _PURPOSE)
        least = float(torch.linalg.eigvalsh(system.mT @ system)[0].clamp_min(0.0).sqrt())
        size = max(float(torch.linalg.vector_norm(inputs)), TINY)
        return DecodedInput(self.call.name, inputs, left / max(least, TINY) / size)

    def _system(self, errors: Tensor) -> Tensor:
        """The matrix (O K, Q) that takes a channel's input to its part of the gradient, at `errors` (O, N)."""
        nothing = errors.new_zeros((len(errors), 1))
        # `index_select` takes a thirtieth of the time that indexing by a matrix does.
        system = torch.cat([errors, nothing], dim=1).index_select(1, self._positions.flatten())
        return system.view(-1, self._positions.shape[1])

    @cached_property
    def _positions(self) -> Tensor:
        """At which of N positions a number (K, Q) of the inputs lies in a place of the window; N where at none."""
        height, width = self.call.inputs[1:]
        cells = torch.arange(height * width, dtype=torch.float32, device=self.errors.device)
        # Padding is 0, and no cell is.
        windows = self._windows(cells.view(1, 1, height, width) + 1)[0].long() - 1
        images, each = len(self.errors), windows.shape[1]
        place, position = (windows >= 0).nonzero(as_tuple=True)
        found = windows.new_full((len(windows), images, height * width), images * each)
        for image in range(images):
            found[place, image, windows[place, position]] = image * each + position
        return found.flatten(1)

    def _patches(self, inputs: Tensor) -> Tensor:
        """All patches (N, C K) of inputs (B, C, H, W)."""
        return self._windows(inputs).transpose(1, 2).flatten(0, 1)

    def _outputs(self, patches: Tensor) -> Tensor:
        """The convolution's outputs (O, N)."""
        return functional.linear(patches, self.weight.flatten(1), self.bias).mT

    def _windows(self, inputs: Tensor) -> Tensor:
        module = self.call.module
        return functional.unfold(
            inputs,
            module.kernel_size,
            module.dilation,
            cast("tuple[int, int]", module.padding),
            module.stride,
        )
