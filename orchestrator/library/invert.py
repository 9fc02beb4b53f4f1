"""Gradient inversion of what one client sent: from a network and its gradients or update to images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attack_core.attacks.registry import AnyAttack
from attack_core.base.certificate import Certificate
from attack_core.base.types import Outcome, Progress, Reconstruction
from attack_core.metrics.metrics import to_unit
from fl_core.base.device import precision_of
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import Signal
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig
from fl_core.models.tensor_names import second_names
from fl_core.threat.facts import Fact, InTheClear
from fl_core.threat.observation import Observation
from orchestrator.library.chains import chain_of, named_attack
from orchestrator.library.count import count_images
from orchestrator.library.images import ImageSpec, Pictures
from orchestrator.library.known import Known
from orchestrator.library.network import Subject, subject
from orchestrator.library.updates import Numbers, Update, checked

_WITHOUT_LR = 1.0
"""The learning rate that is taken where none is known: an answer that no scale changes is right with any."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an attack found.

    `images` (N, C, H, W) have pixels in [0, 1], `labels` (N,) are their classes, on the CPU. `outcome` says what they
    come from: `analytic`, `matching`, `other`, or `prior` where nothing was taken from the signal. `loss` is how
    far the answer's own gradient is from the signal. `method` and `notes` say in words what was done and assumed.
    `certificates` hold one for each image, or nothing: what the attack's equations say of how well they determine it.
    """

    images: Tensor
    labels: Tensor
    outcome: Outcome
    loss: float
    method: str
    notes: tuple[str, ...]
    certificates: tuple[Certificate | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack on one signal, ready to run: the network, what is seen, and what was assumed, in sentences."""

    subject: Subject
    observation: Observation
    attack: AnyAttack
    notes: tuple[str, ...]

    def run(self, seed: int, *, progress: Progress | None = None) -> Reconstruction:
        """The attack's answer; raises `InputError` for a signal that it cannot be run on, and `AttackFailed`."""
        with torch.enable_grad(), precision_of("float32"):
            return self.attack(
                self.observation, self.subject.model, generator("library", seed), progress=progress
            )


