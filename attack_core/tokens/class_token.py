"""A batch's images told apart at the last block of a transformer, where only class tokens have errors.

Everything behind the last attention sees one token of each image. So there a weight's gradient is a sum of one product
for each of B images, and its row space and column space have B dimensions. In the head's row space lie the features f
of each image, and the features determine all else: the errors at the logits are softmax(W f + c) minus a label's
one-hot, and the error at the last linear layer in front of the LayerNorm is, up to a factor, what the LayerNorm hands
back of them. That error has to lie in the column space of that layer's gradient: as many equations as a token has
numbers, in B - 1 unknowns, for each class that the label could be. They are solved from many starts; what holds to
float32's rounding is an image.

The idea to look for what is consistent inside a gradient's low-rank space is that of SPEAR (Dimitrov et al. 2024,
arXiv:2403.03945), for ReLUs. The algebra runs in float64 on the CPU.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState, Tensors
from fl_core.models.forward import predict

_PURPOSE = "telling the images of a transformer's batch apart"


@dataclass(frozen=True, kw_only=True)
class ClassTokenLimits:
    """How images are looked for.

    On four batches of 2 to 8 pictures of CIFAR-10's training split behind `vit` true images leave 1e-7 to 2e-7 and
    other ends of the search 3e-3 and more.
    """

    starts: int = 15
    """Searches for each class. Of 40 each image of eight was found by 3 and more."""
    steps: int = 40
    """Of Levenberg and Marquardt's method. Not measured against other values, nor are its `damping`s."""
    damping: float = 1e-3
    """The first share of the square's diagonal that is added to it."""
    damped: float = 5.0
    """The share is divided by this after a step that helped, and multiplied by it after one that did not."""
    least_damping: float = 1e-12
    """No smaller share: beyond, a step is Gauss and Newton's to rounding."""
    most_damping: float = 1e6
    """No larger one: beyond, a step is too short to move anything."""
    holds: float = 1e-5
    """The relative residual up to which an end is an image."""
    rank: float = 1e-6
    """Singular values below this share of the largest are rounding: that was 2e-8, and the least true one 1e-3."""
    same: float = 1e-3
    """Ends that differ by less, relatively, are one image. The closest two were at 0.2."""
    classes: int = 4
    """For each image so many classes are tried, and no fewer than `fewest_classes`: those whose bias falls most."""
    fewest_classes: int = 16
    """See `classes`. Neither was measured: with ten classes all are tried."""


CLASS_TOKEN_LIMITS = ClassTokenLimits()
"""The limits in force."""


@dataclass(frozen=True)
class ClassToken:
    """The layers behind the last attention: linear `last`, LayerNorm `norm`, linear `head`."""

    last: str
    norm: str
    head: str

    @property
    def parameters(self) -> tuple[str, str, str]:
        """The names of the parameters whose gradients tell the images apart."""
        return f"{self.head}.weight", f"{self.head}.bias", f"{self.last}.weight"

    @classmethod
    def of(cls, model: nn.Module, state: ModelState, shape: ImageShape) -> ClassToken:
        """Found by what layers see of two pictures; raises `InputError` where they are not there."""
        calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []

        def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            calls.append((name, module, inputs[0].detach(), output.detach()))

        with ExitStack() as hooks, torch.no_grad():
            for name, module in model.named_modules():
                if isinstance(module, nn.Linear | nn.LayerNorm):
                    hook = module.register_forward_hook(
                        lambda module, inputs, output, name=name: note(name, module, inputs, output)
                    )
                    hooks.callback(hook.remove)
            pictures = torch.linspace(-1.0, 1.0, 2 * shape.numbers).view(2, *shape.size)
            predict(model, state.with_own_buffers(), pictures.to(next(iter(state.parameters.values()))))
        found = cls._among(calls)
        if found is None:
            raise InputError("no LayerNorm of tokens lies between the head and a linear layer")
        for part in (f"{found.head}.bias", f"{found.norm}.weight", f"{found.norm}.bias"):
            if part not in state.parameters:
                raise InputError(f"there is no {part}")
        return found

    @classmethod
    def _among(cls, calls: list[tuple[str, nn.Module, Tensor, Tensor]]) -> ClassToken | None:
        linear = [at for at, call in enumerate(calls) if isinstance(call[1], nn.Linear)]
        if not linear or calls[linear[-1]][2].dim() != 2:
            return None
        head = linear[-1]
        seen = calls[head][2]
        for at in reversed(range(head)):
            name, module, _, output = calls[at]
            here = output.unsqueeze(1) if output.dim() == 2 else output
            if isinstance(module, nn.LayerNorm) and here.shape[-1] == seen.shape[-1]:
                before = [each for each in linear if each < at]
                told = bool((here == seen[:, None]).all(-1).any(1).all())
                return cls(calls[before[-1]][0], name, calls[head][0]) if told and before else None
        return None


@dataclass(frozen=True)
class Separated:
    """A batch's images in any order: the head's inputs `features` (B, D), float32, and `labels` (B,), int64."""

    features: Tensor
    labels: Tensor


