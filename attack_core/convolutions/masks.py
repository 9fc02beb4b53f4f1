"""The last convolution's exact input, from its weight's gradient and the errors behind its ReLU, by decoding the zeros.

The gradient of a convolution's weight is the sum over positions of error times patch. Where nothing but one ReLU and
linear operations (average pooling, flattening) lie between the convolution and the fully connected layers, the errors
behind the ReLU are known, as linear algebra gives the fully connected layers' own. In front of it they are the same or
0: what is unknown is where the ReLU is off, one bit for each output. With the right bits the input solves linear
equations, one system for all channels, with many more equations than numbers.

Bits and input follow from each other in turn: the input at hand says which units are off, and least squares over the
gradient give the next input. What is left of the gradient says which channels have wrong bits, and such channels count
less (iteratively reweighted least squares, Holland and Welsch 1977). It ends where nothing is left but rounding, which
wrong bits do not reach, as there are more equations than numbers. Zhu and Blaschko 2021 (R-GAP, arXiv:2010.07733)
solve convolutions backwards too, with activations whose slopes tell their signs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn import functional

from attack_core.convolutions.calls import ConvolutionCall
from attack_core.gradients.convolutions import Geometry
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.types import ModelState
from fl_core.models.forward import layer_inputs

_PURPOSE = "solving for a convolution's input"


@dataclass(frozen=True, kw_only=True)
class MaskLimits:
    """When bits are decoded, and how.

    Chosen on pictures of CelebA's validation split, noise and patterns: cnn64 at 32 to 64 pixels, from the mean image.
    Decoding in another way, by bits that turn for what they explain, took twice the solutions
    (docs/decisions/0116-decoding-by-weights.md).
    """

    equations: float = 8.0
    """Equations for each unknown number below which nothing is tried.

    With 8 and 9 every input was found (one to four images). With 5.9 and 4.5, two images each, none was: 1% to 5% of
    the bits stayed wrong.
    """
    turns: int = 25
    """How often the bits are read off the input, at most. One image took 5 to 12 turns, two and four 8 to 17."""
    evenness: float = 0.05
    """Channels count by the inverse of what they leave plus this share of the median; 0.02 to 0.2 did as well."""
    progress: float = 0.9
    """A turn that leaves more than this share of the least of the turns before stands still."""
    patience: int = 3
    """The decoding is given up after more turns in a row that stand still."""
    exact: float = 1e-5
    """The share of the gradient at which the decoding ends. Right inputs of an exact one leave 3e-7."""
    taken: float = 1e-3
    """Where a turn stands still, channels are right that leave no more than this share of what one has on average.

    A weight delta is off by the weights' rounding. Of an update of one step (cnn64, 64 pixels, six CelebA pictures of
    the validation split) right channels leave about 7e-5, and those with a wrong bit 3e-2 and more.
    """
    right: float = 0.9
    """The share of channels that have to be right then.

    Outputs that are 0 but for rounding have bits that nothing tells: in four of those six pictures one or two had.
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
    None where other operations lie between the two, equations are few, or no bits explain the gradient; and where other
    inputs have the same gradient: numbers that nothing sees, and rows or columns that may change places.
    """
    inputs = call.inputs.numel() // call.inputs[0] * len(images)
    if gradient.shape[0] * gradient[0, 0].numel() < limits.equations * inputs:
        return None
    size = float(gradient.abs().max())
    if not 0.0 < size < math.inf:
        return None
    # Gradient and errors are linear in each other; near 1 float32 holds the squares of both.
    gradient, behind = gradient / size, (behind[0], behind[1] / size)
    errors = _passed_errors(call, model, state, behind, images, limits)
    if errors is None or _may_change_places(call.module, errors):
        return None
    with torch.no_grad():
        (start,) = layer_inputs(model, state, (call.name,), images)
        bias = state.parameters.get(f"{call.name}.bias")
        weight = state.parameters[f"{call.name}.weight"]
        return _Decoding(call, weight, bias, gradient, errors, limits).solve(start)


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


def _may_change_places(module: nn.Conv2d, errors: Tensor) -> bool:
    """Whether neighbouring patches share no pixels along an axis where neighbours' `errors` (B, O, H, W) are the same.

    Behind a pooling they are; then what the two patches see may change places, and the gradient stays what it is.
    """
    moves = zip((2, 3), module.kernel_size, module.stride, module.dilation, strict=True)
    apart = [
        dim for dim, side, stride, dilation in moves if stride % dilation or stride > dilation * (side - 1)
    ]
    return any(bool((errors.diff(dim=dim).movedim(dim, 0).flatten(1) == 0.0).all(1).any()) for dim in apart)


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

    Axes below: K places in the kernel's window, N positions of all images, Q numbers of one channel's inputs.
    """

    call: ConvolutionCall
    weight: Tensor
    bias: Tensor | None
    gradient: Tensor
    errors: Tensor
    limits: MaskLimits

    def solve(self, start: Tensor) -> DecodedInput | None:
        """From inputs (B, C, H, W) that are nearly right, or far off, to the exact ones; None where it fails.

        It fails too where no unit is on, or where inputs are not determined.
        """
        limits = self.limits
        live = (self.gradient.abs().amax((1, 2, 3)) > 0).to(self.gradient)
        count, size = float(live.sum()), float(vector_norm(self.gradient))
        # What a ReLU and a pooling pass is nowhere negative.
        floor = 0.0 if float(start.min()) >= 0.0 else -math.inf
        inputs, weights, least, still = start, live, math.inf, 0
        for turn in range(limits.turns):
            errors, left, each = self._left(inputs)
            share = float(vector_norm(each)) / size
            still = still + 1 if share > limits.progress * least else 0
            least = min(share, least)
            right = live * (each <= limits.taken * size / math.sqrt(count))
            found = share <= limits.exact or (still and float(right.sum()) >= limits.right * count)
            if (still > limits.patience and not found) or not errors.any():
                break
            if found:
                weights = right
            elif turn:
                weights = self._evened(live, each, limits.exact * size)
            inputs = (inputs + self._step(errors, weights, left)).clamp_min(floor)
            if found:
                answer = self._answer(inputs, right)
                return answer if answer.error < 1.0 else None
        return None

    @property
    def _geometry(self) -> Geometry:
        return Geometry.of(self.call.module)

    def _left(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The errors in front of the ReLU at `inputs`, what these leave of the gradient, and how much of each channel.

        Their axes are (B, O, H, W), (O, C, h, w) and (O,).
        """
        errors = self.errors * (self._geometry.convolution(inputs, self.weight, self.bias) > 0)
        left = self.gradient - self._geometry.weight_gradient(inputs, errors)
        return errors, left, vector_norm(left, dim=(1, 2, 3))

    def _evened(self, live: Tensor, each: Tensor, least: float) -> Tensor:
        """How much channels count (O,), of which those that are not 0 in `live` (O,) leave so much `each` (O,).

        What is below `least` is rounding.
        """
        middle = each[live > 0].median().clamp_min(least)
        return live * middle / (each + self.limits.evenness * middle)

    def _step(self, errors: Tensor, weights: Tensor, left: Tensor) -> Tensor:
        """The change of inputs (B, C, H, W) that explains most of `left`, by `weights` (O,) of channels."""
        images, (channels, height, width) = len(errors), self.call.inputs
        weighted = left * weights.square()[:, None, None, None]
        back = self._geometry.back(errors, weighted, torch.Size((images, channels, height, width)))
        wanted = exact(back.movedim(1, -1).reshape(-1, channels), _PURPOSE)
        factor = exact(self._square(errors * weights[:, None, None]), _PURPOSE)
        factor.diagonal().add_(torch.finfo(torch.float32).eps * float(factor.diagonal().mean()))
        step: Tensor = torch.linalg.solve(factor, wanted).to(left)
        return step.view(images, height, width, channels).movedim(-1, 1)

    def _answer(self, inputs: Tensor, right: Tensor) -> DecodedInput:
        """With the error that what the `right` (O,) channels leave may make of the inputs."""
        errors, _, each = self._left(inputs)
        square = self._square(exact(errors * right[:, None, None], _PURPOSE))
        least = float(torch.linalg.eigvalsh(square)[0].clamp_min(0.0).sqrt())
        size, left = max(float(vector_norm(inputs)), TINY), float(vector_norm(each * right))
        return DecodedInput(self.call.name, inputs, left / max(least, TINY) / size)

    def _square(self, errors: Tensor) -> Tensor:
        """The square (Q, Q) of the matrix that takes a channel's input to its part of the gradient at these `errors`.

        That matrix has a row for each output channel and place in the window. Its square is a sum over places of the
        square (N, N) of the errors, each time between other positions.
        """
        flat = errors.transpose(0, 1).flatten(1)
        # The last row and column are of no position.
        square = functional.pad(flat.mT @ flat, (0, 1, 0, 1))
        positions = self._positions.to(errors.device)
        parts = (square.index_select(0, place).index_select(1, place) for place in positions)
        return reduce(torch.add, parts)

    @cached_property
    def _positions(self) -> Tensor:
        """At which of N positions a number (K, Q) of the inputs lies in a place of the window; N where at none."""
        height, width = self.call.inputs[1:]
        cells = torch.arange(height * width, dtype=torch.float32, device=self.errors.device)
        # Padding is 0, and no cell is.
        windows = self.call.patches(cells.view(1, height, width) + 1).long() - 1
        images, each = len(self.errors), windows.shape[1]
        place, position = (windows >= 0).nonzero(as_tuple=True)
        found = windows.new_full((len(windows), images, height * width), images * each)
        for image in range(images):
            found[place, image, windows[place, position]] = image * each + position
        return found.flatten(1)
