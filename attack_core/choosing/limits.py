"""From where on `auto` takes one way and not another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AutoLimits:
    """Where the analytic attack is not tried, and where convolutions are tried first."""

    most_images: int = 16
    """Larger batches behind one hidden layer go to matching: separating them takes minutes and mostly fails.

    Chosen on faces, cnn64. With two hidden layers `attack_core.fc.peeling` takes any number for which there are units.
    """
    least_features: float = 1 / 5
    """Networks with fewer features than this share of the pixels go to matching.

    Between resnet18 at 32 pixels (512 features, a sixth: 11.9 dB from features alone, 17 to 19 by matching,
    docs/attacks.md) and lenet at 32 pixels (768, a quarter: 35.2 dB). Not measured in between.
    """
    least_uncut: float = 1 / 2
    """The same where features were cut and the gradients of the layers in front, which matching uses, were not.

    Not measured against other values.
    """
    most_features: float = 1.5
    """Networks with fewer features than so many for each number of the picture are tried by `convolutions` first.

    cnn64 at 32 pixels has 1.33: 60.7 dB and 2.5 CPU-seconds, where `analytic` has 50.5 and 3.6 from its features (eight
    faces of CelebA's training split). Not measured above.
    """
    unexplained: float = 0.03
    """The relative squared distance from the gradient above which `convolutions` has failed, and `analytic` runs too.

    Behind two smooth convolutions answers that had failed, at 10 to 13 dB, leave 0.2 to 0.4, and those at 50 dB and
    more 3e-6 at most. Behind convnet local minima at 24 and 13 dB leave 1e-3 and 3e-3; there `analytic` gained
    nothing in more than 100 CPU-seconds (docs/decisions, 0093).
    """


AUTO_LIMITS = AutoLimits()
"""The limits in force."""
