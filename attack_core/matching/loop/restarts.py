"""The restarts of a matching attack: what each one moves, the best point it has seen, and when it has ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attack_core.base.types import AttackFailed, Reconstruction
from attack_core.matching.candidates import EarlyStop


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
class Scores:
    """Losses of candidates `which` (A,) at one point: in all and without the prior, (A,) each, on their device."""

    which: Tensor
    total: Tensor
    match: Tensor
    images: Tensor
    logits: Tensor | None


class Candidates:
    """The restarts: their canvases and label logits, the best point each has seen, and which have ended.

    What they have come to stays on their device: nothing is read from it but by `look`, `least` and `result`.
    """

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
        with torch.no_grad():
            images = torch.stack([canvas.image() for canvas in canvases])
            soft = None if self.logits is None else torch.stack(self.logits)
        count, device = len(canvases), images.device
        never = torch.full((count,), math.inf, device=device)
        # Best points; `settle` overwrites them in place.
        self._best = Scores(torch.arange(count, device=device), never, never.clone(), images, soft)
        self._ended, self._failed, self._dropped = torch.zeros((3, count), dtype=torch.bool, device=device)
        self._since = torch.zeros(count, dtype=torch.int64, device=device)
        self._reference = never.clone()
        self._moving, self._sound = list(range(count)), list(range(count))
        self._indices: dict[tuple[int, ...], Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self._best.images.device

    def parameters(self) -> list[list[Tensor]]:
        """Each candidate's leaf tensors: the canvas's, the label logits, `extra` ones."""
        return [[*self.own_leaves(i), *more] for i, more in enumerate(self._extra)]

    def own_leaves(self, candidate: int) -> list[Tensor]:
        """Without the `extra` ones: the canvas's leaves and the label logits."""
        leaves = self.canvases[candidate].leaves()
        return leaves if self.logits is None else [*leaves, self.logits[candidate]]

    def index(self, which: list[int]) -> Tensor:
        """These numbers on the device, put there once."""
        key = tuple(which)
        if key not in self._indices:
            self._indices[key] = torch.tensor(which, device=self.device)
        return self._indices[key]

    def look(self) -> list[int]:
        """The candidates that still move, read from the device; `finite` knows no newer state than this."""
        ended, failed = torch.stack([self._ended, self._failed]).tolist()
        self._moving = [i for i, over in enumerate(ended) if not over]
        self._sound = [i for i, bad in enumerate(failed) if not bad]
        return self._moving

    def least(self) -> float:
        """The least total loss so far, of all candidates."""
        return float(self._best.total.min())

    @torch.no_grad()
    def finite(self) -> Tensor:
        """The images of all candidates that have not failed, (C, B, 3, S, S), or of all where none is left."""
        sound = self._sound or range(len(self.canvases))
        return torch.stack([self.canvases[i].image() for i in sound])

    @torch.no_grad()
    def settle(self, scores: Scores, iteration: int, stop: EarlyStop | None) -> Tensor:
        """Keep each candidate's best or last point; end those whose loss is not finite or has stopped improving.

        Returns which of them (A,) had not ended before.
        """
        which, total = scores.which, scores.total
        moving: Tensor = ~self._ended[which]
        sound = moving & total.isfinite()
        self._failed[which] |= moving & ~sound
        self._ended[which] |= moving & ~sound
        better = sound if self._keep_last else sound & (total < self._best.total[which])
        for best, value in (
            (self._best.total, total),
            (self._best.match, scores.match),
            (self._best.images, scores.images),
            (self._best.logits, scores.logits),
        ):
            if best is not None and value is not None:
                chosen = better.view(-1, *[1] * (value.dim() - 1))
                best[which] = torch.where(chosen, value, best[which])
        if stop is not None:
            improved = sound & (total < self._reference[which] - stop.min_delta)
            since = torch.where(improved, iteration, self._since[which])
            self._since[which] = since
            self._reference[which] = torch.where(improved, total, self._reference[which])
            self._ended[which] |= sound & ~improved & (iteration - since >= stop.patience)
        return moving

    def keep_best(self, count: int) -> None:
        """End all but the `count` candidates of least total loss: none of the others is the answer any more."""
        self.look()
        total = self._best.total.tolist()
        for candidate in sorted(self._sound, key=lambda i: total[i])[count:]:
            self._ended[candidate] = self._dropped[candidate] = True

    def clamp(self, bound: float | None) -> None:
        """Project the moving candidates onto the pixel range."""
        if bound is not None:
            for candidate in self._moving:
                self.canvases[candidate].clamp(bound)

    def result(self, history: Tensor, iterations: int) -> Reconstruction:
        """The best candidate by total loss among those that stayed finite; raises `AttackFailed` if none did."""
        self.look()
        alive, best = self._sound, self._best
        if not alive:
            raise AttackFailed(f"All {len(self.canvases)} candidates met a loss that is not finite.")
        # A loss of earlier iterations does not compare with one of the last, at which priors may weigh less.
        dropped, total = self._dropped.tolist(), best.total.tolist()
        chosen = min([i for i in alive if not dropped[i]] or alive, key=lambda i: total[i])
        labels = self.labels if best.logits is None else best.logits[chosen].argmax(dim=-1)
        if labels is None:
            raise AssertionError("a candidate has fixed labels or logits")
        return Reconstruction(
            images=_finished(best.images[chosen]),
            labels=labels.cpu(),
            loss=float(best.match[chosen]),
            candidates=_finished(best.images[alive]),
            history=history.cpu(),
            iterations=iterations,
            failed=len(self.canvases) - len(alive),
            method="matching",
            outcome="matching",
        )


def _finished(images: Tensor) -> Tensor:
    return images.detach().clamp(-1.0, 1.0).cpu()
