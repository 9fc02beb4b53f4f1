"""The attack on convolutional networks: one image from what deep convolutions see of it, read off by linear algebra.

Where a convolution has at least as many output channels as positions, the row space of its weight's gradient determines
its input (`attack_core.convolutions`). Such inputs have many times the numbers of the last layer's features, and the
image is found whose inputs they are: no label, no double backward. The way from one to the other is full of maxima and
ReLUs, so the search starts under a strong prior, whose weight falls by a factor of ten thousand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor, nn

from attack_core.attacks.analytic import known_before, relative_distance
from attack_core.attacks.batch_inputs import BatchInputs, batch_inputs, labels_of
from attack_core.attacks.falls_back import FallsBack
from attack_core.base.evaluations import ONE_BACKWARD, Evaluations, reporter
from attack_core.base.types import Progress, Reconstruction
from attack_core.certificates.local import certify_locally
from attack_core.convolutions.calls import convolution_calls
from attack_core.convolutions.patch_space import ConvolutionInput, convolution_inputs
from attack_core.fc.head import solvable_head
from attack_core.fc.inversion import input_estimate
from attack_core.fc.layer_inputs import magnitude
from attack_core.fc.spear import Inseparable
from attack_core.gradients.targets import check_observation, gradient_estimate
from attack_core.gradients.tracing import couples_examples
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.limits import FEW_CARRIED
from attack_core.inversion.joint import JointInputs
from attack_core.inversion.preconditioner import DctPreconditioner
from attack_core.matching.matching import Matching
from attack_core.signal.labels import single_label
from attack_core.signal.signal_model import exact_gradients, matched_numbers
from fl_core.base.errors import InputError
from fl_core.base.rng import drawn_generators
from fl_core.base.types import LATER
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class DeepLimits:
    """When inputs of convolutions are worth an inversion, and where reading more of them ends."""

    enough: float = 1.5
    """Inputs that are not 0, for each pixel's number, from which no further layer is read. Not measured."""
    least: float = 0.5
    """The same, features of the fully connected layer included, below which the image is left to others.

    Measured at 1.4 and more only (docs/attacks.md), not in between.
    """
    of_batch: float = 1.0
    """The numbers, 0 or not, of a batch's inputs for each pixel's number, from which no layer behind is read.

    What lies behind follows from them. Behind `resnet18`, a batch of four pictures of CIFAR-10's training split, they
    gave 2 dB more by themselves than with three layers behind.
    """


