"""What an image is expected to look like, as penalties that add up.

Each is a sum over a candidate's images, pixels in normalised units. Axes: C candidates, B images each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from fl_core.base.errors import InputError
from fl_core.base.own_object import OwnObject
from fl_core.base.types import Config, InUnits, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from attack_core.gradients.batchnorm import SeenStatistics
    from fl_core.base.types import ModelState
    from fl_core.threat.observation import TrainedPrior


@dataclass(frozen=True)
class Scene:
    """What a prior may look at besides the images.

    `restarts` (R, B, 3, S, S) are the images of all restarts before this step, without a graph; only
    `GroupConsistency` asks for them. `trained` is what the attacker has learned from public images, where it has.
    `statistics` are those that BatchNorm had of the client's batches, where the attacker sees them.
    """

    model: nn.Module
    state: ModelState
    restarts: Tensor | None = None
    trained: TrainedPrior | None = None
    statistics: SeenStatistics | None = None


@dataclass(frozen=True, kw_only=True)
class TotalVariation(Config):
    """`weight` * sum over pixels of (|dx|^inner + |dy|^inner)^outer, d being differences of neighbours.

    1 and 1: anisotropic (Rudin et al. 1992; Geiping et al. 2020, arXiv:2003.14053); 2 and 0.5: isotropic.
    `double_opponents` adds the same of the colour differences R-G, G-B and B-R.
    """

    kind: Literal["tv"] = "tv"
    weight: float = 1e-5
    inner: float = 1.0
    outer: float = 1.0
    double_opponents: bool = False

    def __post_init__(self) -> None:
        require(self.weight >= 0, self, "weight", "at least 0")
        require(self.inner >= 1, self, "inner", "at least 1")
        require(self.outer > 0, self, "outer", "more than 0")

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:  # noqa: ARG002
        """(C,) from images (C, B, 3, S, S)."""
        from attack_core.priors.penalties import total_variation, variation, with_opponents

        if self.double_opponents:
            images = with_opponents(images)
        if self.inner == self.outer == 1:
            return self.weight * total_variation(images)
        return self.weight * variation(images, inner=self.inner, outer=self.outer)


@dataclass(frozen=True, kw_only=True)
class ColourVariation(Config):
    """`weight` * smooth total variation in opponent colours: `attack_core.priors.colour_tv.colour_variation`."""

    kind: Literal["opponent"] = "opponent"
    weight: float = 1e-5
    chroma: float = 3.0
    edge: float = 0.1

    def __post_init__(self) -> None:
        require(self.weight >= 0, self, "weight", "at least 0")
        require(self.chroma >= 0, self, "chroma", "at least 0")
        require(self.edge > 0, self, "edge", "more than 0")

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:  # noqa: ARG002
        """See `TotalVariation.penalty`."""
        from attack_core.priors.colour_tv import colour_variation

        each = colour_variation(images.flatten(0, 1), chroma=self.chroma, edge=self.edge)
        total: Tensor = each.unflatten(0, (len(images), -1)).sum(1)
        return self.weight * total


@dataclass(frozen=True, kw_only=True)
class L2Norm(Config):
    """`weight` * sum over images of their L2 norm (Yin et al. 2021, arXiv:2104.07586)."""

    kind: Literal["l2_norm"] = "l2_norm"
    weight: float = 1e-6

    def __post_init__(self) -> None:
        require(self.weight >= 0, self, "weight", "at least 0")

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:  # noqa: ARG002
        """See `TotalVariation.penalty`."""
        from attack_core.priors.penalties import norms

        return self.weight * norms(images)


@dataclass(frozen=True, kw_only=True)
class Wavelet(Config):
    """`weight` * L1 norm of the detail coefficients of an orthonormal Haar transform.

    `levels` halvings, fewer where the size turns odd. Photographs are sparse there (Mallat 1989; Donoho 1995).
    """

    kind: Literal["wavelet"] = "wavelet"
    weight: float = 1e-5
    levels: Annotated[int, InUnits("levels")] = 3

    def __post_init__(self) -> None:
        require(self.weight >= 0, self, "weight", "at least 0")
        require(self.levels >= 1, self, "levels", "at least 1")

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:  # noqa: ARG002
        """See `TotalVariation.penalty`."""
        from attack_core.priors.penalties import haar_details

        return self.weight * haar_details(images, self.levels)


@dataclass(frozen=True, kw_only=True)
class PatchSparsity(Config):
    """`weight` * L1 norm of the cosine coefficients of square patches, without their means.

    Patches of `size` pixels every `stride`; the sum is scaled by stride^2 / size^2, so that overlap changes the
    weight of nothing. Photographs' patches are sparse there (Ahmed et al. 1974; Yu & Sapiro 2011).
    """

    kind: Literal["patches"] = "patches"
    weight: float = 1e-5
    size: Annotated[int, InUnits("pixels")] = 8
    stride: Annotated[int, InUnits("pixels")] = 4

    def __post_init__(self) -> None:
        require(self.weight >= 0, self, "weight", "at least 0")
        require(2 <= self.size <= 8, self, "size", "from 2 to 8: the smallest image has 8 pixels a side")
        require(1 <= self.stride <= self.size, self, "stride", f"from 1 to size = {self.size}")

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:  # noqa: ARG002
        """See `TotalVariation.penalty`."""
        from attack_core.priors.penalties import patch_cosines

        each = patch_cosines(images, self.size, self.stride)
        return each * (self.weight * (self.stride / self.size) ** 2)


@dataclass(frozen=True, kw_only=True)
class BatchNormStatistics(Config):
    """`weight` * distance of the images' BatchNorm statistics to the batch's, where seen, or the running ones.

    See `statistics_distance`. Yin et al. 2021, arXiv:2104.07586 (GradInversion), with the running ones, which say
    something where they were learned; at random weights they are zeros and ones. Huang et al. 2021, arXiv:2112.00059,
    with the batch's own, which `threat.sees_statistics` gives.
    """

    kind: Literal["batch_norm"] = "batch_norm"
    weight: float = 1e-3

    def __post_init__(self) -> None:
        require(self.weight >= 0, self, "weight", "at least 0")

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:
        """See `TotalVariation.penalty`."""
        from attack_core.gradients.batchnorm import statistics_distance

        return self.weight * statistics_distance(scene.model, scene.state, images, scene.statistics)


@dataclass(frozen=True, kw_only=True)
class GroupConsistency(Config):
    """`weight` * sum over images of the L2 distance to the mean or median image of all restarts.

    Yin et al. 2021, arXiv:2104.07586, without their registration: image b of one restart is compared with image b
    of the others. The centre is taken before each step and stands still during it.
    """

    kind: Literal["group"] = "group"
    weight: float = 1e-3
    centre: Literal["mean", "median"] = "mean"

    def __post_init__(self) -> None:
        require(self.weight >= 0, self, "weight", "at least 0")

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:
        """See `TotalVariation.penalty`; `scene.restarts` must be there."""
        from attack_core.priors.penalties import norms

        if scene.restarts is None:
            raise ValueError("GroupConsistency needs the images of all restarts in the scene.")
        centre = scene.restarts.mean(0) if self.centre == "mean" else scene.restarts.median(0).values
        return self.weight * norms(images - centre)


@dataclass(frozen=True, kw_only=True)
class Trained(Config):
    """`weight` * what the attacker's trained prior charges for each image (`PatchMixture.penalty`).

    The attacker must have one: `attackers.prior` in a sweep file.
    """

    kind: Literal["trained"] = "trained"
    weight: float = 1e-5

    def __post_init__(self) -> None:
        require(self.weight >= 0, self, "weight", "at least 0")

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:
        """See `TotalVariation.penalty`; `scene.trained` must be there."""
        if scene.trained is None:
            raise ValueError("Trained needs a trained prior in the scene.")
        each = scene.trained.penalty(images.flatten(0, 1))
        total: Tensor = each.unflatten(0, (len(images), -1)).sum(1)
        return self.weight * total


@dataclass(frozen=True, kw_only=True)
class OwnPrior(OwnObject):
    """The penalty of a class of the user's own, which a sweep file names; raises `OwnCodeFailed` where it fails.

    It is not asked for in the company of other restarts: `Scene.restarts` is there where another prior needs it.
    """

    kind: Literal["own"] = "own"

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:
        """See `TotalVariation.penalty`."""
        from torch import Tensor

        found = self.ask("penalty", images, scene)
        fits = isinstance(found, Tensor) and found.shape == images.shape[:1] and found.dtype == images.dtype
        self.require(
            fits, f"must return one penalty for each of {len(images)} candidates from penalty, a tensor (C,)"
        )
        return found  # type: ignore[no-any-return]  # checked


Prior = (
    TotalVariation
    | ColourVariation
    | L2Norm
    | Wavelet
    | PatchSparsity
    | BatchNormStatistics
    | GroupConsistency
    | Trained
    | OwnPrior
)


def check_priors(priors: tuple[Prior, ...], model: nn.Module) -> None:
    """Refuse BatchNorm statistics for a model that has none (`InputError`)."""
    from attack_core.gradients.batchnorm import has_batch_norm

    if any(isinstance(prior, BatchNormStatistics) for prior in priors) and not has_batch_norm(model):
        raise InputError("The prior 'batch_norm' needs a model with BatchNorm layers, such as resnet18.")


def check_trained(priors: tuple[Prior, ...], trained: TrainedPrior | None) -> None:
    """Refuse the prior `trained` where the attacker has none (`InputError`)."""
    if trained is None and any(isinstance(prior, Trained) for prior in priors):
        raise InputError(
            "The prior 'trained' needs an attacker that trains one: give it a prior, such as prior: {}."
        )
