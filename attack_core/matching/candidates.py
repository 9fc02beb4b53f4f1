"""The restarts of a matching attack: what each one moves, the best point it has seen, and when it has ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor

from attack_core.base.types import AttackFailed, Reconstruction
from fl_core.base.types import Config, InUnits, require

Parametrisation = Literal["pixels", "deep_prior"]


@dataclass(frozen=True, kw_only=True)
class EarlyStop(Config):
    """End a candidate after `patience` iterations that improved its best loss by less than `min_delta` in all."""

    patience: Annotated[int, InUnits("iterations")] = 500
    min_delta: float = 1e-4

    def __post_init__(self) -> None:
        require(self.patience >= 1, self, "patience", "at least 1")
        require(self.min_delta >= 0, self, "min_delta", "at least 0")


@dataclass(frozen=True, kw_only=True)
class RestartHalving(Config):
    """End all but the better restarts after a share of the iterations, by the loss that the attacker sees.

    Successive halving (Jamieson and Talwalkar, AISTATS 2016) in one step. The defaults evaluate 44% of what all
    restarts would; docs/attacks.md says on what they were chosen.
    """

    after: float = 0.25
    """Share of the iterations that all restarts take."""
    keep: float = 0.25
    """Share of the restarts that goes on, rounded up."""

    def __post_init__(self) -> None:
        for name in ("after", "keep"):
            require(0 < getattr(self, name) < 1, self, name, "more than 0 and less than 1")

    def begins(self, iterations: int) -> int:
        """After how many of so many iterations restarts end."""
        return max(1, math.ceil(self.after * iterations))

    def kept(self, restarts: int) -> int:
        """How many of so many restarts go on."""
        return math.ceil(self.keep * restarts)


class Canvas(Protocol):
    """One candidate's images, as a function of leaf tensors."""

    def leaves(self) -> list[Tensor]:
        """The tensors that are optimised."""

    def image(self) -> Tensor:
        """The images (B, 3, S, S), differentiable with respect to the leaves."""

    def clamp(self, bound: float) -> None:
        """Project onto pixels within +-bound, where the leaves are pixels."""


class Pixels:
    """A canvas whose one leaf is the images themselves."""

    def __init__(self, images: Tensor) -> None:
        self._images = images.requires_grad_(True)

    def leaves(self) -> list[Tensor]:
        """See `Canvas.leaves`."""
        return [self._images]

    def image(self) -> Tensor:
        """See `Canvas.image`."""
        return self._images

    @torch.no_grad()
    def clamp(self, bound: float) -> None:
        """See `Canvas.clamp`."""
        self._images.clamp_(-bound, bound)


@dataclass(frozen=True)
class Score:
    """A candidate's loss at one point: in all, and without the prior."""

    total: float
    match: float
    images: Tensor
    logits: Tensor | None


class Candidates:
    """The restarts: their canvases and label logits, the best point each has seen, and which have ended."""

    def __init__(
        self,
        canvases: Sequence[Canvas],
        labels: Tensor | list[Tensor],
        *,
        keep_last: bool,
        extra: Sequence[list[Tensor]],
    ) -> None:
        self.canvases, self._keep_last, self._extra = canvases, keep_last, extra
        self.labels = labels if isinstance(labels, Tensor) else None
        self.logits = None if isinstance(labels, Tensor) else labels
        self.best = [Score(math.inf, math.inf, canvas.image().detach(), None) for canvas in canvases]
        self._ended = [False] * len(canvases)
        self._failed = [False] * len(canvases)
        self._dropped = [False] * len(canvases)
        self._improved = [(0, math.inf)] * len(canvases)

    def parameters(self) -> list[list[Tensor]]:
        """Each candidate's leaf tensors: the canvas's, `extra` ones, the label logits."""
        leaves = [[*canvas.leaves(), *more] for canvas, more in zip(self.canvases, self._extra, strict=True)]
        if self.logits is None:
            return leaves
        return [[*own, logit] for own, logit in zip(leaves, self.logits, strict=True)]

    def active(self) -> list[int]:
        """The candidates that still move."""
        return [i for i, ended in enumerate(self._ended) if not ended]

    @torch.no_grad()
    def finite(self) -> Tensor:
        """The images of all candidates that have not failed, (C, B, 3, S, S), or of all where none is left."""
        alive = [i for i, failed in enumerate(self._failed) if not failed] or range(len(self.canvases))
        return torch.stack([self.canvases[i].image() for i in alive])

    def settle(self, scores: dict[int, Score], iteration: int, stop: EarlyStop | None) -> None:
        """Keep each candidate's best or last point; end those whose loss is not finite or has stopped improving."""
        for candidate, score in scores.items():
            if not math.isfinite(score.total):
                self._ended[candidate] = self._failed[candidate] = True
                continue
            if self._keep_last or score.total < self.best[candidate].total:
                self.best[candidate] = score
            since, reference = self._improved[candidate]
            if stop is None or score.total < reference - stop.min_delta:
                self._improved[candidate] = (iteration, score.total)
            elif iteration - since >= stop.patience:
                self._ended[candidate] = True

    def keep_best(self, count: int) -> None:
        """End all but the `count` candidates of least total loss: none of the others is the answer any more."""
        alive = sorted(
            (i for i, failed in enumerate(self._failed) if not failed), key=lambda i: self.best[i].total
        )
        for candidate in alive[count:]:
            self._ended[candidate] = self._dropped[candidate] = True

    def clamp(self, bound: float | None) -> None:
        """Project the moving candidates onto the pixel range."""
        if bound is not None:
            for candidate in self.active():
                self.canvases[candidate].clamp(bound)

    def result(self, history: Tensor, iterations: int) -> Reconstruction:
        """The best candidate by total loss among those that stayed finite; raises `AttackFailed` if none did."""
        alive = [i for i, failed in enumerate(self._failed) if not failed]
        if not alive:
            raise AttackFailed(f"All {len(self.canvases)} candidates met a loss that is not finite.")
        # A loss of earlier iterations does not compare with one of the last, at which priors may weigh less.
        final = [i for i in alive if not self._dropped[i]] or alive
        chosen = self.best[min(final, key=lambda i: self.best[i].total)]
        labels = self.labels if chosen.logits is None else chosen.logits.argmax(dim=-1)
        if labels is None:
            raise AssertionError("a candidate has fixed labels or logits")
        return Reconstruction(
            images=_finished(chosen.images),
            labels=labels.cpu(),
            loss=chosen.match,
            candidates=torch.stack([_finished(self.best[i].images) for i in alive]),
            history=history,
            iterations=iterations,
            failed=sum(self._failed),
            method="matching",
            outcome="matching",
        )


def _finished(images: Tensor) -> Tensor:
    return images.detach().clamp(-1.0, 1.0).cpu()