DEEP_LIMITS = DeepLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class ConvolutionInversion(FallsBack):
    """One image from convolutions' inputs; `fallback` runs where none is determined, and the notes say why.

    A batch where the change of BatchNorm's statistics is seen, image by image with the descent `batch`. `certify` looks
    for the certificate of one image.
    """

    kind: Literal["convolutions"] = "convolutions"
    inversion: Continuation = field(
        default_factory=partial(Continuation, evaluations=600, stages=8, prior_start=1e-4, prior_end=1e-8)
    )
    fallback: Matching = field(default_factory=Matching)
    batch: Continuation = field(
        default_factory=partial(Continuation, evaluations=600, stages=8, prior_start=1e-2, prior_end=1e-7),
        metadata=LATER,
    )
    certify: bool = field(default=True, metadata=LATER)

    def cost(self, images: int) -> float:
        """See `Attack.cost`; that it need not fall back is assumed."""
        return self.inversion.evaluations * images * ONE_BACKWARD

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`."""
        return replace(
            super().shortened(share),
            inversion=self.inversion.shortened(share),
            batch=self.batch.shortened(share),
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

        The loss is the relative squared L2 distance between the observed gradient and that of the answer. Raises
        `InputError` for a signal that does not fit the model, and `AttackFailed` as `fallback` does.
        """
        check_observation(observation)
        try:
            if observation.statistics and observation.examples > 1:
                batch = batch_inputs(observation, model, enough=DEEP_LIMITS.of_batch)
                return self.invert_batch(batch, observation, model, generator, progress)
            known = deep_inputs(observation, model)
        except InputError as reason:
            return self._matched_instead(reason, observation, model, generator, progress)
        return self.invert(known, observation, model, generator, progress)

    def invert(
        self,
        known: DeepInputs,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Reconstruction:
        """The answer to an observation of which `deep_inputs` gave `known`."""
        joint = JointInputs.of(model, observation.state, known.layers, known.values)
        start = known_before(observation, generator).to(joint.target)
        seen = Evaluations()
        images = self.inversion.minimise(
            joint.mismatch,
            start,
            measure=partial(DctPreconditioner.measured, joint.seen, generator=generator),
            report=reporter(seen, self.inversion.evaluations, progress),
            limits=FEW_CARRIED,
        ).clamp(-1.0, 1.0)
        with torch.no_grad():
            left = float(joint.mismatch(images))
        found = _answer(
            observation,
            model,
            images,
            single_label(observation),
            seen,
            method="convolutions: inputs",
            note=f"{known.note}; the image explains them to a relative {magnitude(left)}",
        )
        if not self.certify:
            return found
        certificate = certify_locally(joint.seen, joint.target, images, error=known.error)
        return replace(found, certificates=(certificate,))

    def invert_batch(
        self,
        known: BatchInputs,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Reconstruction:
        """The answer to a batch of which `batch_inputs` gave `known`: each image is searched by itself."""
        joint = JointInputs.of(known.model, known.state, known.layers, known.values)
        seen, count = Evaluations(), observation.examples
        start = known_before(observation, generator).to(joint.target).repeat(count, 1, 1, 1)
        images = self.batch.minimise_each(
            joint.missed_each,
            start,
            measures=[
                partial(DctPreconditioner.measured, joint.seen, generator=own)
                for own in drawn_generators(generator, count)
            ],
            stiffness=1.0,
            errors=[0.0] * count,
            report=reporter(seen, count * self.batch.evaluations, progress),
            limits=FEW_CARRIED,
        ).clamp(-1.0, 1.0)
        labels = labels_of(observation, known, images, generator)
        method = "convolutions: inputs of a batch"
        return _answer(observation, model, images, labels, seen, method=method, note=known.note)


def _answer(
    observation: Observation,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seen: Evaluations,
    *,
    method: str,
    note: str,
) -> Reconstruction:
    """The images (B, 3, S, S) that a descent found, with how far their gradient is from the observed one."""
    gradients = gradient_estimate(observation)
    matched = matched_numbers(observation, gradients, dict.fromkeys(gradients, 1.0))
    loss = relative_distance(matched, model, observation.state, images, labels)
    images = images.cpu()
    return Reconstruction(
        images=images,
        labels=labels.cpu(),
        loss=loss,
        candidates=images[None],
        history=torch.tensor(seen.mismatches)[:, None],
        iterations=len(seen.mismatches),
        failed=0,
        method=method,
        outcome="analytic",
        notes=(note,),
        work=seen.work,
    )


@dataclass(frozen=True)
class DeepInputs:
    """What is known of one image deep in the network: `values` (1, ...) are the inputs of `layers`.

    `error` is how far, relatively, two ways to find them are apart.
    """

    layers: tuple[str, ...]
    values: tuple[Tensor, ...]
    note: str
    error: float


def deep_inputs(observation: Observation, model: nn.Module, limits: DeepLimits = DEEP_LIMITS) -> DeepInputs:
    """The inputs of the earliest convolutions that the signal determines, with the features where those are too few.

    Raises `InputError` where too little of the image is determined: several images or steps, known errors, withheld
    numbers, and networks whose convolutions have more positions than output channels.
    """
    if observation.examples > 1:
        raise InputError(f"convolutions of {observation.examples} images see mixtures of them")
    if observation.steps > 1:
        raise InputError(f"the weights moved in {observation.steps} steps")
    gradients = exact_gradients(observation)
    if couples_examples(model):
        raise InputError("BatchNorm in train mode mixes the images of a batch")
    calls = convolution_calls(model, observation.state, observation.model.shape)
    pixels = observation.model.shape.numbers
    read = convolution_inputs(calls, gradients, enough=limits.enough * pixels)
    known = sum(one.known for one in read)
    layers, values = [one.layer for one in read], [one.values for one in read]
    if not read:
        raise InputError("no convolution's gradient determines its input")
    if known < limits.enough * pixels and (features := _features(observation, model, gradients)) is not None:
        layers.append(features[0])
        values.append(features[1])
        known += int(features[1].count_nonzero())
    if known < limits.least * pixels:
        raise InputError(f"convolutions determine {known} numbers that are not 0, for {pixels} pixels")
    return DeepInputs(
        tuple(layers), tuple(values), _note(read, known, pixels), max(one.error for one in read)
    )


def _note(read: list[ConvolutionInput], known: int, pixels: int) -> str:
    names = ", ".join(one.layer for one in read)
    many = "the inputs of convolutions" if len(read) > 1 else "the input of convolution"
    return f"{many} {names} from the row space of their gradients: {known} numbers that are not 0, for {pixels} pixels"


def _features(
    observation: Observation, model: nn.Module, gradients: dict[str, Tensor]
) -> tuple[str, Tensor] | None:
    """The fully connected layer that sees the features, and these (1, I); None where they don't follow."""
    try:
        first = solvable_head(model, observation).first
        target = input_estimate(gradients[f"{first}.weight"], gradients[f"{first}.bias"], "weighted")
    except (InputError, Inseparable, KeyError):
        return None
    return first, target[None]
