"""What the analytic attack has to invert, how it is told to, and how an answer to it is put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor, nn

from attack_core.base.evaluations import Evaluations
from attack_core.base.reading import Reading
from attack_core.base.types import Outcome, Progress, Reconstruction
from attack_core.fc.layer_inputs import LayerInputs
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.given import Penalty
from attack_core.inversion.rounds import Rounds, read_together
from attack_core.separation.inputs import read_inputs
from attack_core.signal.signal_model import is_sparse, matched_numbers
from attack_core.solving.distance import relative_distance
from attack_core.solving.known_before import known_before
from fl_core.threat.observation import Observation

PRIOR = "analytic: prior alone"
"""The `method` of answers that are the prior."""


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a problem is solved; the fields are those of `Analytic`."""

    reading: Reading
    inversion: Continuation
    refine: Literal["auto", "always", "never"]
    refinement: Continuation
    passes: int
    decode: bool
    certify: bool


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be inverted, and what the descent has reported so far."""

    manner: Manner
    model: nn.Module
    observation: Observation
    read: LayerInputs
    rounds: Rounds
    generator: torch.Generator
    progress: Progress | None
    seen: Evaluations = field(default_factory=Evaluations)

    @classmethod
    def of(
        cls,
        manner: Manner,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Self:
        """The layer inputs read; raises what `LayerInputs.of` raises."""
        read = read_inputs(manner.reading, observation, model, generator)
        read, rounds = read_together(read, manner.reading, observation)
        return cls(
            manner=manner,
            model=model,
            observation=observation,
            read=read,
            rounds=rounds,
            generator=generator,
            progress=progress,
        )

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.read.shares.inputs)

    @property
    def pixels(self) -> int:
        """How many numbers one image has."""
        return self.observation.model.shape.numbers

    @property
    def scarce(self) -> bool:
        """Whether exact features are too few for the image, and the layers in front say more."""
        whole = not is_sparse(self.observation) and not self.read.head.pixels
        return self.read.known < self.pixels and self.read.error == 0 and whole

    @property
    def refined(self) -> bool:
        """Whether the earlier layers' gradients follow; there are none where clients train the head alone."""
        if not self.read.head.in_front(self.observation.state.parameters):
            return False
        return self.manner.refine == "always" or (self.manner.refine == "auto" and self.scarce)

    @property
    def penalty(self) -> Penalty | None:
        """What takes the place of smoothness, where the attacker has a trained prior."""
        prior = self.observation.prior
        return None if prior is None else prior.penalty

    @property
    def joined(self) -> list[str]:
        """A note where several rounds are read together."""
        return [f"{len(self.rounds)} rounds read together"] if len(self.rounds) > 1 else []

    @property
    def prior_name(self) -> str:
        """What is known before the signal, in words."""
        return "near grey" if self.observation.public_mean is None else "the mean public image"

    def start(self) -> Tensor:
        """Where the search for each image begins, (B, C, S, S)."""
        return self.start_of_one().expand(self.count, -1, -1, -1)

    def start_of_one(self) -> Tensor:
        """The same of a single image, (1, C, S, S); each call draws anew where there is no mean image."""
        return known_before(self.observation, self.generator).to(self.read.shares.inputs.device)

    def loss_of(self, images: Tensor, labels: Tensor) -> float:
        """The relative squared distance from the signal of the gradient of `images` (B, C, S, S) with `labels` (B,)."""
        gradients = self.read.gradients
        device = self.read.shares.inputs.device
        known = matched_numbers(self.observation, gradients, dict.fromkeys(gradients, 1.0))
        return relative_distance(
            known, self.model, self.observation.state, images.to(device), labels.to(device)
        )

    def result(
        self,
        method: str,
        images: Tensor,
        notes: list[str],
        loss: float | None = None,
        *,
        outcome: Outcome = "analytic",
    ) -> Reconstruction:
        """The answer with these `images` (B, C, S, S); the images that did not come apart are the prior in it.

        `loss` is that of the images (`loss_of`) where it is None.
        """
        images, labels = images.detach().clamp(-1.0, 1.0), self.read.shares.labels
        if (others := self.read.shares.others) is not None:
            rest = self.start_of_one().expand(len(others), -1, -1, -1)
            images, labels = torch.cat([images, rest.to(images)]), torch.cat([labels, others])
            notes = [*notes, f"for the other {len(others)} images the answer is {self.prior_name}"]
        return Reconstruction(
            images=images.cpu(),
            labels=labels.cpu(),
            loss=self.loss_of(images, labels) if loss is None else loss,
            candidates=images.cpu()[None],
            history=torch.tensor(self.seen.mismatches or [0.0])[:, None],
            iterations=len(self.seen.mismatches),
            failed=0,
            method=method,
            outcome=outcome,
            notes=tuple(notes),
            work=self.seen.work,
            rounds=len(self.rounds),
        )
