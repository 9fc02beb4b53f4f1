"""What an objective is given: inner products between candidates' gradients and the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from attack_core.gradients.comparison.products import Factors
    from attack_core.gradients.handles import GradientHandle


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
        from attack_core.gradients.comparison.products import squared_distances

        return squared_distances(self.handles, self.targets, self.squares, self.factors)

    def dot(self) -> Tensor:
        """Inner products with the target."""
        from attack_core.gradients.comparison.products import inner_products

        return inner_products(self.handles, self.targets, self.factors)

    def norm(self) -> Tensor:
        """Squared norms of the candidates' gradients over the known numbers."""
        from attack_core.gradients.comparison.products import squared_norms

        return squared_norms(self.handles, self.masks)

    def factor(self) -> Tensor:
        """By which unknown factor (C,), at most 1, the candidates' gradients would have to be scaled to fit best."""
        from attack_core.gradients.comparison.products import best_factor

        return best_factor((self.weights * self.dot()).sum(1), (self.weights * self.norm()).sum(1))

    def surprise(self, factor: Tensor | None) -> Tensor:
        """The logistic loss of the signs of each parameter's known numbers, in bits; 0 where none is known.

        Of the candidates' gradients times `factor` (C,), where there is one.
        """
        from attack_core.gradients.comparison.products import surprises

        return surprises(self.handles, self.targets, factor)

    def residuals(self) -> Tensor:
        """What candidates leave unexplained of the known numbers, times the roots of the weights, (C, N) for N numbers.

        Its squared norm is the loss of `L2`. Forms every gradient.
        """
        from attack_core.gradients.comparison.products import weighted_residuals

        factor = self.factor() if self.scaled else self.weights.new_ones(())
        return weighted_residuals(self.handles, self.targets, self.weights, self.masks, factor)

    def dissimilarity(self) -> Tensor:
        """One minus the cosine of each parameter."""
        from attack_core.gradients.comparison.products import cosine

        return 1.0 - cosine(self.dot(), self.norm(), self.squares)
