"""How fast a continuation's prior falls, and where a search of it stops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ContinuationLimits:
    """How fast the prior's weight falls where the data's error is known, and where the search stops.

    Fixed on synthetic faces and the CelebA sample (docs/attacks.md, Which pictures fixed the constants).
    """

    scale: float = 1e6
    """What the loss is multiplied by before L-BFGS sees it.

    The library compares curvatures with absolute bounds; mismatches of 1e-9 would stall it.
    """
    start_over_error: float = 1e-2
    """The discrepancy principle: the first prior's weight over the expected mismatch, where that is more than
    `prior_start`. Not measured against other values."""
    largest_step: float = 10.0
    """The discrepancy principle: by which factor at most the prior's weight falls from stage to stage.

    As many stages as that takes, and no more: six for every known error left too few evaluations for each. Measured on
    cnn64, 64 pixels, 4 victims, noise of 1e-5: 40.2 dB, 39.1 with six stages.
    """
    validated_start_over_error: float = 2e-3
    """Cross-validation: the first prior's weight over the expected mismatch. Not measured against other values."""
    validated_step: float = math.sqrt(10.0)
    """Cross-validation: the factor by which the prior's weight falls from stage to stage.

    Smaller steps with fewer evaluations each were measured: 2 dB less, however fine the steps (docs/decisions,
    0051).
    """
    validated_budget: int = 4
    """Cross-validation: by how many stages at most the evaluations are divided.

    With more, images stay far from what their prior allows: 18 evaluations a stage instead of 60 cost 2 dB
    (docs/decisions, 0051). About seven stages run.
    """
    carried: int = 20
    """How many pairs of steps and gradient changes L-BFGS takes over from the stages before.

    Only the prior's weight changes between stages, so the data's curvature stays what it was, near the images. Pairs
    from further away mislead behind many layers: on pictures of CIFAR-10's training split `convnet` has 73 and 72 dB
    with none, 72 with 20, 57 and 63 with 25, 41 and 51 with 40, and `vgg11` has 28 with none, 76 with 20, 46 with 40.
    On cnn64 20 and 40 are within 0.3 dB (eight CelebA pictures of the validation split). Cross-validation takes none
    over: each of its stages is judged as one that began anew.
    """
    measures_again: bool = False
    """Whether each stage behind the first one measures the network's gain anew, and not the second one alone.

    Where an error is known each does anyway: with one measurement that cost 0.5 dB and more (docs/decisions, 0116).
    """
    together: int = 16
    """How many images that have each a problem of their own are evaluated in one batch."""
    pair_bytes: float = 2.0**30
    """What the pairs of such a batch may take of memory; where that is too little, fewer images are in it."""
    far: float = 1.0
    """A mismatch above this is further from the data than an answer of nothing at all; such a search may give up."""
    still: int = 16
    """It gives up where this many steps did not lower the mismatch by `still_share`."""
    still_share: float = 0.01
    """See `still`. On noise in a gradient's place, which no image explains, a search ends after about 35 evaluations
    of 240, with a mismatch within 2% of what all of them reach (cnn64, 64 pixels, two CelebA faces). On those faces'
    gradients the mismatch starts at 0.5, below `far`."""
    settling: int | None = None
    """After so many steps a stage ends that they did not take any further (`settled`). None: every stage goes on.

    A stage that ends leaves its evaluations to the next ones, and the last stage takes no more than it needs. Only for
    data that are exact and determine the image: elsewhere a mismatch that stands still may fall again.
    """
    settled_between: float = 0.0
    """The share of the mismatch that they have to take away before the last stage, else its weaker prior is next."""
    settled_at_end: float = 0.0
    """The same share in the last stage, where nothing follows."""
    patience: int = 2
    """Cross-validation: how many stages in turn may be no better than the best before them. Not measured."""

    def hopeless(self, seen: Sequence[float]) -> bool:
        """Whether the last mismatches of a search, the newest last, say that it will explain nothing."""
        enough = len(seen) > self.still and seen[-1] > self.far
        return enough and seen[-1] > (1.0 - self.still_share) * seen[-1 - self.still]

    def settled(self, seen: Sequence[float], *, last: bool) -> bool:
        """Whether they say that a stage, the `last` one or not, has come to about what its prior allows."""
        if self.settling is None or len(seen) <= self.settling:
            return False
        share = self.settled_at_end if last else self.settled_between
        return seen[-1] > (1.0 - share) * seen[-1 - self.settling]


CONTINUATION_LIMITS = ContinuationLimits()
"""The limits in force."""
NOTHING_CARRIED = ContinuationLimits(carried=0)
"""Those where refinement follows. There pairs of earlier stages made the one golden trial 0.9 dB worse, with 0.2 dB and
more of chance: each unit that switches bends its loss anew."""

FEW_CARRIED = ContinuationLimits(carried=5, measures_again=True)
"""Those of inputs of deep convolutions. With 160 evaluations `convnet` has on five pictures of CIFAR-10's training
split 67 to 77 dB with none and with 5, and on one of them 50 in the place of 67 with 20."""

SETTLING = ContinuationLimits(settling=8, settled_between=0.2, settled_at_end=0.005)
"""Those where a convolution's input is known exactly.

Three synthetic faces of a series of their own and three CelebA pictures of the validation split, cnn64 at 64 pixels,
240 evaluations: 190 are left of 244, and the mean is 62.94 dB in the place of 62.98 (each within 0.23). With 0.01 at
the end 181 and 62.87 dB, with 0.3 and 0.02 167 and 62.70, with 0.5 and 0.02 160 and 62.21 (one face lost 3 dB).
"""
