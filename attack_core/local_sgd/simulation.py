"""What a candidate's local training would have done: the three ways to compare images with a weight delta.

All of them aim at `gradient_estimate`, -delta / lr over the path that momentum travels, and give handles on what the
candidate images would have put in its place:

- `Averaged`: their mean gradient at the weights that the client started from (the original project's).
- `Surrogate`: their mean gradient at a point between those weights and the ones that it ended at.
- `Simulated`: the weighted mean of the gradients of all the steps that a client holding them would have taken.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from fl_core.base.errors import InputError
from fl_core.base.types import Config, InUnits, require

if TYPE_CHECKING:
    from torch import nn

    from attack_core.local_sgd.problems import Count, LocalProblem
    from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class Averaged(Config):
    """One virtual batch at the starting weights: exact for one step, the baseline for more."""

    kind: Literal["averaged"] = "averaged"

    def prepare(self, observation: Observation, model: nn.Module, count: Count) -> LocalProblem:
        """The problem that `observation` poses to candidates of the number and size in `count`."""
        from attack_core.local_sgd.problems import averaged

        return averaged(observation, model, count)


@dataclass(frozen=True, kw_only=True)
class Surrogate(Config):
    """One virtual batch at w0 + alpha (wT - w0), `alpha` in [0, 1].

    Zhu et al. 2023, arXiv:2305.19101 (surrogate model extension): somewhere between the weights before and after,
    the gradient over all images points along the delta. With `learn` each candidate's alpha is optimised with its
    images, as the sigmoid of a free number that starts at `alpha`. Meant for the cosine objective, since lengths
    say little there. Takes every signal but `gradients`.
    """

    kind: Literal["surrogate"] = "surrogate"
    alpha: float = 0.5
    learn: bool = True

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, self, "alpha", "in [0, 1]")
        inside = not self.learn or 0 < self.alpha < 1
        require(inside, self, "alpha", "inside (0, 1) where it is learned, since an end is never left")

    def prepare(self, observation: Observation, model: nn.Module, count: Count) -> LocalProblem:
        """See `Averaged.prepare`; raises `InputError` for the signal `gradients`."""
        if observation.signal == "gradients":
            raise InputError("The surrogate model needs the weights after training: use a weight update.")
        from attack_core.local_sgd.problems import between

        return between(observation, model, count, alpha=self.alpha, learn=self.learn)


@dataclass(frozen=True, kw_only=True)
class Simulated(Config):
    """The client's SGD step by step, differentiated through (Dimitrov et al. 2022, arXiv:2206.12395).

    `lr`, `momentum` and `batch_size` are those of the observation (None) or assumed; so are `epochs`, whose number
    decides the number of steps. Momentum starts at `velocity_estimate`. Step t takes the t-th batch of the images;
    in later epochs again the same batches with order `known`. With `free` every epoch has its own copies of the
    images, tied by an order-invariant penalty: `tie_weight` times the squared distance of each epoch's mean of pixels
    and of squared pixels from the mean over epochs. In the end the copies are assigned to each other and averaged.

    `checkpoint` recomputes each step on the way back instead of keeping its activations (None: from more than 32
    images in all steps on). The figures are the same, memory grows with one step instead of all, time by about 40%.
    """

    kind: Literal["simulated"] = "simulated"
    lr: float | None = None
    momentum: float | None = None
    epochs: Annotated[int | None, InUnits("epochs")] = None
    batch_size: Annotated[int | None, InUnits("images")] = None
    order: Literal["known", "free"] = "known"
    tie_weight: float = 1.0
    checkpoint: bool | None = None

    def __post_init__(self) -> None:
        require(self.lr is None or self.lr > 0, self, "lr", "more than 0, or null for the observation's")
        require(self.momentum is None or 0 <= self.momentum < 1, self, "momentum", "in [0, 1), or null")
        require(self.epochs is None or self.epochs >= 1, self, "epochs", "at least 1, or null")
        require(self.batch_size is None or self.batch_size >= 1, self, "batch_size", "at least 1, or null")
        require(self.tie_weight >= 0, self, "tie_weight", "at least 0")

    def prepare(self, observation: Observation, model: nn.Module, count: Count) -> LocalProblem:
        """See `Averaged.prepare`.

        Raises `InputError` for the sum of several clients, for fewer images than the signal holds, and where the
        assumed steps do not reach every image.
        """
        if observation.clients > 1:
            raise InputError(
                f"Simulated follows one client's steps, but the signal is the mean of {observation.clients} "
                "clients: use the local model 'averaged' or 'surrogate'."
            )
        if count.images != observation.examples:
            raise InputError(
                f"Simulated trains on all {observation.examples} images of the signal: Matching.images = "
                f"{count.images} does not go with it."
            )
        from attack_core.local_sgd.problems import along_steps

        return along_steps(
            self._assumed(observation),
            model,
            count,
            free=self.order == "free",
            tie_weight=self.tie_weight,
            checkpoint=self.checkpoint,
        )

    def _assumed(self, observation: Observation) -> Observation:
        """The observation with what this attacker assumes in the place of what is known."""
        size = self.batch_size or observation.batch_size
        an_epoch = -(-observation.examples // size)
        steps = self.epochs * an_epoch if self.epochs else observation.steps
        if steps < an_epoch:
            raise InputError(
                f"{steps} steps of batch size {size} do not reach all {observation.examples} images of the signal; "
                "assume a larger Simulated.batch_size."
            )
        return dataclasses.replace(
            observation,
            lr=observation.lr if self.lr is None else self.lr,
            momentum=observation.momentum if self.momentum is None else self.momentum,
            batch_size=size,
            steps=steps,
        )


LocalModel = Averaged | Simulated | Surrogate
"""Every way to explain a weight delta."""
