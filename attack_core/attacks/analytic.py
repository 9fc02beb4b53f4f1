"""The analytic attack: solve the fully connected layers exactly, then invert the features.

No double backward, no label, no restarts: the layer inputs follow from linear algebra (`attack_core.fc`), and
the image is found whose features they are (the inversion of Mahendran and Vedaldi 2015, arXiv:1412.0035, with exact
features). Where the network has fewer features than pixels, the gradients of the layers in front refine the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Literal, Self

import torch
from torch import Tensor, nn

from attack_core.attacks.decoded_features import decoded_features
from attack_core.attacks.falls_back import FallsBack, with_cost_of
from attack_core.attacks.remainder import remainder
from attack_core.base.certificate import Certificate
from attack_core.base.evaluations import ONE_BACKWARD, Evaluations, reporter
from attack_core.base.types import AttackFailed, Outcome, PriorUse, Progress, Reconstruction
from attack_core.certificates.inputs import certify_inputs
from attack_core.certificates.local import certify_features
from attack_core.convolutions.masks import DecodedInput
from attack_core.evidence.cross_validation import Residuals
from attack_core.evidence.likelihood_ratio import prior_instead, supported_or_prior
from attack_core.fc.head import PixelMap
from attack_core.fc.inversion import Estimate, input_estimate
from attack_core.fc.layer_inputs import LayerInputs, Reading, magnitude
from attack_core.fc.spear import Inseparable
from attack_core.fc.step_order import Order
from attack_core.gradients.comparison.losses import squared_distance
from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.targets import check_observation, mean_progress, sees_images_again, weights_along
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.given import Mismatch, Penalty
from attack_core.inversion.descent.limits import CONTINUATION_LIMITS, NOTHING_CARRIED, SETTLING
from attack_core.inversion.feature_fit import FeatureFit
from attack_core.inversion.features import DRIFT_LIMITS, FeatureInverter, along_path, drift_errors
from attack_core.inversion.refinement import NextLayer, equations_mismatch
from attack_core.inversion.rounds import Rounds, read_together
from attack_core.matching.matching import Matching
from attack_core.separation.inputs import read_inputs
from attack_core.signal.inits import initial_images
from attack_core.signal.signal_model import is_sparse, knows_errors, matched_numbers, sent_numbers
from fl_core.base.decibels import TINY
from fl_core.base.types import LATER, InUnits, ModelState, Tensors, require
from fl_core.threat.observation import Observation

_PRIOR = "analytic: prior alone"
"""The `method` of answers that are the prior."""


@dataclass(frozen=True, kw_only=True)
class AnalyticLimits:
    """What the attack does that no sweep file sets."""

    grey: float = 0.01
    """The standard deviation, in normalised pixels, of the start where there is no mean image.

    Networks without biases have no slope at exact grey; the size was not measured.
    """


ANALYTIC_LIMITS = AnalyticLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Analytic(FallsBack):
    """Layer inputs by linear algebra, images by feature inversion, one after the other.

    `estimate` is how one image's layer input is read: `auto` takes `rank_one` where the noise is known and
    `weighted` otherwise. `inversion` starts at the mean public image, or near grey where there is none. `refine`
    says whether the earlier layers' gradients follow with `refinement`: `auto` where features are fewer than pixels
    and no noise is known, and for one image under known noise where the network is smooth (`GradientFit`). Batches are
    taken apart in at most `rounds` rounds, to a relative residual of `tolerance`, or of `drift_tolerance` where the
    weights moved between the images. Then the weights of each local step follow in turn with the images, `passes`
    times. Where taking apart fails, `fallback` runs on the same observation and the notes say why. Of one image several
    rounds under known noise are read together (`attack_core.inversion.rounds`); else the first round is taken. `decode`
    takes the last convolution's input in the place of the features, where its gradient tells it exactly. `certify`
    looks for certificates of images that were searched, which may take longer than the search.
    """

    kind: Literal["analytic"] = "analytic"
    estimate: Literal["auto"] | Estimate = "auto"
    inversion: Continuation = field(default_factory=Continuation)
    refine: Literal["auto", "always", "never"] = "auto"
    refinement: Continuation = field(default_factory=partial(Continuation, evaluations=300))
    rounds: Annotated[int, InUnits("rounds")] = 100
    tolerance: float = 1e-3
    drift_tolerance: float = 0.1
    passes: Annotated[int, InUnits("passes")] = 3
    decode: bool = field(default=True, metadata=LATER)
    certify: bool = field(default=True, metadata=LATER)
    fallback: Matching = field(default_factory=Matching)

    def __post_init__(self) -> None:
        require(self.rounds >= 1, self, "rounds", "at least 1")
        require(0 < self.tolerance < 1, self, "tolerance", "in (0, 1)")
        require(0 < self.drift_tolerance < 1, self, "drift_tolerance", "in (0, 1)")
        require(self.passes >= 1, self, "passes", "at least 1")

    @property
    def reading(self) -> Reading:
        """How layer inputs are read."""
        return Reading(
            estimate=self.estimate,
            rounds=self.rounds,
            tolerance=self.tolerance,
            drift_tolerance=self.drift_tolerance,
        )

    def cost(self, images: int) -> float:
        """See `Attack.cost`; that it need not fall back is assumed."""
        return self.inversion.evaluations * images * ONE_BACKWARD

    @property
    def prior_use(self) -> PriorUse:
        """See `Attack.prior_use`; it takes the place of smoothness in the inversion of features."""
        return "needed" if super().prior_use == "needed" else "optional"

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`; the rounds that take a batch apart stay, as they end by themselves."""
        return replace(
            super().shortened(share),
            inversion=self.inversion.shortened(share),
            refinement=self.refinement.shortened(share),
        )

    def uncertified(self) -> Self:
        """See `Attack.uncertified`."""
        return replace(self, certify=False)

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.base.types.Attack`.

        The loss is the relative squared L2 distance between the observed gradient, or delta, and that of the answer.
        Raises `InputError` for a signal that does not fit the model, and `AttackFailed` as `fallback` does.
        """
        check_observation(observation)
        try:
            problem = _Problem.of(self, observation, model, generator, progress)
        except Inseparable as reason:
            return self._matched_instead(reason, observation, model, generator, progress)
        found = problem.solve()
        return found if problem.read.shares.others is None else self._with_others(found, problem)

    def _with_others(self, found: Reconstruction, problem: _Problem) -> Reconstruction:
        """`found` with the images that did not come apart attacked by themselves, where that explains more of it.

        What came apart is held fixed: the rest is a smaller batch, whose gradient is what it leaves.
        """
        apart, observation = problem.count, problem.observation
        images, labels = found.images[:apart], found.labels[:apart]
        rest = remainder(observation, problem.model, images, labels)
        if rest is None:
            return found
        try:
            other = self(rest, problem.model, problem.generator, progress=problem.progress)
        except AttackFailed:
            return found
        images, labels = torch.cat([images, other.images]), torch.cat([labels, other.labels])
        loss = problem.loss_of(images, labels)
        if other.outcome == "prior" or not loss < found.loss:
            return with_cost_of(found, other)
        note = f"the other {len(other.images)} images by what these leave of the gradient"
        whole = replace(
            found,
            images=images,
            labels=labels,
            loss=loss,
            candidates=images[None],
            notes=(problem.read.note(), note, *other.notes),
        )
        return with_cost_of(whole, other)

    def by_decoding(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction | None:
        """The answer where `decode` finds the last convolution's input; None where it finds none.

        The state of `generator` stays what it was.
        """
        if not self.decode:
            return None
        try:
            problem = _Problem.of(self, observation, model, generator.clone_state(), progress)
        except Inseparable:
            return None
        return problem.by_decoding(problem.start())


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """What is to be inverted, and what the descent has reported so far."""

    attack: Analytic
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
        attack: Analytic,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Self:
        """The layer inputs read; raises what `LayerInputs.of` raises."""
        read = read_inputs(attack.reading, observation, model, generator)
        read, rounds = read_together(read, attack.reading, observation)
        return cls(
            attack=attack,
            model=model,
            observation=observation,
            read=read,
            rounds=rounds,
            generator=generator,
            progress=progress,
        )

    def solve(self) -> Reconstruction:
        """Images from the layer inputs."""
        read, picture, count = self.read, self.observation.model.shape.size, self.count
        if math.isinf(read.error):
            note = f"the known noise hides the layer input: the answer is {self._prior_name}"
            hidden = self._result(_PRIOR, self.start(), [note], outcome="prior")
            return self._fitted_if_better(hidden)
        seen = self._pixel_map() if read.complete or read.measured else None
        if seen is not None:
            images = seen.images(read.shares.inputs).view(-1, *picture)
            found = self._result("analytic: layer input", images, [read.note()])
            if read.measured:
                return self._supported(found)
            return self._certified(found, certify_inputs(read, self.observation, unit=seen.least))
        if read.order is not None:
            return self._along(read.order)
        start = self.start()
        if self._is_noise(start):
            note = (
                f"nearly half the energy of it lies below 0, where layer {read.head.first} sees nothing: it is noise, "
                f"and the answer is {self._prior_name}"
            )
            return self._result(_PRIOR, start, [read.note(), note], outcome="prior")
        decoded = self.by_decoding(start)
        if decoded is not None:
            return decoded
        notes = [read.note(), *self._joined]
        inverter = self._inverter(self.attack.inversion.evaluations)
        # Over the square of an estimate that the error is part of.
        errors = [read.error / (1.0 + read.error)] * count
        state = self.observation.state
        if count > 1 and sees_images_again(self.observation):
            notes.append("each image was seen several times: its mean features, at the steps' mean weights")
            state = weights_along(self.observation, mean_progress(self.observation))
            drift = drift_errors(inverter, self.observation, start, DRIFT_LIMITS.mean)
            errors = [max(pair) for pair in zip(errors, drift, strict=True)]
        elif self.observation.steps > 1:
            notes.append(
                "the weights moved meanwhile and nothing tells how: features taken where they started"
            )
            drift = drift_errors(inverter, self.observation, start, DRIFT_LIMITS.unknown)
            errors = [max(pair) for pair in zip(errors, drift, strict=True)]
        images = inverter.invert([state] * count, start, errors)
        if read.error:
            return self._judged(images, start, notes)
        # What could not be decoded from the start often can from here, where most of a ReLU's zeros are right.
        decoded = self.by_decoding(images)
        if decoded is not None:
            return decoded
        found = (
            self._refine(inverter, images, notes)
            if self.refined
            else self._result("analytic: features", images, notes)
        )
        return self._checked_fit(found, start)

    def _is_noise(self, start: Tensor) -> bool:
        """Whether what was read of one image, with errors that nobody told, is noise and nothing else."""
        read = self.read
        if read.error or self.count > 1 or read.shares.others is not None:
            return False
        fit = FeatureFit(
            observation=self.observation,
            model=self.model,
            read=read,
            layer=read.head.first,
            targets=read.shares.inputs,
        )
        return fit.noise_alone(start)

    def _pixel_map(self) -> PixelMap | None:
        """How the image enters the layer, where it does so pixel by pixel."""
        head, shape = self.read.head, self.observation.model.shape
        return None if head.random else PixelMap.of(self.model, self.observation.state, head.first, shape)

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
        return self.attack.refine == "always" or (self.attack.refine == "auto" and self.scarce)

    def _inverter(self, evaluations: int) -> FeatureInverter:
        """The inversion of each image's features, at so many evaluations each."""
        planned = evaluations * self.count + (self.attack.refinement.evaluations if self.refined else 0)
        shares = self.read.shares
        return FeatureInverter(
            model=self.model,
            layer=self.read.head.first,
            targets=shares.inputs,
            descent=self.attack.inversion,
            # Fewer equations than unknowns: the prior has to decide more.
            stiffness=max(1.0, self.pixels / self.read.known) ** 2,
            generator=self.generator,
            report=reporter(self.seen, planned, self.progress),
            unknown=shares.unknown,
            ceiling=shares.ceiling,
            following=self._following(),
            validation=self._validation(),
            rounds=self.rounds if len(self.rounds) > 1 else None,
            limits=NOTHING_CARRIED if self.refined else CONTINUATION_LIMITS,
            prior=self._penalty,
        )

    def by_decoding(self, start: Tensor) -> Reconstruction | None:
        """The images whose input to the last convolution is the one that its gradient tells; None where it tells none.

        Both are searched from `start` (B, C, S, S).
        """
        if not self.attack.decode or self.attack.refine == "always":
            return None
        decoded = decoded_features(self.read, self.observation, self.model, start)
        if decoded is None:
            return None
        targets = decoded.values.flatten(1)
        inverter = replace(
            self._inverter(self.attack.inversion.evaluations),
            layer=decoded.layer,
            targets=targets,
            stiffness=max(1.0, self.pixels / targets.shape[1]) ** 2,
            unknown=None,
            ceiling=0.0,
            following=None,
            validation=None,
            limits=SETTLING,
        )
        images = inverter.invert([self.observation.state] * self.count, start, [0.0] * self.count)
        prior = self.start()
        note = (
            f"the input of convolution {decoded.layer}, {targets.shape[1]} numbers, from its weight's gradient and the "
            "errors behind its ReLU"
        )
        return self._checked_fit(
            self._result("analytic: features", images, [self.read.note(), note]), prior, decoded=decoded
        )

    def _along(self, order: Order) -> Reconstruction:
        """One client's images of several steps, with the weights that each was seen at."""
        attack, start = self.attack, self._start()
        note = f"one epoch of {len(order.batches)} steps, in an order that the errors tell"
        inverter = self._inverter(attack.inversion.evaluations * attack.passes)
        images, missed = along_path(
            inverter, self.observation, order, self.read.shares.labels, start, attack.passes
        )
        notes = [self.read.note(), note]
        return self._result("analytic: features along the steps", images, notes, missed)

    def _refine(self, inverter: FeatureInverter, images: Tensor, notes: list[str]) -> Reconstruction:
        """Images that explain the earlier layers' gradients besides the features."""
        read = self.read
        if self.scarce:
            few = f"{read.known} features for {self.pixels} pixels"
            notes = [*notes, f"{few}: refined by the earlier layers' gradients"]
        mismatch: Mismatch = equations_mismatch(
            self.model,
            self.observation.state,
            read.head,
            read.gradients,
            inverter.known(read.shares.inputs),
            read.shares.errors,
        )
        planned = self.attack.inversion.evaluations * self.count + self.attack.refinement.evaluations
        images = self.attack.refinement.minimise(
            mismatch,
            images,
            stiffness=inverter.stiffness,
            prior=self._penalty,
            report=reporter(self.seen, planned, self.progress, each=len(images)),
            limits=inverter.limits,
        )
        return self._result("analytic: features, refined", images, notes)

    def _validation(self) -> Residuals | None:
        """How a single noisy image is judged: by all numbers but those that its features were read from."""
        read = self.read
        if not read.error or self.count > 1:
            return None
        return self.rounds.residuals(self.model, read.own, read.shares.labels)

    def _judged(self, images: Tensor, start: Tensor, notes: list[str]) -> Reconstruction:
        """What was found from noisy features, or the prior where the rest of the signal is not for it."""
        found = self._result("analytic: features", images, notes)
        reason = "the image explains the signal no better than a fit to the known noise would"
        if self.count > 1:
            answer = supported_or_prior(found, self.observation, self.model, reason)
        else:
            answer = prior_instead(found, self.observation, reason) if torch.equal(images, start) else found
        return self._fitted_if_better(answer if answer is found else replace(answer, method=_PRIOR))

    def _supported(self, found: Reconstruction) -> Reconstruction:
        """What was found, or the prior where known errors explain as much of the signal."""
        if not knows_errors(self.observation):
            return found
        reason = "the images explain the signal no better than a fit to the known noise would"
        return supported_or_prior(found, self.observation, self.model, reason)

    def _fitted_if_better(self, found: Reconstruction) -> Reconstruction:
        """A fit to the whole gradient where numbers that it has not seen are for it, else `found`."""
        attack, read = self.attack, self.read
        if attack.refine == "never" or self.count > 1:
            return found
        fit = self.rounds.fit(self.model, read.shares.labels, self.generator)
        planned = attack.inversion.evaluations + attack.refinement.evaluations
        report = reporter(self.seen, planned, self.progress, each=1.0)
        if fit is None:
            return found
        images = fit.minimise(attack.refinement, self._start(), report, self._penalty)
        if images is None:
            return found
        if not fit.is_better(images, found.images.to(images)):
            return replace(found, iterations=len(self.seen.mismatches), work=self.seen.work)
        notes = [
            *found.notes,
            "the network is smooth: fitted to all layers' gradients within the known noise",
        ]
        return self._result("analytic: whole gradient", images, notes)

    def _checked_fit(
        self, found: Reconstruction, prior: Tensor, decoded: DecodedInput | None = None
    ) -> Reconstruction:
        """`found` with a note where it leaves what is known exactly unexplained; `prior` where it is worth no more."""
        read, layer, targets = self.read, self.read.head.first, self.read.shares.inputs
        exact = (
            read.complete and read.shares.residual <= self.attack.tolerance and self.observation.steps == 1
        )
        if decoded is not None:
            layer, targets = decoded.layer, decoded.values.flatten(1)
        elif not exact:
            return found
        judge = FeatureFit(
            observation=self.observation, model=self.model, read=read, layer=layer, targets=targets
        )
        images = found.images.to(prior.device)
        mismatch = judge.mismatch(images)
        if mismatch <= judge.limits.unexplained:
            if not self.attack.certify:
                return found
            certificates = certify_features(self.read, self.observation, self.model, images, decoded)
            return self._certified(found, certificates)
        what = "features" if decoded is None else f"input of {layer}"
        note = f"the answer does not explain the {what}: relative mismatch {magnitude(mismatch)}"
        found = replace(found, notes=(*found.notes, note))
        # Where the features' own gradient is off, so may be that of the first layer, which judges.
        if not exact or not judge.no_better_than_prior(images, prior):
            return found
        reason = (
            "what was trained on was not recovered: the answer explains the first layer's gradient hardly better "
            f"than {self._prior_name}, which is taken instead"
        )
        answer = prior_instead(found, self.observation, reason)
        return replace(answer, method=_PRIOR)

    @staticmethod
    def _certified(found: Reconstruction, certificates: tuple[Certificate | None, ...]) -> Reconstruction:
        """`found` with certificates of the images that came apart; the others have none."""
        others = len(found.images) - len(certificates)
        return replace(found, certificates=(*certificates, *[None] * others))

    def _following(self) -> NextLayer | None:
        """What the second layer's gradients say of the first one's outputs, where some of its inputs are unknown."""
        read = self.read
        if read.shares.unknown is None or not read.head.rectified:
            return None
        first, second = read.head.layers[:2]
        weight, bias = (f"{second}.{kind}" for kind in ("weight", "bias"))
        if sent_numbers(self.observation).keys() & {weight, bias} or not bool(read.gradients[bias].any()):
            return None
        parameters = self.observation.state.parameters
        outputs = input_estimate(read.gradients[weight], read.gradients[bias], "weighted")
        return NextLayer(parameters[f"{first}.weight"], parameters[f"{first}.bias"], outputs)

    @property
    def _penalty(self) -> Penalty | None:
        """What takes the place of smoothness, where the attacker has a trained prior."""
        prior = self.observation.prior
        return None if prior is None else prior.penalty

    @property
    def _joined(self) -> list[str]:
        """A note where several rounds are read together."""
        return [f"{len(self.rounds)} rounds read together"] if len(self.rounds) > 1 else []

    @property
    def _prior_name(self) -> str:
        return "near grey" if self.observation.public_mean is None else "the mean public image"

    def start(self) -> Tensor:
        """Where the search for each image begins, (B, C, S, S)."""
        return self._start().expand(self.count, -1, -1, -1)

    def _start(self) -> Tensor:
        return known_before(self.observation, self.generator).to(self.read.shares.inputs.device)

    def loss_of(self, images: Tensor, labels: Tensor) -> float:
        """The relative squared distance from the signal of the gradient of `images` (B, C, S, S) with `labels` (B,)."""
        gradients = self.read.gradients
        device = self.read.shares.inputs.device
        known = matched_numbers(self.observation, gradients, dict.fromkeys(gradients, 1.0))
        return relative_distance(
            known, self.model, self.observation.state, images.to(device), labels.to(device)
        )

    def _result(
        self,
        method: str,
        images: Tensor,
        notes: list[str],
        loss: float | None = None,
        *,
        outcome: Outcome = "analytic",
    ) -> Reconstruction:
        images, labels = images.detach().clamp(-1.0, 1.0), self.read.shares.labels
        if (others := self.read.shares.others) is not None:
            rest = self._start().expand(len(others), -1, -1, -1)
            images, labels = torch.cat([images, rest.to(images)]), torch.cat([labels, others])
            notes = [*notes, f"for the other {len(others)} images the answer is {self._prior_name}"]
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


def known_before(observation: Observation, generator: torch.Generator) -> Tensor:
    """The image (1, 3, S, S) that is known before the signal: the mean public one, or near grey."""
    if observation.public_mean is not None:
        return observation.public_mean[None]
    # Not quite grey: networks without biases have no slope there.
    shape = (1, 1, *observation.model.shape.size)
    return initial_images("fourier", shape, std=ANALYTIC_LIMITS.grey, generator=generator)[0]


def gradient_mismatch(
    model: nn.Module, state: ModelState, gradients: Tensors, images: Tensor, labels: Tensor
) -> float:
    """`relative_distance` from all numbers of `gradients` (by parameter name)."""
    matched = Matched.of(gradients, dict.fromkeys(gradients, 1.0))
    return relative_distance(matched, model, state, images, labels)


def relative_distance(
    matched: Matched, model: nn.Module, state: ModelState, images: Tensor, labels: Tensor
) -> float:
    """Squared L2 distance of the gradient of `images` (B, 3, S, S) with `labels` (B,), over the target's square."""
    return relative(squared_distance(matched, model, state, images, labels), matched)


def relative(distance: Tensor, matched: Matched) -> float:
    """A squared distance () from what is matched, over the target's square."""
    # The expansion of squares cancels where the match is nearly exact.
    return max(float(distance / matched.squares.sum().clamp_min(TINY)), 0.0)
