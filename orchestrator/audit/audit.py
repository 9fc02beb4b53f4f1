"""The audit: premises, attack, calibration, and what would stop it, in this order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attack_core.attacks.registry import AnyAttack
from attack_core.base.types import AttackFailed, Reconstruction
from defenses.chain import AnyDefense
from defenses.mechanism.noise import NoiseOnly
from fl_core.base.errors import InputError
from fl_core.base.rng import derive_seed
from fl_core.base.types import Tensors
from fl_core.federation.client import LocalTraining
from fl_core.models.tensor_names import second_names
from orchestrator.audit.against import Critical, Measured, chosen_families, gain_of, search
from orchestrator.audit.attempt import Attempt, Sent, explaining
from orchestrator.audit.explanation import EXPLANATION_LIMITS, Explanation
from orchestrator.audit.in_force import counted_under, defense_premises, in_force, on_top
from orchestrator.audit.premises import (
    Premise,
    batch_norm_premise,
    batches_counted,
    contradicted,
    counted_premise,
    direction_premise,
    lr_contradiction,
    optimizer_premise,
    precision_premise,
    rounding_sigma,
    size_premise,
    training_premises,
)
from orchestrator.audit.progress import Say, counting
from orchestrator.audit.utility import accuracy_after
from orchestrator.calibration.calibrate import Calibration, Setting, calibrate, scored
from orchestrator.calibration.pictures import PictureSet
from orchestrator.calibration.prediction import Expected
from orchestrator.calibration.seen import Seen, seen_of
from orchestrator.inference.defense import SeenDefense, Signal, seen_defense
from orchestrator.inference.optimizer import Optimizer, SignSteps, seen_optimizer
from orchestrator.library.chains import shortened_attack
from orchestrator.library.count import Counted, count_images
from orchestrator.library.images import ImageSpec
from orchestrator.library.invert import Case, Found, case_at, found_of
from orchestrator.library.known import Known
from orchestrator.library.network import Subject, subject
from orchestrator.library.simulate import released, with_tensors
from orchestrator.library.updates import Numbers, Update, as_tensor, checked, coarsest

MOST_STEPS = 10_000
"""More local steps are not simulated."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is audited: a network, what one client sent, and what is known of it.

    `public` calibrates; `truth` are the images behind the signal, where somebody has them: they are compared and used
    for nothing else. `against` names defenses to try on this very signal. `clients` are simulated for each prediction,
    fewer (`fewer`) for each strength of a defense. `effort`, in (0, 1], is the share of the attack's iterations that
    every run of it takes, on what was sent and on simulated clients alike: only so do these say what that one reached.
    """

    model: nn.Module
    sent: Numbers | Update
    image: ImageSpec
    classes: int
    known: Known
    public: PictureSet
    truth: Tensor | None = None
    against: tuple[str, ...] = ()
    attack: str | AnyAttack = "auto"
    clients: int = 19
    fewer: int = 6
    effort: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        shortened_attack(self.attack, self.effort)

    @property
    def shortened(self) -> AnyAttack:
        """The attack at the audit's effort."""
        return shortened_attack(self.attack, self.effort)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an audit found: images, how good they are expected to be, what that rests on, and what would stop it.

    `expected` holds a prediction for each image of `found`; it is empty where `unlike` says why none can be made:
    simulated clients under these facts came out otherwise. `psnr` holds a value for each true image, in dB, where the
    truth is known.
    """

    found: Found
    expected: tuple[Expected, ...]
    unlike: str
    calibration: Calibration
    premises: tuple[Premise, ...]
    strengths: tuple[Critical, ...]
    psnr: tuple[float, ...] | None
    effort: float

    @property
    def overall(self) -> Expected:
        """The means of the images' predictions and of their intervals' ends."""
        return Expected.mean(self.expected)

    @property
    def contradictions(self) -> tuple[str, ...]:
        """What is given or assumed and the signal shows otherwise."""
        return tuple(
            f"{each.name} {each.value}: {each.contradiction}" for each in self.premises if each.contradiction
        )


def run_audit(question: Question, say: Say) -> Answer:
    """Answer a question; `say` gets a line for each step. Raises `InputError` for wrong input."""
    network = subject(question.model, question.image, question.classes)
    network, sent = _named(question, network, say)
    stored = sent.stored if isinstance(sent, Update) else torch.float32
    counted = count_images(
        network.model,
        network.state,
        _tensors(sent),
        question.image.shape,
        stored=stored,
        sent_as=_sent_as(question.sent),
    )
    told, defense = question.known.defenses, _defense(question, network, sent)
    held = in_force(told, defense)
    families = chosen_families(question.against, _tensors(sent))
    for family in families.values():
        on_top(held, family.make(family.grid[0]))
    if defense is not None:
        say(f"a defense is in force: {defense.words}; {defense.why}")
    question = replace(question, known=replace(question.known, defenses=held))
    counted = counted_under(counted, held, defense)
    attack = Attempt(network=network, sent=sent, attack=question.shortened, seed=question.seed)
    optimizer = _optimizer(question, sent, counted)
    if optimizer is not None and optimizer.kind == "adaptive":
        as_sgd = attack.short(_completed(question, network, sent, counted, None))
        # What SGD explains exactly is SGD's, however its sizes are.
        if as_sgd is not None and (as_sgd.facts or as_sgd.left <= EXPLANATION_LIMITS.fits):
            optimizer = None
    if optimizer is not None and counted.examples > 1:
        counted = Counted(
            examples=1, why="numbers that lost their sizes have a rank of their own", certain=False
        )
    known = _completed(question, network, sent, counted, optimizer)
    _check_size(question, known)
    say(f"signal: {counted.why}")
    case, answer = attack(known, say)
    explanation = None
    if isinstance(sent, Update):
        known, case, answer, explanation = explaining(attack, known, case, answer, say)
    found = found_of(case, answer)
    setting = _setting(network, sent, known, case)
    say(f"calibrating on {question.clients} simulated clients that hold {question.public.source}")
    calibration = calibrate(
        setting, question.public, clients=question.clients, seed=question.seed, progress=counting(say)
    )
    premises = (
        *_premises(question, sent, counted, case, found, optimizer, explanation),
        *defense_premises(told, defense, _tensors(sent)),
    )
    strengths = tuple(
        search(name, family, _measuring(question, network, sent, known, name, say))
        for name, family in families.items()
    )
    truth = None if question.truth is None else question.image.check(question.truth, "the truth")
    unlike = calibration.unlike(answer.outcome, answer.loss)
    return Answer(
        found=found,
        expected=() if unlike else calibration.expected(_seen(answer, case)),
        unlike=unlike,
        calibration=calibration,
        premises=premises,
        strengths=strengths,
        psnr=None if truth is None else tuple(scored(answer.images, truth)),
        effort=question.effort,
    )


def _seen(answer: Reconstruction, case: Case) -> list[Seen]:
    """What is seen of an answer; an audit has public pictures, so there is a mean one."""
    mean = case.observation.public_mean
    if mean is None:
        raise AssertionError("an audit's attacker knows public pictures")
    return seen_of(answer, mean[None])


def _named(question: Question, network: Subject, say: Say) -> tuple[Subject, Sent]:
    """The network at the weights that the signal is of, and the signal by parameter name."""
    sent = question.sent
    if isinstance(sent, Update):
        update, state = sent.at(network.state, second_names(network.model))
        for note in update.notes:
            say(note)
        return replace(network, state=state), replace(
            update, tensors=checked(update.tensors, state, "the update").tensors
        )
    found = checked(sent, network.state, "the gradient")
    for note in found.notes:
        say(note)
    return replace(network, notes=(*network.notes, *found.notes)), found.tensors


def _tensors(sent: Sent) -> Tensors:
    return sent.tensors if isinstance(sent, Update) else sent


def _sent_as(sent: Numbers | Update) -> torch.dtype:
    """The type of least precision that the client's numbers came in."""
    if isinstance(sent, Update):
        return torch.float32
    values = sent.values() if isinstance(sent, Mapping) else sent
    return coarsest([as_tensor(value) for value in values if value is not None])