def invert(
    model: torch.nn.Module,
    sent: Numbers | Update,
    *,
    image: ImageSpec,
    classes: int,
    attack: str | AnyAttack = "auto",
    known: Known | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Found:
    """Reconstruct the images behind what a client sent.

    `model` is the network at the weights that the signal was computed at (for an `Update` with `before`, those are
    taken). `sent` is the gradient of the mean cross-entropy over a batch, by parameter name or in the model's order, or
    an `Update`. `attack` is a name of `gradsweep.attacks.NAMED` or an attack with its settings. It runs where the
    model is. The model, its mode and PyTorch's global random state stay as they are; the same seed gives the same
    answer.

    Raises `InputError` for wrong input, with the tensor and what would be right, and `AttackFailed` where every
    candidate ended in numbers that are not finite.
    """
    with torch.inference_mode(False):
        case = case_at(subject(model, image, classes), sent, attack=attack, known=known)
        return found_of(case, case.run(seed, progress=progress))


def found_of(case: Case, answer: Reconstruction) -> Found:
    """An attack's answer with pixels in [0, 1], and everything that was assumed."""
    return Found(
        images=to_unit(answer.images).cpu(),
        labels=answer.labels.cpu(),
        outcome=answer.outcome,
        loss=answer.loss,
        method=answer.method,
        notes=(*case.subject.notes, *case.notes, *answer.notes),
        certificates=answer.certificates,
    )


def case_at(
    network: Subject, sent: Numbers | Update, *, attack: str | AnyAttack = "auto", known: Known | None = None
) -> Case:
    """What `invert` runs, for a network that has been prepared; see there."""
    chosen = named_attack(attack)
    if not isinstance(known, Known | None):
        raise InputError(f"known is {type(known).__name__}: must be gradsweep.Known(...).")
    observation, notes = _observation(network, sent, known or Known())
    return Case(subject=network, observation=observation, attack=chosen, notes=tuple(notes))


def _observation(network: Subject, sent: Numbers | Update, known: Known) -> tuple[Observation, list[str]]:
    notes: list[str] = []
    state, image, device = network.state, network.image, network.device
    if isinstance(sent, Update):
        update, state = sent.at(state, second_names(network.model))
        found = checked(update.tensors, state, "the update")
        stored = update.stored
        notes += [*update.notes, *precision_notes(update)]
        known = known.filled(update.facts)
    else:
        if known.lr is not None or (known.steps or 1) > 1:
            raise InputError(
                "Known.lr and Known.steps are for weight updates, and this is a gradient; give Update(tensors=...)."
            )
        found = checked(sent, state, "the gradient")
        stored = torch.float32
        if found.sent_as != torch.float32:
            notes.append(f"the gradient was sent as {rounding_of(found.sent_as)}")
    tensors, unsent = found.tensors, found.unsent
    notes += found.notes
    facts: list[Fact] = []
    if unsent:
        notes.append(f"not sent: {', '.join(unsent[:3])}{' and others' if len(unsent) > 3 else ''}")
        facts.append(
            InTheClear(
                masks={
                    name: torch.full_like(value, name not in unsent, dtype=torch.bool)
                    for name, value in tensors.items()
                }
            )
        )
    pictures = Pictures(shape=image.shape, outputs=network.classes)
    examples = known.examples or (len(known.labels) if known.labels is not None else None)
    if examples is None:
        counted = count_images(
            network.model, state, tensors, image.shape, stored=stored, sent_as=found.sent_as
        )
        examples = counted.examples
        told = "" if counted.certain else "; give Known(examples=...) if you know better"
        notes.append(f"{examples} image{'s' if examples > 1 else ''} assumed: {counted.why}{told}")
    steps, batch_size = _steps(known, examples, notes)
    lr = known.lr
    if isinstance(sent, Update) and lr is None:
        lr = _WITHOUT_LR
        notes.append(
            "no learning rate is known: 1 is assumed, so only what does not depend on the scale is right"
        )
    signal: Signal = "gradients"
    if isinstance(sent, Update):
        signal = "one_step_update" if steps == 1 else "local_update"
    plan = FederationConfig(
        clients=1,
        rounds=1,
        fraction=1.0,
        local=LocalTraining(lr=lr or 0.01, momentum=known.momentum, batch_size=batch_size),
    )
    facts += chain_of(known.defenses, "Known.defenses").facts(plan)
    public = None if known.public is None else image.check(known.public, "Known.public").mean(0)
    labels = None if known.labels is None else torch.tensor(list(known.labels), dtype=torch.int64)
    observation = Observation(
        signal=signal,
        model=pictures,
        state=state,
        tensors=tensors,
        examples=examples,
        clients=1,
        batch_size=batch_size,
        steps=steps,
        lr=lr or 0.01,
        momentum=known.momentum,
        facts=tuple(facts),
        labels=labels,
        public_mean=public,
    )
    return observation.to(device), notes


def precision_notes(update: Update) -> list[str]:
    """What weights that were stored in few bits cost; nothing where float32 held them."""
    if not update.coarse:
        return []
    return [f"the weights were stored as {rounding_of(update.stored)}"]


def rounding_of(kind: torch.dtype) -> str:
    """A type and what it costs, in words."""
    share = torch.finfo(kind).eps / 2
    return f"{str(kind).removeprefix('torch.')}, which rounds each of them by up to {share:.1g} of it"


def _steps(known: Known, examples: int, notes: list[str]) -> tuple[int, int]:
    """Local steps and the images of each."""
    if known.steps is not None and known.batch_size is None:
        batch = -(-examples // known.steps)
        if known.steps > 1:
            notes.append(f"batches of {batch} assumed: {examples} images in {known.steps} steps")
        return known.steps, batch
    batch = known.batch_size or examples
    steps = known.steps or -(-examples // batch)
    if known.steps is None and steps > 1:
        notes.append(f"{steps} steps assumed: one epoch of {examples} images in batches of {batch}")
    return steps, min(batch, examples)
