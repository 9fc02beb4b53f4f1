"""How far a candidate's gradient is from the observed one: weighted distances over chosen parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn import functional

from attack_core.gradients.handles import (
    DenseHandle,
    GhostHandle,
    GradientHandle,
    PatchHandle,
    as_matrix,
    flat,
    gradient_handles,
)
from fl_core.base.errors import InputError, unknown_name
from fl_core.base.own_object import OwnObject
from fl_core.base.rng import generator
from fl_core.base.types import Config, ModelState, Tensors, require

Factors = tuple[Tensor, Tensor]
"""Two matrices, (O, r) and (r, N)."""
LayerMode = Literal["uniform", "auto", "early", "early_linear", "early_strong", "early_conv"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveLimits:
    """Below which sizes a gradient counts as 0; set by what float32 holds, not by measurement."""

    least_square: float = 1e-24
    """Squared norms below are 0 to a cosine: their roots have slopes that float32 cannot hold products of."""
    least_norm: float = 1e-12
    """Norms below weigh nothing with the layer weights `auto`, which divide by the norm."""
    least_scale: float = 1e-12
    """The mean absolute value that signs are compared at is at least this."""
    least_energy: float = 1e-12
    """The squared norm that the best factor of a clipped gradient is divided by is at least this."""
    rounding: float = 2e-6
    """Factors whose product misses a target by so much of its norm are as good.

    Measured in float32: 3e-7 to 8e-7 for exact products of 1 to 8 images; what is missed is rounding, and at random."""
    large: int = 1 << 18
    """Targets of fewer numbers are not factored: reading them costs nothing."""
    ranks: int = 4
    """Ranks up to so many times the number of images are looked for: a convolution has a row for each pixel."""
    most_rank: int = 64
    """Larger ranks are not looked for."""
    spare: int = 4
    """Probes beyond the rank, as usual."""


OBJECTIVE_LIMITS = ObjectiveLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class L2(Config):
    """Sum over parameters of the squared distance (Zhu et al., NeurIPS 2019)."""

    kind: Literal["l2"] = "l2"

    def loss(self, terms: Terms) -> Tensor:
        """(C,) from the inner products of all chosen parameters.

        Where the target may have been scaled down by an unknown factor, at the factor that fits best.
        """
        if not terms.scaled:
            return (terms.weights * terms.distance()).sum(1)
        dot, norm = (terms.weights * terms.dot()).sum(1), (terms.weights * terms.norm()).sum(1)
        factor = _best_factor(dot, norm)
        return factor.square() * norm - 2.0 * factor * dot + (terms.weights * terms.squares).sum()


@dataclass(frozen=True, kw_only=True)
class Cosine(Config):
    """One minus the cosine between the whole gradients (Geiping et al., NeurIPS 2020)."""

    kind: Literal["cosine"] = "cosine"

    def loss(self, terms: Terms) -> Tensor:
        """See `L2.loss`."""
        dot = (terms.weights * terms.dot()).sum(1)
        return 1.0 - _cosine(
            dot, (terms.weights * terms.norm()).sum(1), (terms.weights * terms.squares).sum()
        )


@dataclass(frozen=True, kw_only=True)
class Similarity(Config):
    """Mean over parameters of one minus the cosine of each parameter's gradient."""

    kind: Literal["sim"] = "sim"

    def loss(self, terms: Terms) -> Tensor:
        """See `L2.loss`."""
        return (terms.weights * terms.dissimilarity()).mean(1)


@dataclass(frozen=True, kw_only=True)
class Both(Config):
    """Sum over parameters of `l2_weight` * squared distance + `cos_weight` * (1 - cosine)."""

    kind: Literal["both"] = "both"
    l2_weight: float = 1.0
    cos_weight: float = 1.0

    def __post_init__(self) -> None:
        require(self.l2_weight >= 0, self, "l2_weight", "at least 0")
        require(self.cos_weight >= 0, self, "cos_weight", "at least 0")

    def loss(self, terms: Terms) -> Tensor:
        """See `L2.loss`."""
        angles = (terms.weights * terms.dissimilarity()).sum(1)
        return self.l2_weight * L2().loss(terms) + self.cos_weight * angles


@dataclass(frozen=True, kw_only=True)
class Signs(Config):
    """Mean over parameters of the logistic loss between the target's signs and the candidate's numbers, in bits.

    For what was sent with one bit a number (signSGD, Bernstein et al. 2018, and random rounding to +-m): a number g is
    taken to have come out positive with probability 1 / (1 + exp(-2 g / m)), m being the target's mean absolute value
    in its parameter, which for random rounding is (1 + g / m) / 2 up to the third order. Forms every gradient.
    """

    kind: Literal["signs"] = "signs"

    def loss(self, terms: Terms) -> Tensor:
        """See `L2.loss`."""
        return (terms.weights * terms.surprise(terms.factor() if terms.scaled else None)).mean(1)


