"""ATS: training on transformed images, against reconstruction (Gao et al., CVPR 2021, arXiv:2011.12505)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from defenses.mechanism.base import Mechanism, Stage
from fl_core.base.types import require
from fl_core.data.augmentation.transforms import Transform, draws_of, transformed
from fl_core.federation.client import Batch
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Augmented, Fact

if TYPE_CHECKING:
    from torch import Tensor

    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class ATS(Mechanism):
    """Apply the transforms of `policy`, one after another, to each image before its gradient is taken.

    Every image gets a draw of its own from each transform, each time that it is trained on. The paper searches for the
    policy; here it is given. The default is of five transforms that can be taken back and is none of the paper's.
    Its policies for CIFAR-100, which lose a part of the image, are the transforms `3-1-7`, `43-18-18` and
    `3-1-7+43-18-18`; the random crop and the mirroring that the paper's training adds to them are not in them.
    """

    stage: ClassVar[Stage] = "batch"
    is_per_example: ClassVar[bool] = True
    kind: Literal["ats"] = "ats"
    policy: tuple[Transform, ...] = ("mirror", "turn", "shift", "negate", "brighten")

    def __post_init__(self) -> None:
        require(len(self.policy) >= 1, self, "policy", "at least one transform")
        require(len(set(self.policy)) == len(self.policy), self, "policy", "each transform at most once")

    def on_batch(self, batch: Batch, random: Random, plan: FederationConfig, classes: int) -> Batch:
        """See `Mechanism.on_batch`."""
        import torch

        return torch.stack([self._changed(image, random) for image in batch[0]]), batch[1]

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Augmented(policy=self.policy),)

    def _changed(self, image: Tensor, random: Random) -> Tensor:
        drawn = []
        for transform in self.policy:
            choices = draws_of(transform, image.shape[-1])
            drawn.append(choices[int(random.integers(len(choices)))])
        return transformed(image, self.policy, drawn)
