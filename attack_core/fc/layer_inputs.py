"""The inputs of a network's first fully connected layer, from one observation: by linear algebra, with their error.

Exact gradients give them exactly; of noisy, rounded or withheld numbers the facts say how far off they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from attack_core.base.reading import Estimate, Reading
from attack_core.fc.cone import rectified_inputs
from attack_core.fc.head import Head, head_errors, solvable_head
from attack_core.fc.inversion import Shares, completed_input, estimate_error, recover_shares
from attack_core.fc.rank_one import scaled_input
from attack_core.fc.spear import Inseparable
from attack_core.fc.step_order import Order, find_order
from attack_core.gradients.targets import gradient_estimate, mean_progress, sees_images_again, weights_along
from attack_core.signal.signal_model import (
    deviations,
    largest_withheld,
    layer_numbers,
    sees_a_part,
    withholds,
)
from fl_core.base.decibels import TINY
from fl_core.base.errors import InputError
from fl_core.base.types import Tensors
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class SeparationCheck:
    """When the separated parts of a batch's gradient are believed."""

    attempts: int = 3
    """How often a batch is separated before a wrong answer is given up on. Each draws other units; not measured."""
    misfit: float = 1e-2
    """How far, relatively, an image's errors may be from what the network makes of its recovered input.

    Right separations reach about 1e-6, wrong ones are off by several per cent (docs/attacks.md, a weight delta).
    """
    alike: float = 0.9
    """The least cosine of an image's errors with those that the network makes of its input at the steps' mean weights.

    For images that were seen several times. 0.98 to 0.999 on two batches of 8; not measured for wrong separations.
    """


SEPARATION_CHECK = SeparationCheck()
"""The check in force."""


@dataclass(frozen=True, kw_only=True)
class LayerInputs:
    """What one observation says of the layer's inputs, in `shares`, from `gradients` (by parameter name).

    `order` is there where one client took several steps. `error` is the relative squared error that known noise alone
    leaves; infinite where noise hides them. `measured` says that it is the gradient's own noise, which need not be
    told, and that all images were read in agreement with it.
    """

    gradients: Tensors
    head: Head
    shares: Shares
    order: Order | None
    error: float
    measured: bool = False

    @classmethod
    def of(
        cls, reading: Reading, observation: Observation, model: nn.Module, generator: torch.Generator
    ) -> LayerInputs:
        """Solve the fully connected layers; raises `Inseparable`."""
        try:
            head = solvable_head(model, observation)
        except InputError as reason:
            raise Inseparable(str(reason).removesuffix(".")) from None
        gradients = gradient_estimate(observation)
        if withholds(observation, f"{head.first}.weight"):
            shares, order, error = _completed(observation, gradients, head)
        else:
            shares, order, error = _separated(reading, observation, model, gradients, head, generator)
        return cls(gradients=gradients, head=head, shares=shares, order=order, error=error)

    @property
    def own(self) -> tuple[str, str]:
        """The names of the parameters that the inputs were read from."""
        return f"{self.head.first}.weight", f"{self.head.first}.bias"

    @property
    def known(self) -> int:
        """How many of one image's inputs the numbers that were sent determine."""
        unknown = self.shares.unknown
        return self.shares.inputs.shape[1] - (0 if unknown is None else int(unknown.sum()))

    @property
    def complete(self) -> bool:
        """Whether all inputs are known, and exactly."""
        return self.shares.unknown is None and self.error == 0

    def note(self) -> str:
        """In words what was read, and how well."""
        images = len(self.shares.inputs)
        others = self.shares.others
        if self.measured:
            found = f"{images} images" if others is None else f"{images} of {images + len(others)} images"
            return (
                f"{found} came apart at layer {self.head.first} and agree with the gradient: relative error about "
                f"{magnitude(self.error)} by what lies beyond its rank"
            )
        if others is not None:
            return f"{images} of {images + len(others)} images came apart at layer {self.head.first}"
        hidden = images > 1 and not self.head.random and len(self.head.layers) > 1
        layer = self.head.layers[-2] if hidden else self.head.first
        what = "the input" if images == 1 else f"the inputs of {images} images"
        note = f"{what} of layer {layer} from its gradients"
        if self.shares.unknown is not None:
            share = float((~self.shares.unknown).float().mean())
            note += f", of which the numbers sent determine {share:.0%}"
        if self.shares.inputs.device.type != "cpu" and (images > 1 or self.error):
            note = f"{note} (in float64 on the CPU)"
        if self.error:
            return f"{note}, known noise: relative error about {magnitude(self.error)}"
        return f"{note}, residual below {magnitude(self.shares.residual)}"