@dataclass(frozen=True, kw_only=True)
class OwnObjective(OwnObject):
    """The loss of a class of the user's own, which a sweep file names; raises `OwnCodeFailed` where it fails."""

    kind: Literal["own"] = "own"

    def loss(self, terms: Terms) -> Tensor:
        """See `L2.loss`."""
        found = self.ask("loss", terms)
        count = terms.handles[0].candidates
        fits = isinstance(found, Tensor) and found.shape == (count,) and found.dtype == torch.float32
        is_now = (
            f"{tuple(found.shape)} in {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        )
        self.require(
            fits,
            f"returned {is_now} from loss: must be one loss for each of {count} candidates, a tensor ({count},) of "
            "torch.float32; sum over dim 1, the parameters",
        )
        return found  # type: ignore[no-any-return]  # checked


Objective = L2 | Cosine | Similarity | Both | Signs | OwnObjective


@dataclass(frozen=True)
class Terms:
    """Inner products between candidates' gradients and the target, (C, P) for P chosen parameters.

    Each is computed when an objective asks for it, and only then.
    """

    handles: tuple[GradientHandle, ...]
    targets: tuple[Tensor, ...]
    squares: Tensor
    """Squared norms of the targets, (P,)."""
    weights: Tensor
    """(P,), with mean 1 before a parameter is left out."""
    masks: tuple[Tensor | None, ...]
    """For each target 1 where its number is known and 0, as in the target, elsewhere; None where all are."""
    scaled: bool
    """Whether the targets may be smaller than the gradients by one unknown factor."""
    factors: tuple[Factors | None, ...]
    """For each target two matrices whose product it is, laid out by `as_matrix`; or None."""

    def distance(self) -> Tensor:
        """Squared L2 distances over the known numbers."""
        if any(mask is not None for mask in self.masks):
            return self.norm() - 2.0 * self.dot() + self.squares
        found = []
        for handle, target, square, factors in zip(
            self.handles, self.targets, self.squares, self.factors, strict=True
        ):
            if factors is None or isinstance(handle, DenseHandle):
                found.append(handle.squared_distance(target, square))
            else:
                found.append(handle.squared_norm() - 2.0 * _dot(handle, target, factors) + square)
        return torch.stack(found, dim=1)

    def dot(self) -> Tensor:
        """Inner products with the target."""
        each = zip(self.handles, self.targets, self.factors, strict=True)
        return torch.stack([_dot(*parts) for parts in each], dim=1)

    def norm(self) -> Tensor:
        """Squared norms of the candidates' gradients over the known numbers."""
        pairs = zip(self.handles, self.masks, strict=True)
        return torch.stack([handle.squared_norm(mask) for handle, mask in pairs], dim=1)

    def factor(self) -> Tensor:
        """By which unknown factor (C,), at most 1, the candidates' gradients would have to be scaled to fit best."""
        return _best_factor((self.weights * self.dot()).sum(1), (self.weights * self.norm()).sum(1))

    def surprise(self, factor: Tensor | None) -> Tensor:
        """The logistic loss of the signs of each parameter's known numbers, in bits; 0 where none is known.

        Of the candidates' gradients times `factor` (C,), where there is one.
        """
        found = []
        for handle, target in zip(self.handles, self.targets, strict=True):
            known = target.count_nonzero().clamp_min(1)
            scale = (target.abs().sum() / known).clamp_min(OBJECTIVE_LIMITS.least_scale)
            margins = flat(handle.dense() * (2.0 * target.sign() / scale))
            margins = margins if factor is None else margins * factor[:, None]
            bits = functional.softplus(-margins) * (target != 0).flatten()
            found.append(bits.sum(1) / (known * math.log(2.0)))
        return torch.stack(found, dim=1)

    def residuals(self) -> Tensor:
        """What candidates leave unexplained of the known numbers, times the roots of the weights, (C, N) for N numbers.

        Its squared norm is the loss of `L2`. Forms every gradient.
        """
        factor = self.factor() if self.scaled else self.weights.new_ones(())
        parts = []
        for handle, target, weight, mask in zip(
            self.handles, self.targets, self.weights, self.masks, strict=True
        ):
            gradients = flat(handle.dense()) * factor[..., None]
            known = gradients if mask is None else gradients * mask.flatten()
            parts.append(weight.sqrt() * (target.flatten() - known))
        return torch.cat(parts, dim=1)

    def dissimilarity(self) -> Tensor:
        """One minus the cosine of each parameter."""
        return 1.0 - _cosine(self.dot(), self.norm(), self.squares)


def _dot(handle: GradientHandle, target: Tensor, factors: Factors | None) -> Tensor:
    if factors is not None and isinstance(handle, GhostHandle | PatchHandle):
        return handle.dot_factors(*factors)
    return handle.dot(target)


def _best_factor(dot: Tensor, norm: Tensor) -> Tensor:
    """The factor in [0, 1] that brings a gradient of squared norm `norm` nearest to the target, given their product."""
    return (dot / norm.clamp_min(OBJECTIVE_LIMITS.least_energy)).clamp(0.0, 1.0)


def _cosine(dot: Tensor, norm: Tensor, square: Tensor) -> Tensor:
    """From an inner product and two squared norms; 0 without a slope where either is 0, as where nothing was sent.

    Roots are taken one by one: the product of the squares of two small gradients is below what float32 can tell from 0.
    """
    least = OBJECTIVE_LIMITS.least_square
    there = (norm > least) & (square > least)
    lengths = [torch.where(there, value, torch.ones_like(value)).sqrt() for value in (norm, square)]
    return torch.where(there, dot / lengths[0] / lengths[1], torch.zeros_like(dot))


def choose(tensors: Tensors, *, indices: Sequence[int] | None, names: Sequence[str] | None) -> list[str]:
    """The parameters to match, in the model's order: by index, by substring of the name, or all.

    Given both, a parameter must satisfy both. Raises `InputError` for an index out of range, a substring that
    nothing contains, or an empty choice.
    """
    all_names = list(tensors)
    for index in indices or ():
        if not 0 <= index < len(all_names):
            raise InputError(
                f"Layer index {index} is out of range: the model has parameters 0 to {len(all_names) - 1}."
            )
    for part in names or ():
        if not any(part in name for name in all_names):
            raise unknown_name("layer name", part, all_names)
    chosen = [
        name
        for i, name in enumerate(all_names)
        if (indices is None or i in indices) and (names is None or any(part in name for part in names))
    ]
    if not chosen:
        raise InputError("The choice of layers by index and by name leaves no parameter to match.")
    return chosen


def layer_weights(tensors: Tensors, mode: LayerMode | tuple[float, ...]) -> dict[str, float]:
    """A weight for each parameter with mean 1, by mode or from explicit numbers in the model's order.

    With L parameters and index i: `auto` 1/norm of the observed tensor, 0 where it is 0; `early` exp(-0.08 i);
    `early_linear` max(1 - i/(L-1), 0.01); `early_strong` exp(-0.20 i); `early_conv` 3 for convolutions in the first
    half, 1.5 for later ones, 1.2 for anything else in the first half, 0.5 for the rest.
    """
    count = len(tensors)
    if isinstance(mode, tuple):
        if len(mode) != count or any(weight < 0 for weight in mode) or not any(mode):
            raise InputError(
                f"layer_weights has {len(mode)} numbers: must be {count}, one for each parameter, "
                "none negative, not all 0."
            )
        raw = list(mode)
    else:
        raw = [_raw_weight(mode, i, count, tensor) for i, tensor in enumerate(tensors.values())]
    # Where every tensor is 0, as where nothing was sent, all weigh nothing.
    mean = sum(raw) / count or 1.0
    return {name: weight / mean for name, weight in zip(tensors, raw, strict=True)}


def _raw_weight(mode: LayerMode, i: int, count: int, tensor: Tensor) -> float:
    early = i < count / 2
    match mode:
        case "uniform":
            return 1.0
        case "auto":
            norm = float(vector_norm(tensor))
            return 1.0 / norm if norm > OBJECTIVE_LIMITS.least_norm else 0.0
        case "early":
            return math.exp(-0.08 * i)
        case "early_linear":
            return max(1.0 - i / max(count - 1, 1), 0.01)
        case "early_strong":
            return math.exp(-0.20 * i)
        case "early_conv":
            if tensor.dim() == 4:
                return 3.0 if early else 1.5
            return 1.2 if early else 0.5


@dataclass(frozen=True)
class Matched:
    """What is matched: chosen parameters with their targets, squared norms and weights; fixed during an attack.

    `masks` and `scaled` are those of `Terms`.
    """

    names: tuple[str, ...]
    targets: tuple[Tensor, ...]
    squares: Tensor
    weights: Tensor
    masks: tuple[Tensor | None, ...]
    scaled: bool
    factors: tuple[Factors | None, ...]

    @classmethod
    def of(
        cls,
        targets: Tensors,
        weights: Mapping[str, float],
        *,
        sent: Mapping[str, Tensor] | None = None,
        scaled: bool = False,
    ) -> Matched:
        """The parameters named in `weights`; `sent` masks the numbers of `targets` that are known."""
        masks = tuple(_mask_of(sent or {}, name, targets[name]) for name in weights)
        pairs = zip(weights, masks, strict=True)
        chosen = tuple(targets[name] if mask is None else targets[name] * mask for name, mask in pairs)
        values = torch.tensor(list(weights.values()), dtype=torch.float32)
        # The norms are taken once: for cnn64 they cost as much as a tenth of an iteration.
        squares = torch.stack([target.square().sum() for target in chosen])
        known = (None,) * len(chosen)
        return cls(tuple(weights), chosen, squares, values.to(squares.device), masks, scaled, known)

    @property
    def numbers(self) -> int:
        """How many numbers are matched."""
        pairs = zip(self.targets, self.masks, strict=True)
        return sum(target.numel() if mask is None else int(mask.sum()) for target, mask in pairs)

    def factored(self, images: int) -> Self:
        """The same with the factors of large targets that so few `images` left of low rank, up to rounding.

        An undefended gradient of a fully connected layer is of the images' number, and reading it whole takes most
        of an inner product's time.
        """
        pairs = zip(self.targets, self.masks, strict=True)
        return replace(self, factors=tuple(_factors(t, images) if m is None else None for t, m in pairs))

    def terms(self, handles: Mapping[str, GradientHandle]) -> Terms:
        """The inner products' ingredients for one evaluation."""
        return Terms(
            handles=tuple(handles[name] for name in self.names),
            targets=self.targets,
            squares=self.squares,
            weights=self.weights,
            masks=self.masks,
            scaled=self.scaled,
            factors=self.factors,
        )


def _factors(target: Tensor, images: int, limits: ObjectiveLimits = OBJECTIVE_LIMITS) -> Factors | None:
    """Matrices whose product is `target` up to rounding, by a random range (Halko et al. 2011), or None."""
    rank = min(limits.ranks * images, limits.most_rank) + limits.spare
    if target.dim() not in (2, 4) or target.numel() < limits.large:
        return None
    matrix = as_matrix(target)
    if min(matrix.shape) < 4 * rank:
        return None
    probes = torch.randn((matrix.shape[1], rank), generator=generator("factors")).to(matrix)
    left, _ = torch.linalg.qr(matrix @ probes)
    right = left.mT @ matrix
    missed = vector_norm(matrix - left @ right)
    return (left, right) if bool(missed <= limits.rounding * vector_norm(matrix)) else None


def squared_distance(
    matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor
) -> Tensor:
    """The weighted squared distance () of the gradient that `images` (B, 3, S, S) with `labels` (B,) have."""
    return loss_at(L2(), matched, model, state, images, labels)


def squared_distance_of(matched: Matched, gradients: Tensors) -> Tensor:
    """The weighted squared distance () of `gradients`, by parameter name; keeps more digits than ghost forms do."""
    handles = {name: DenseHandle(gradients[name][None]) for name in matched.names}
    return L2().loss(matched.terms(handles))[0]


def loss_at(
    objective: Objective,
    matched: Matched,
    model: nn.Module,
    state: ModelState,
    images: Tensor,
    labels: Tensor,
) -> Tensor:
    """The loss () of the gradient that `images` (B, 3, S, S) with `labels` (B,) have."""
    return objective.loss(_terms_at(matched, model, state, images, labels))[0].detach()


def residuals_at(
    matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor
) -> Tensor:
    """The residuals (N,) of the gradient that `images` (B, 3, S, S) with `labels` (B,) have."""
    return _terms_at(matched, model, state, images, labels).residuals()[0].detach()


def terms_of(matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor) -> Terms:
    """The terms of one candidate, `images` (B, 3, S, S) with `labels` (B,), with the images' graph attached."""
    handles = gradient_handles(
        model, state, images[None], lambda logits: functional.cross_entropy(logits[0], labels)[None]
    )
    return matched.terms(handles)


def _terms_at(matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor) -> Terms:
    with torch.enable_grad():
        return terms_of(matched, model, state, images.detach().clone().requires_grad_(True), labels)


def _mask_of(sent: Mapping[str, Tensor], name: str, target: Tensor) -> Tensor | None:
    mask = sent.get(name)
    return None if mask is None or bool(mask.all()) else mask.to(target)