def _check_size(question: Question, known: Known) -> None:
    """Refuse what would be simulated for days, and what too few public images are there for."""
    if (known.steps or 1) > MOST_STEPS:
        raise InputError(
            f"steps = {known.steps}: each simulated client takes as many; at most {MOST_STEPS:,}."
        )
    count = known.examples or 1
    if len(question.public.images) <= count:
        raise InputError(
            f"{question.public.source}: {count} images behind the signal need {count + 1} public ones to calibrate "
            "with."
        )


def _optimizer(question: Question, sent: Sent, counted: Counted) -> Optimizer | None:
    """The optimizer that the sizes of the numbers show, where no defense or noise explains them."""
    if question.known.defenses or counted.sigma:
        return None
    if isinstance(sent, Update) and sent.coarse:
        return None
    return seen_optimizer(_tensors(sent))


def _defense(question: Question, network: Subject, sent: Sent) -> SeenDefense | None:
    """The defense that the numbers show, where their own precision does not explain them."""
    if isinstance(sent, Update) and sent.coarse:
        return None
    known = _told(question, sent)
    one_step = isinstance(sent, Update) and known.steps in (None, 1)
    return seen_defense(
        Signal(
            network=network,
            tensors=_tensors(sent),
            moved=isinstance(sent, Update),
            pictures=question.image.check(question.public.images, "public images"),
            lr=known.lr if one_step else None,
        )
    )


