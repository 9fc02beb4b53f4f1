"""Training on mixtures of images: MixUp (Zhang et al., ICLR 2018) and InstaHide (Huang et al., ICML 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from defenses.mechanism.base import Mechanism, Stage
from fl_core.base.errors import InputError
from fl_core.base.rng import uniform
from fl_core.base.types import InUnits, require
from fl_core.data.augmentation.mixing import mixing_matrix
from fl_core.federation.client import Batch
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Fact, HiddenMixture, Mixture

if TYPE_CHECKING:
    from torch import Tensor

    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class MixUp(Mechanism):
    """Mix each image of a batch with another one of it, and their labels likewise (arXiv:1710.09412).

    As in the authors' code a batch has one share l from Beta(`alpha`, `alpha`), and image i becomes
    l x_i + (1 - l) x_j. Here j follows i in one random circle of the batch, where theirs follow any order, so that no
    image stays as it is; the only image of a last batch does.
    """

    stage: ClassVar[Stage] = "batch"
    kind: Literal["mixup"] = "mixup"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        require(self.alpha > 0, self, "alpha", "more than 0")

    def on_batch(self, batch: Batch, random: Random, plan: FederationConfig, classes: int) -> Batch:
        """See `Mechanism.on_batch`; raises `InputError` where batches of one image leave nothing to mix with."""
        _check_batches(self, plan, 2)

        import torch

        share = float(random.beta(self.alpha, self.alpha))
        circle = torch.from_numpy(random.permutation(len(batch[1])))
        return mixed(batch, mixing_matrix(circle, share), classes)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Mixture(alpha=self.alpha),)


@dataclass(frozen=True, kw_only=True)
class InstaHide(Mechanism):
    """Mix each image with `images` - 1 others of its batch at random shares, and flip each number's sign at random.

    The form of arXiv:2010.02772 that mixes private images alone. Shares are uniform numbers divided by their sum, drawn
    again until none exceeds `largest`; labels are mixed at the same shares. A batch of fewer images mixes all it has.
    """

    stage: ClassVar[Stage] = "batch"
    kind: Literal["instahide"] = "instahide"
    images: Annotated[int, InUnits("images")] = 4
    largest: Annotated[float, InUnits("share")] = 0.65

    def __post_init__(self) -> None:
        require(self.images >= 2, self, "images", "at least 2")
        require(self.largest >= 0.6, self, "largest", "at least 0.6, so that two shares can have it")
        require(self.largest <= 1, self, "largest", "at most 1")

    def on_batch(self, batch: Batch, random: Random, plan: FederationConfig, classes: int) -> Batch:
        """See `Mechanism.on_batch`; raises `InputError` where a whole batch has fewer images than are mixed."""
        _check_batches(self, plan, self.images)

        import torch

        count = len(batch[1])
        shares = torch.stack([self._shares(image, count, random) for image in range(count)])
        images, labels = mixed(batch, shares, classes)
        signs = torch.from_numpy(random.integers(0, 2, images.shape)) * 2.0 - 1.0
        return images * signs.to(images), labels

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (HiddenMixture(images=self.images),)

    def _shares(self, image: int, count: int, random: Random) -> Tensor:
        """The shares (count,) of a batch's images in what `image` becomes."""
        import torch

        others = [other for other in random.permutation(count).tolist() if other != image]
        chosen = [image, *others[: self.images - 1]]
        shares = torch.zeros(count)
        while True:
            drawn = uniform(random, [len(chosen)])
            drawn = drawn / drawn.sum()
            if len(chosen) == 1 or float(drawn.max()) <= self.largest:
                shares[chosen] = drawn
                return shares


def mixed(batch: Batch, shares: Tensor, classes: int) -> Batch:
    """Images and label probabilities (B, classes) mixed by `shares` (B, B), whose rows sum to 1."""
    import torch
    from torch.nn import functional

    images, labels = batch
    shares = shares.to(images)
    hard = functional.one_hot(labels, classes).to(images)
    return torch.einsum("ij,jchw->ichw", shares, images), shares @ hard


def _check_batches(defense: Mechanism, plan: FederationConfig, least: int) -> None:
    size = plan.local.batch_size
    if size < least:
        raise InputError(
            f"{defense.kind} mixes images of a batch: federation.local.batch_size = {size} must be at least {least}."
        )
