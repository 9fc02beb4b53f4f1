"""Settings of the matching loop that more than one attack uses."""

from __future__ import annotations

from attack_core.gradients.objectives import Cosine
from attack_core.matching.matching import Matching
from attack_core.priors.priors import TotalVariation


def inverting_gradients() -> Matching:
    """Geiping et al. 2020, arXiv:2003.14053: cosine, hard-signed Adam in steps, pixels boxed, total variation.

    0.1 times its mean over a 64x64 image there is 8e-6 times its sum; 24,000 iterations there.
    """
    return Matching(
        objective=Cosine(),
        sign="hard",
        schedule="step",
        tv_weight=0.0,
        priors=(TotalVariation(weight=8e-6),),
        clamp=1.0,
        init_std=1.0,
    )


def soft_matching(*, feature_weight: float = 0.0) -> Matching:
    """Cosine with soft signs, isotropic variation in opponent colours too, from a repeated tile of noise.

    The strongest settings found for a residual network at its initial weights (docs/attacks.md). The prior keeps its
    weight to the end there, and the features of one image count with `feature_weight`.
    """
    return Matching(
        objective=Cosine(),
        sign="soft",
        schedule="cosine",
        anneal_tv=False,
        tv_weight=0.0,
        priors=(TotalVariation(weight=4e-5, inner=2.0, outer=0.5, double_opponents=True),),
        clamp=1.0,
        init="pattern-4",
        init_std=1.0,
        feature_weight=feature_weight,
    )