def _completed(
    question: Question, network: Subject, sent: Sent, counted: Counted, optimizer: Optimizer | None
) -> Known:
    """What is known, with what the signal tells: the number of images, steps, noise, signs."""
    known = _told(question, sent)
    given = known.examples
    # Neither fewer nor more images than the rank shows can be in it; the page names the contradiction.
    if given is None or contradicted(counted, given, repeated=_repeats(known, given)):
        known = replace(known, examples=counted.examples, batch_size=None if given else known.batch_size)
    if isinstance(sent, Update) and known.steps is None:
        known = replace(known, steps=batches_counted(sent))
    if optimizer is not None:
        lr = known.lr or optimizer.size / (known.steps or 1) if isinstance(sent, Update) else None
        known = replace(known, defenses=(SignSteps(),), lr=lr)
    sigma = counted.sigma or rounding_sigma(sent, network.state)
    if sigma and not known.defenses:
        known = replace(known, defenses=(NoiseOnly(sigma=sigma),))
    return replace(known, public=question.public.images)


def _told(question: Question, sent: Sent) -> Known:
    """What is known, with what the update's own file says."""
    return question.known.filled(sent.facts) if isinstance(sent, Update) else question.known


def _repeats(known: Known, examples: int) -> bool:
    """Whether local steps see images more than once, so that the rank holds some of them several times."""
    return (known.steps or 0) * (known.batch_size or examples) > examples


def _setting(network: Subject, sent: Sent, known: Known, case: Case) -> Setting:
    """What simulated clients do: as the audited one did, under what is known to be in force."""
    seen = case.observation
    local = None
    if isinstance(sent, Update):
        local = LocalTraining(
            lr=seen.lr,
            momentum=seen.momentum,
            batch_size=seen.batch_size,
            epochs=max(1, -(-seen.steps * seen.batch_size // seen.examples)),
            max_steps=seen.steps,
        )
    return Setting(network=network, attack=case.attack, known=known, examples=seen.examples, local=local)


def _premises(
    question: Question,
    sent: Sent,
    counted: Counted,
    case: Case,
    found: Found,
    optimizer: Optimizer | None,
    explanation: Explanation | None,
) -> tuple[Premise, ...]:
    seen = case.observation
    known = _told(question, sent)
    repeated = seen.steps * seen.batch_size > seen.examples
    premises = [
        counted_premise(known, counted, used=seen.examples, repeated=repeated),
        *training_premises(known, sent, case, explanation, optimizer),
    ]
    if isinstance(sent, Update) and not (explanation and explanation.facts):
        against = lr_contradiction(case, found.images * 2 - 1, found.labels)
        premises = [
            replace(each, contradiction=against) if each.name == "learning rate" else each
            for each in premises
        ]
    labels = ", ".join(map(str, found.labels.tolist()[:20]))
    premises.append(
        Premise(name="labels", value=labels, source="given" if known.labels is not None else "inferred")
    )
    rounded = any(each.stage == "compress" for each in known.defenses)
    if counted.sigma and not rounded and not (isinstance(sent, Update) and sent.coarse):
        premises.append(
            Premise(name="noise", value=f"sigma {counted.sigma:.3g}", source="inferred", why=counted.why)
        )
    others = (
        batch_norm_premise(sent),
        optimizer_premise(optimizer),
        precision_premise(sent),
        size_premise(sent, seen.state),
        direction_premise(sent, case),
    )
    return (*premises, *(each for each in others if each is not None))


def _measuring(
    question: Question, network: Subject, sent: Sent, known: Known, name: str, say: Say
) -> Callable[[AnyDefense, float], Measured]:
    """How one strength is measured: on this signal under the defense, and on simulated clients under it."""

    def measure(defense: AnyDefense, strength: float) -> Measured:
        say(f"against {name} {strength:g}")
        own = replace(known, defenses=on_top(known.defenses, defense))
        seed = derive_seed("against", question.seed)
        sent_up = released(sent, [defense], seed=seed)
        weaker = with_tensors(sent, sent_up.tensors)
        case = case_at(network, weaker, attack=question.shortened, known=own)
        try:
            answer = case.run(derive_seed("audit", question.seed))
        except AttackFailed:
            answer = None  # Numbers that are not finite: the attacker is left with the mean public image.
        setting = _setting(network, weaker, own, case)
        calibration = calibrate(
            setting, question.public, clients=question.fewer, seed=question.seed, progress=counting(say)
        )
        prior = calibration.prior
        expected = (
            Expected(psnr=prior, low=prior, high=prior, level=1.0, alike=None)
            if answer is None
            else Expected.mean(calibration.expected(_seen(answer, case)))
        )
        return Measured(
            strength=strength,
            expected=expected,
            mean=calibration.mean,
            gain=gain_of(calibration),
            bytes_up=sent_up.bytes_up or sum(4 * value.numel() for value in sent_up.tensors.values()),
            accuracy=accuracy_after(network, weaker, question.public),
        )

    return measure
