"""How far a candidate's gradient is from the observed one: weighted distances over chosen parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

# What an objective of a user's own is given, which users import from here.
from attack_core.gradients.comparison.terms import Terms as Terms
from fl_core.base.own_object import OwnObject
from fl_core.base.types import Config, require

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class L2(Config):
    """Sum over parameters of the squared distance (Zhu et al., NeurIPS 2019)."""

    kind: Literal["l2"] = "l2"

    def loss(self, terms: Terms) -> Tensor:
        """(C,) from the inner products of all chosen parameters.

        Where the target may have been scaled down by an unknown factor, at the factor that fits best.
        """
        from attack_core.gradients.comparison.products import best_factor

        if not terms.scaled:
            return (terms.weights * terms.distance()).sum(1)
        dot, norm = (terms.weights * terms.dot()).sum(1), (terms.weights * terms.norm()).sum(1)
        factor = best_factor(dot, norm)
        return factor.square() * norm - 2.0 * factor * dot + (terms.weights * terms.squares).sum()


@dataclass(frozen=True, kw_only=True)
class Cosine(Config):
    """One minus the cosine between the whole gradients (Geiping et al., NeurIPS 2020)."""

    kind: Literal["cosine"] = "cosine"

    def loss(self, terms: Terms) -> Tensor:
        """See `L2.loss`."""
        from attack_core.gradients.comparison.products import cosine

        dot = (terms.weights * terms.dot()).sum(1)
        return 1.0 - cosine(dot, (terms.weights * terms.norm()).sum(1), (terms.weights * terms.squares).sum())


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
        import torch
        from torch import Tensor

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