def separate(
    layers: ClassToken,
    state: ModelState,
    gradients: Tensors,
    images: int,
    limits: ClassTokenLimits = CLASS_TOKEN_LIMITS,
) -> Separated:
    """The images of a batch's exact `gradients`; raises `InputError` where not so many come apart."""
    space = _Space.of(layers, state, gradients, images, limits)
    draws = torch.Generator().manual_seed(0)
    order = exact(gradients[f"{layers.head}.bias"], _PURPOSE).argsort()
    tried = order[: max(limits.classes * images, limits.fewest_classes)]
    classes = tried.repeat_interleave(limits.starts)
    points = torch.randn(len(classes), images - 1, generator=draws, dtype=torch.float64)
    points = space.radius * points / torch.linalg.vector_norm(points, dim=1, keepdim=True).clamp_min(TINY)
    points, missed = _solved(space, points, classes, limits)
    found: list[int] = []
    features = space.features(points)
    for at in missed.argsort().tolist():
        if len(found) == images or not float(missed[at]) <= limits.holds:
            break
        near = (
            torch.linalg.vector_norm(features[found] - features[at], dim=1)
            if found
            else features.new_empty(0)
        )
        alike = near < limits.same * torch.linalg.vector_norm(features[at])
        if not bool((alike & (classes[found] == classes[at])).any()):
            found.append(at)
    if len(found) < images:
        raise InputError(
            f"{len(found)} of {images} images were told apart by {layers.head} and {layers.last}"
        )
    device = gradients[f"{layers.head}.weight"].device
    return Separated(features[found].float().to(device), classes[found].to(device))


@dataclass(frozen=True)
class _Space:
    """Where features and errors lie: the row space of the head's gradient, and column spaces, in float64.

    Features are `start` (D,) plus a combination of `along` (B - 1, D). `errors` (K, B) and `handed` (D, B) are
    orthonormal bases of what the errors at the logits and at the last linear layer in front lie in.
    """

    start: Tensor
    along: Tensor
    errors: Tensor
    handed: Tensor
    head: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls,
        layers: ClassToken,
        state: ModelState,
        gradients: Tensors,
        images: int,
        limits: ClassTokenLimits,
    ) -> _Space:
        weight, bias = (exact(gradients[f"{layers.head}.{kind}"], _PURPOSE) for kind in ("weight", "bias"))
        errors, sizes, rows = torch.linalg.svd(torch.cat([weight, bias[:, None]], 1), full_matrices=False)
        column, behind, _ = torch.linalg.svd(
            exact(gradients[f"{layers.last}.weight"], _PURPOSE), full_matrices=False
        )
        for values, name in ((sizes, layers.head), (behind, layers.last)):
            rank = int((values > limits.rank * values[0]).sum())
            if rank != images:
                raise InputError(f"the gradient of {name} has {rank} directions for {images} images")
        rows = rows[:images]
        # The last number of each row is what the bias sees, 1 of each image.
        ones = rows[:, -1]
        if not float(torch.linalg.vector_norm(ones)) > limits.rank:
            raise InputError(f"the gradient of the bias of {layers.head} is 0")
        start = ones @ rows / ones.square().sum()
        others = torch.linalg.svd(ones[None], full_matrices=True)[2][1:] @ rows
        head, norm = (
            (
                exact(state.parameters[f"{name}.weight"], _PURPOSE),
                exact(state.parameters[f"{name}.bias"], _PURPOSE),
            )
            for name in (layers.head, layers.norm)
        )
        return cls(start[:-1], others[:, :-1], errors[:, :images], column[:, :images], head, norm)

    @property
    def radius(self) -> float:
        """How far from `start` features lie, about: a LayerNorm's output has as much energy as its weight and bias."""
        energy = float(torch.cat(self.norm).square().sum() - self.start.square().sum())
        return math.sqrt(max(energy, 1.0))

    def features(self, points: Tensor) -> Tensor:
        """Features (..., D) of points (..., B - 1)."""
        return self.start + points @ self.along

    def residual(self, point: Tensor, label: Tensor) -> Tensor:
        """What of the errors that a point (B - 1,) implies lies outside of the spaces, (D + K,); label is one-hot."""
        found = self.features(point)
        errors = torch.softmax(self.head[0] @ found + self.head[1], 0) - label
        scale, shift = self.norm
        normal, back = (found - shift) / scale, scale * (self.head[0].mT @ errors)
        handed = back - back.mean() - normal * (normal * back).mean()
        parts = [
            each - basis @ (basis.mT @ each)
            for each, basis in (
                (handed / torch.linalg.vector_norm(handed), self.handed),
                (errors / torch.linalg.vector_norm(errors), self.errors),
            )
        ]
        return torch.cat(parts)


def _solved(
    space: _Space, points: Tensor, classes: Tensor, limits: ClassTokenLimits
) -> tuple[Tensor, Tensor]:
    """Where searches from `points` (N, B - 1) end, and the residual's norm there, (N,)."""
    labels = functional.one_hot(classes, len(space.errors)).to(points)
    residual = torch.func.vmap(space.residual)
    jacobian = torch.func.vmap(torch.func.jacfwd(space.residual))
    missed = residual(points, labels)
    damping = torch.full((len(points),), limits.damping, dtype=points.dtype)
    for _ in range(limits.steps):
        if not points.shape[1]:
            break
        slopes = jacobian(points, labels)
        square = slopes.mT @ slopes
        weighed = damping[:, None] * torch.diagonal(square, dim1=1, dim2=2) + TINY
        step = torch.linalg.solve(square + torch.diag_embed(weighed), slopes.mT @ missed[..., None])[..., 0]
        moved = points - step
        after = residual(moved, labels)
        better = after.square().sum(1) < missed.square().sum(1)
        points = torch.where(better[:, None], moved, points)
        missed = torch.where(better[:, None], after, missed)
        damping = torch.where(better, damping / limits.damped, damping * limits.damped)
        damping = damping.clamp(limits.least_damping, limits.most_damping)
    return points, torch.linalg.vector_norm(missed, dim=1).nan_to_num(torch.inf)
