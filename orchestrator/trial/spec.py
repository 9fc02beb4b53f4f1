"""A trial as data: what makes it the trial that it is, and what it reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from attack_core.attacks.registry import AnyAttack
from attack_core.base.programs.ways import Programs
from fl_core.base.device import Precision
from fl_core.base.types import LATER, ModelState, Truth
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import TrainedPrior
from fl_core.threat.record import RoundRecord
from orchestrator.io.identity import content_hash
from orchestrator.trial.public import PublicAnswers

Phase = Literal["screen", "tune", "test", "grid", "control"]
REPORTED: tuple[Phase, ...] = ("test", "grid")
"""The phases whose answers are reported. Certificates, which may take longer than an attack, are for these alone."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """A trial as pure data; two trials are the same exactly if their specs are.

    `capture` is the capture's key, `victim` its position in the cell's list of victims. `seed` fixes the
    attack's randomness. `threads`, `precision` and `programs` are there because they change rounding. `prior` is
    the attacker's trained prior: data, number of pictures, and hashes of what it was learned from and of what it came
    to.
    """

    cell: str
    attacker: str
    phase: Phase
    suggestion: int | None
    victim: int
    capture: str
    attack: AnyAttack
    threat: ThreatModel
    seed: int
    device: str
    threads: int
    control: bool = False
    lpips: bool = False
    images: bool = False
    precision: Precision = field(default="float32", metadata=LATER)
    programs: Programs = field(default="operations", metadata=LATER)
    prior: str | None = field(default=None, metadata=LATER)

    @cached_property
    def trial_id(self) -> str:
        """The hash of the spec's canonical JSON."""
        return content_hash(self)


@dataclass(frozen=True)
class TrialInput:
    """What a trial reads: the captured signal, and what its answer is scored with.

    `record` comes without weights, which many captures share: they are `state`. `mean_image` (3, S, S) is the mean
    public image, `public` what else scores compare several images with. `prior` is the attacker's, where it has one.
    `later` are the weights of the other rounds
    that were watched.
    """

    state: ModelState
    record: RoundRecord
    truth: Truth
    mean_image: Tensor | None = None
    public: PublicAnswers | None = None
    later: tuple[ModelState, ...] = ()
    prior: TrainedPrior | None = None

    @property
    def whole_record(self) -> RoundRecord:
        """The record with the weights put back."""
        pairs = zip(self.record.later, self.later, strict=True)
        later = tuple(replace(record, state=state) for record, state in pairs)
        return replace(self.record, state=self.state, later=later)
