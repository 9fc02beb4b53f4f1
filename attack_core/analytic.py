"""The analytic attack: solve the fully connected layers exactly, then invert the features.

No double backward, no label, no restarts: the layer inputs follow from linear algebra (`dense`, `disaggregation`), and
the image is found whose features they are (the inversion of Mahendran and Vedaldi 2015, arXiv:1412.0035, with exact
features). Where the network has fewer features than pixels, the gradients of the layers in front refine the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from attack_core.credibility import credible, prior_instead
from attack_core.dense import (
    Estimate,
    Shares,
    completed_input,
    estimate_error,
    input_estimate,
    recover_shares,
)
from attack_core.descent import Descent, Mismatch
from attack_core.disaggregation import Inseparable
from attack_core.held_out import Evidence, evidence_elsewhere
from attack_core.inits import initial_images
from attack_core.inversion import FeatureInverter, along_path, drift_errors
from attack_core.knowledge import (
    deviations,
    is_sparse,
    largest_withheld,
    layer_numbers,
    matched_numbers,
    sees_a_part,
    sent_numbers,
    withholds,
)
from attack_core.matching import Matching
from attack_core.objectives import Matched, squared_distance
from attack_core.refinement import NextLayer, equations_mismatch
from attack_core.tail import Tail, solvable_tail
from attack_core.targets import check_observation, gradient_estimate, weights_along
from attack_core.trajectory import Order, find_order
from attack_core.types import Progress, Reconstruction
from attack_core.unscaled import scaled_input
from fl_core.errors import InputError
from fl_core.threat import Observation
from fl_core.types import Config, ModelState, Tensors, require

_GREY = 0.01
"""Standard deviation of the start where there is no mean image."""
_ATTEMPTS = 3
"""How often a batch is taken apart before a wrong answer is given up on."""
_MISFIT = 1e-2
"""How far, relatively, an image's errors may be from what the network makes of its recovered input."""
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Analytic(Config):
    """Layer inputs by linear algebra, images by feature inversion, one after the other.

    `estimate` is how one image's layer input is read: `auto` takes `rank_one` where the noise is known and
    `weighted` otherwise. `inversion` starts at the mean public image, or near grey where there is none. `refine`
    says whether the earlier layers' gradients follow with `refinement`: `auto` where features are fewer than pixels
    and no noise is known. Batches are taken apart in at most `rounds` rounds, to a relative residual of `tolerance`,
    or of `drift_tolerance` where the weights moved between the images. Then the weights of each local step follow in
    turn with the images, `passes` times. Where taking apart fails, `fallback` runs on the same observation and the
    notes say why.
    """

    kind: Literal["analytic"] = "analytic"
    estimate: Literal["auto"] | Estimate = "auto"
    inversion: Descent = field(default_factory=Descent)
    refine: Literal["auto", "always", "never"] = "auto"
    refinement: Descent = field(default_factory=partial(Descent, evaluations=300))
    rounds: int = 100
    tolerance: float = 1e-3
    drift_tolerance: float = 0.1
    passes: int = 3
    fallback: Matching = field(default_factory=Matching)

    def __post_init__(self) -> None:
        require(self.rounds >= 1, self, "rounds", "at least 1")
        require(0 < self.tolerance < 1, self, "tolerance", "in (0, 1)")
        require(0 < self.drift_tolerance < 1, self, "drift_tolerance", "in (0, 1)")
        require(self.passes >= 1, self, "passes", "at least 1")

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.types.Attack`.

        The loss is the relative squared L2 distance between the observed gradient, or delta, and that of the answer.
        Raises `InputError` for a signal that does not fit the model, and `AttackFailed` as `fallback` does.
        """
        check_observation(observation)
        try:
            problem = _Problem.of(self, observation, model, generator)
        except Inseparable as reason:
            found = self.fallback(observation, model, generator, progress=progress)
            return replace(found, notes=(f"analytic: {reason}; fell back to matching", *found.notes))
        return problem.solve(self, generator, progress)


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """What is to be inverted: fixed while the descent runs.

    `order` is there where one client took several steps. `error` is the relative squared error of the layer inputs
    that known noise alone leaves.
    """

    model: nn.Module
    observation: Observation
    gradients: Tensors
    tail: Tail
    shares: Shares
    order: Order | None
    error: float

    @classmethod
    def of(
        cls, attack: Analytic, observation: Observation, model: nn.Module, generator: torch.Generator
    ) -> _Problem:
        """Solve the fully connected layers; raises `Inseparable`."""
        try:
            tail = solvable_tail(model, observation)
        except InputError as reason:
            raise Inseparable(str(reason).removesuffix(".")) from None
        gradients = gradient_estimate(observation)
        if withholds(observation, f"{tail.first}.weight"):
            shares, order, error = _completed(observation, gradients, tail)
        else:
            shares, order, error = _separated(attack, observation, gradients, tail, generator)
        return cls(
            model=model,
            observation=observation,
            gradients=gradients,
            tail=tail,
            shares=shares,
            order=order,
            error=error,
        )

    def solve(
        self, attack: Analytic, generator: torch.Generator, progress: Progress | None
    ) -> Reconstruction:
        """Images from the layer inputs."""
        size, count = self.observation.model.image_size, len(self.shares.inputs)
        if math.isinf(self.error):
            images = self._start(generator).expand(count, -1, -1, -1)
            what = "near grey" if self.observation.public_mean is None else "the mean public image"
            notes = [f"the known noise hides the layer input: the answer is {what}"]
            return self._result("analytic: prior alone", images, [], notes)
        notes = [self._note()]
        if self.tail.pixels and self.shares.unknown is None and not self.error:
            images = self.shares.inputs.view(-1, 3, size, size)
            return self._result("analytic: layer input", images, [], notes)
        known = self.shares.inputs.shape[1]
        if self.shares.unknown is not None:
            known -= int(self.shares.unknown.sum())
        features, pixels = known, 3 * size * size
        # Fewer equations than unknowns: the prior has to decide more.
        stiffness = max(1.0, pixels / features) ** 2
        whole = not is_sparse(self.observation) and not self.tail.pixels
        scarce = features < pixels and self.error == 0 and whole
        refined = attack.refine == "always" or (attack.refine == "auto" and scarce)
        planned = attack.inversion.evaluations * count * (attack.passes if self.order else 1)
        planned += attack.refinement.evaluations if refined else 0
        seen: list[float] = []
        inverter = FeatureInverter(
            model=self.model,
            layer=self.tail.first,
            targets=self.shares.inputs,
            descent=attack.inversion,
            stiffness=stiffness,
            generator=generator,
            report=_reporter(seen, planned, progress),
            unknown=self.shares.unknown,
            ceiling=self.shares.ceiling,
            following=self._following(),
            evidence=self._evidence(generator),
        )
        if self.order is not None:
            notes.append(f"one epoch of {len(self.order.batches)} steps, in an order that the errors tell")
            images, missed = along_path(
                inverter,
                self.observation,
                self.order,
                self.shares.labels,
                self._start(generator),
                attack.passes,
            )
            return self._result("analytic: features along the steps", images, seen, notes, missed)
        state, start = self.observation.state, self._start(generator).expand(count, -1, -1, -1)
        # Over the square of an estimate that the error is part of.
        errors = [self.error / (1.0 + self.error)] * count
        if self.observation.steps > 1:
            notes.append(
                "the weights moved meanwhile and nothing tells how: features taken where they started"
            )
            drift = drift_errors(inverter, self.observation, start)
            errors = [max(pair) for pair in zip(errors, drift, strict=True)]
        images = inverter.invert([state] * count, start, errors)
        if self.error:
            return self._judged(images, start, seen, notes)
        if not refined:
            return self._result("analytic: features", images, seen, notes)
        if scarce:
            notes.append(f"{features} features for {pixels} pixels: refined by the earlier layers' gradients")
        mismatch: Mismatch = equations_mismatch(
            self.model,
            state,
            self.tail,
            self.gradients,
            inverter.known(self.shares.inputs),
            self.shares.errors,
        )
        images = attack.refinement.minimise(mismatch, images, stiffness=stiffness, report=inverter.report)
        return self._result("analytic: features, refined", images, seen, notes)

    def _evidence(self, generator: torch.Generator) -> Evidence | None:
        """How a single noisy image is judged: by all numbers but those that its features were read from."""
        if not self.error or len(self.shares.inputs) > 1:
            return None
        used = [f"{self.tail.first}.{kind}" for kind in ("weight", "bias")]
        start, labels = self._start(generator), self.shares.labels
        return evidence_elsewhere(self.observation, self.model, self.gradients, used, labels, start)

    def _judged(self, images: Tensor, start: Tensor, seen: list[float], notes: list[str]) -> Reconstruction:
        """What was found from noisy features, or the prior where the rest of the signal is not for it."""
        found = self._result("analytic: features", images, seen, notes)
        reason = "the image explains the signal no better than a fit to the known noise would"
        if len(images) > 1:
            answer = credible(found, self.observation, self.model, reason)
        else:
            answer = prior_instead(found, self.observation, reason) if torch.equal(images, start) else found
        return answer if answer is found else replace(answer, method="analytic: prior alone")

    def _following(self) -> NextLayer | None:
        """What the second layer's gradients say of the first one's outputs, where some of its inputs are unknown."""
        if self.shares.unknown is None or not self.tail.rectified:
            return None
        first, second = self.tail.layers[:2]
        weight, bias = (f"{second}.{kind}" for kind in ("weight", "bias"))
        if sent_numbers(self.observation).keys() & {weight, bias} or not bool(self.gradients[bias].any()):
            return None
        parameters = self.observation.state.parameters
        outputs = input_estimate(self.gradients[weight], self.gradients[bias], "weighted")
        return NextLayer(parameters[f"{first}.weight"], parameters[f"{first}.bias"], outputs)

    def _start(self, generator: torch.Generator) -> Tensor:
        """The image (1, 3, S, S) that is known before the signal."""
        mean = self.observation.public_mean
        if mean is not None:
            return mean[None]
        size = self.observation.model.image_size
        # Not quite grey: networks without biases have no slope there.
        noise = initial_images("fourier", (1, 1, 3, size, size), std=_GREY, generator=generator)
        return noise[0].to(self.shares.inputs.device)

    def _note(self) -> str:
        images = len(self.shares.inputs)
        layer = self.tail.layers[-2] if images > 1 and not self.tail.random else self.tail.first
        what = "the input" if images == 1 else f"the inputs of {images} images"
        note = f"{what} of layer {layer} from its gradients"
        if self.shares.unknown is not None:
            share = float((~self.shares.unknown).float().mean())
            note += f", of which the numbers sent determine {share:.0%}"
        if self.shares.inputs.device.type != "cpu" and (images > 1 or self.error):
            note = f"{note} (in float64 on the CPU)"
        if self.error:
            return f"{note}, known noise: relative error about {_magnitude(self.error)}"
        return f"{note}, residual below {_magnitude(self.shares.residual)}"

    def _result(
        self, method: str, images: Tensor, seen: list[float], notes: list[str], loss: float | None = None
    ) -> Reconstruction:
        images = images.detach().clamp(-1.0, 1.0)
        labels = self.shares.labels
        if loss is None:
            known = matched_numbers(self.observation, self.gradients, dict.fromkeys(self.gradients, 1.0))
            loss = relative_distance(known, self.model, self.observation.state, images, labels)
        return Reconstruction(
            images=images.cpu(),
            labels=labels.cpu(),
            loss=loss,
            candidates=images.cpu()[None],
            history=torch.tensor(seen or [0.0])[:, None],
            iterations=len(seen),
            failed=0,
            method=method,
            notes=tuple(notes),
        )


def _separated(
    attack: Analytic, observation: Observation, gradients: Tensors, tail: Tail, generator: torch.Generator
) -> tuple[Shares, Order | None, float]:
    """The images' shares, with the order of several steps, and the relative squared error that known noise leaves.

    Raises `Inseparable`.
    """
    moved = observation.steps > 1
    weight, bias = (f"{tail.first}.{kind}" for kind in ("weight", "bias"))
    known = deviations(observation, gradients)
    sigma, bias_sigma = known[weight], known[bias]
    # As if both had the same noise, which is what one estimate and that of its error take.
    balance = sigma / bias_sigma if sigma > 0 and bias_sigma > 0 else 1.0
    chosen: Estimate = "rank_one" if sigma > 0 else "weighted"
    recover = partial(
        recover_shares,
        gradients,
        observation.state.parameters,
        tail,
        observation.examples,
        generator,
        estimate=chosen if attack.estimate == "auto" else attack.estimate,
        rounds=attack.rounds,
        tolerance=attack.drift_tolerance if moved else attack.tolerance,
        after=weights_along(observation, 1.0).parameters if moved else None,
        balance=balance,
    )
    shares, order = _checked(recover, observation, tail)
    error = 0.0
    if sigma > 0:
        error = estimate_error(gradients[weight], gradients[bias] * balance, sigma)
    return shares, order if moved else None, error


def _checked(
    recover: Callable[[], Shares], observation: Observation, tail: Tail
) -> tuple[Shares, Order | None]:
    """Shares that the network's own fully connected end confirms, with the order of several steps.

    A wrong separation can explain the gradient as well as the right one does, but its errors are not those that its
    inputs cause. Unchecked are single images, several clients' several steps, and images that moved weights below
    the last hidden layer explain only roughly. Raises `Inseparable`.
    """
    several = observation.steps > 1
    if observation.examples == 1 or tail.random or (several and (observation.clients > 1 or tail.pixels)):
        return recover(), None
    misfit = math.inf
    for _ in range(_ATTEMPTS):
        shares = recover()
        order = find_order(observation, tail, shares)
        if order.misfit <= _MISFIT:
            return shares, order
        misfit = min(misfit, order.misfit)
    raise Inseparable(f"the recovered inputs do not cause the recovered errors (misfit {misfit:.2f})")


def _magnitude(value: float) -> str:
    """The power of ten at or above a positive value: notes of different victims then agree."""
    return f"{10.0 ** math.ceil(math.log10(max(value, 1e-12))):.0e}"


def _completed(observation: Observation, gradients: Tensors, tail: Tail) -> tuple[Shares, None, float]:
    """What `_separated` gives, where numbers were withheld.

    Raises `Inseparable` for several images, and where too little was sent.
    """
    if observation.examples > 1:
        raise Inseparable(f"numbers were withheld, so {observation.examples} images do not come apart")
    name = f"{tail.first}.weight"
    weight, bias, mask, sent_bias = layer_numbers(observation, gradients, tail.first)
    logit_errors = gradients[f"{tail.layers[-1]}.bias"]
    if sees_a_part(observation) and not bool((sent_bias & (bias != 0)).any()):
        found = scaled_input(weight, mask, tail, observation.state.parameters)
        inputs, known, errors, logit_errors = found.inputs, found.known, found.errors, found.logit_errors
    else:
        inputs, known = completed_input(weight, bias, mask, sent_bias)
        errors = bias
    if not bool(known.any()):
        raise Inseparable(f"no number of {name} was sent")
    fitted = errors[:, None] * inputs * mask
    shares = Shares(
        inputs=inputs[None],
        errors=errors[None],
        logit_errors=logit_errors[None],
        residual=float((fitted - weight).norm() / weight.norm().clamp_min(_TINY)),
        unknown=None if bool(known.all()) else ~known,
        ceiling=largest_withheld(observation, name) / float(errors.abs().max()),
    )
    sigma = deviations(observation, gradients)[name]
    if sigma == 0:
        return shares, None, 0.0
    evidence = errors.square() @ mask.to(errors)
    error = sigma**2 * float((1.0 / evidence[known]).sum()) / float(inputs.square().sum())
    return shares, None, error


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
    # The expansion of squares cancels where the match is nearly exact.
    distance = squared_distance(matched, model, state, images, labels)
    return max(float(distance / matched.squares.sum().clamp_min(_TINY)), 0.0)


def _reporter(seen: list[float], planned: int, progress: Progress | None) -> Callable[[float], None]:
    def report(mismatch: float) -> None:
        seen.append(mismatch)
        if progress is not None:
            progress(len(seen), max(planned, len(seen)), min(seen))

    return report