def _separated(
    reading: Reading,
    observation: Observation,
    model: nn.Module,
    gradients: Tensors,
    head: Head,
    generator: torch.Generator,
) -> tuple[Shares, Order | None, float]:
    """The images' shares, with the order of several steps, and the relative squared error that known noise leaves.

    Raises `Inseparable`.
    """
    moved = observation.steps > 1
    weight, bias = (f"{head.first}.{kind}" for kind in ("weight", "bias"))
    known = deviations(observation, gradients)
    sigma, bias_sigma = known[weight], known[bias]
    # As if both had the same noise, which is what one estimate and that of its error take.
    balance = sigma / bias_sigma if sigma > 0 and bias_sigma > 0 else 1.0
    shape = observation.model.shape
    chosen: Estimate = "rank_one" if sigma > 0 else "weighted"
    recover = partial(
        recover_shares,
        gradients,
        observation.state.parameters,
        head,
        observation.examples,
        generator,
        estimate=chosen if reading.estimate == "auto" else reading.estimate,
        rounds=reading.rounds,
        tolerance=reading.drift_tolerance if moved else reading.tolerance,
        after=weights_along(observation, 1.0).parameters if moved else None,
        balance=balance,
        again=observation.examples > 1 and sees_images_again(observation),
        rectified=observation.examples > 1 and rectified_inputs(model, observation.state, head, shape),
    )
    shares, order = _checked(recover, observation, head)
    error = 0.0
    if sigma > 0:
        error = estimate_error(gradients[weight], gradients[bias] * balance, sigma)
    return shares, order if moved else None, error


def _checked(
    recover: Callable[[], Shares],
    observation: Observation,
    head: Head,
    check: SeparationCheck = SEPARATION_CHECK,
) -> tuple[Shares, Order | None]:
    """Shares that the network's own fully connected end confirms, with the order of several steps.

    A wrong separation can explain the gradient as well as the right one does, but its errors are not those that its
    inputs cause. Unchecked are single images, several clients' several steps, and images that moved weights below
    the last hidden layer explain only roughly. Raises `Inseparable`.
    """
    several = observation.steps > 1
    if observation.examples > 1 and sees_images_again(observation):
        return _checked_roughly(recover, observation, head, check), None
    if observation.examples == 1 or head.random or (several and (observation.clients > 1 or head.pixels)):
        return recover(), None
    misfit = math.inf
    for _ in range(check.attempts):
        shares = recover()
        if shares.others is not None:
            return shares, None  # Each image was confirmed by itself.
        order = find_order(observation, head, shares)
        if order.misfit <= check.misfit:
            return shares, order
        misfit = min(misfit, order.misfit)
    raise Inseparable(f"the recovered inputs do not cause the recovered errors (misfit {misfit:.2f})")


def _checked_roughly(
    recover: Callable[[], Shares], observation: Observation, head: Head, check: SeparationCheck
) -> Shares:
    """Shares of images seen several times, whose errors have about the network's directions at the mean weights."""
    between = weights_along(observation, mean_progress(observation)).parameters
    worst = 1.0
    for _ in range(check.attempts):
        shares = recover()
        errors = head_errors(between, head, shares.inputs, shares.labels)
        worst = float(functional.cosine_similarity(errors, shares.errors, dim=1).min())
        if worst >= check.alike:
            return shares
    raise Inseparable(f"the recovered inputs do not cause the recovered errors (cosine {worst:.2f})")


def _completed(observation: Observation, gradients: Tensors, head: Head) -> tuple[Shares, None, float]:
    """What `_separated` gives, where numbers were withheld.

    Raises `Inseparable` for several images, and where too little was sent.
    """
    if observation.examples > 1:
        raise Inseparable(f"numbers were withheld, so {observation.examples} images do not come apart")
    name = f"{head.first}.weight"
    weight, bias, mask, sent_bias = layer_numbers(observation, gradients, head.first)
    logit_errors = gradients[f"{head.layers[-1]}.bias"]
    if sees_a_part(observation) and not bool((sent_bias & (bias != 0)).any()):
        found = scaled_input(weight, mask, head, observation.state.parameters)
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
        residual=float((fitted - weight).norm() / weight.norm().clamp_min(TINY)),
        unknown=None if bool(known.all()) else ~known,
        ceiling=largest_withheld(observation, name) / float(errors.abs().max()),
    )
    sigma = deviations(observation, gradients)[name]
    if sigma == 0:
        return shares, None, 0.0
    evidence = errors.square() @ mask.to(errors)
    error = sigma**2 * float((1.0 / evidence[known]).sum()) / float(inputs.square().sum())
    return shares, None, error


def magnitude(value: float) -> str:
    """The power of ten at or above a positive value: notes of different victims then agree."""
    return f"{10.0 ** math.ceil(math.log10(max(value, 1e-12))):.0e}"
