"""The attack on what was sent, under the facts that are known, and under those that explain the update better."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from attack_core.attacks.registry import AnyAttack
from attack_core.base.types import AttackFailed, Reconstruction
from fl_core.base.errors import InputError, first_line
from fl_core.base.rng import derive_seed
from orchestrator.audit.explanation import EXPLANATION_LIMITS, Explanation, explained, in_words
from orchestrator.audit.progress import Say
from orchestrator.library.invert import Case, case_at
from orchestrator.library.known import Known
from orchestrator.library.network import Subject
from orchestrator.library.updates import Update

Sent = Update | dict[str, Tensor]
"""A weight update, or a gradient by parameter name."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The attack in question on the signal in question, under what is known."""

    network: Subject
    sent: Sent
    attack: AnyAttack
    seed: int

    def __call__(self, known: Known, say: Say) -> tuple[Case, Reconstruction]:
        """The case that is known so, and the answer to it; raises `InputError` where no candidate was finite."""
        case = case_at(self.network, self.sent, attack=self.attack, known=known)
        say(f"attacking with {case.attack.kind}: {case.observation.examples} images")
        return case, self._run(case)

    def _run(self, case: Case) -> Reconstruction:
        try:
            return case.run(derive_seed("audit", self.seed))
        except AttackFailed as error:
            raise InputError(
                f"The attack ended in numbers that are not finite ({first_line(error)}): look at the learning rate "
                f"({case.observation.lr:g}) and at the size of the update."
            ) from error

    def short(self, known: Known) -> Explanation | None:
        """How what the attack finds without matching explains the update; None where that cannot be said."""
        case = case_at(self.network, self.sent, attack=self.attack, known=known)
        if not isinstance(self.sent, Update):
            return None
        try:
            case = replace(case, attack=case.attack.with_matching({"iterations": 1}))
        except InputError:
            return None
        return explained(case, self._run(case), lr_known=known.lr is not None)


def explaining(
    attack: Attempt, known: Known, case: Case, answer: Reconstruction, say: Say
) -> tuple[Known, Case, Reconstruction, Explanation | None]:
    """The attack under the facts that its images explain the update with, where the given ones do not."""
    explanation = explained(case, answer, lr_known=known.lr is not None)
    seen = case.observation
    # Several steps hide the images that one step on all of them would give: that is tried too.
    unexplained = (
        explanation is not None and not explanation.facts and explanation.left > EXPLANATION_LIMITS.fits
    )
    if explanation is not None and unexplained and seen.steps > 1 and seen.examples > 1:
        fit = attack.short(replace(known, steps=1, batch_size=seen.examples))
        if fit is not None and (fit.facts or fit.left <= EXPLANATION_LIMITS.fits):
            facts = {"steps": 1.0, "batch_size": float(seen.examples), **fit.facts}
            explanation = replace(explanation, facts=facts)
    if explanation is None or not explanation.facts:
        return known, case, answer, explanation
    say(f"the images explain the update with {in_words(explanation.facts)}")
    other = known.changed(explanation.facts)
    again, second = attack(other, say)
    fit = explained(again, second)
    if fit is not None and fit.left <= EXPLANATION_LIMITS.fits:
        return other, again, second, explanation
    return known, case, answer, replace(explanation, facts={})
