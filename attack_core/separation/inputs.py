"""The pixels of a batch behind two fully connected layers, from a gradient that is damaged or a mean of steps.

Noise, told or not, is measured: it is what lies beyond the rank. Images are found approximately, one by one
(`attack_core.separation.search`), and brought into agreement with the whole gradient together
(`attack_core.separation.agreement`), after each search and in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from attack_core.base.reading import Reading
from attack_core.fc.head import Head, solvable_head
from attack_core.fc.inversion import Shares
from attack_core.fc.layer_inputs import LayerInputs
from attack_core.fc.peeling import PEELING_LIMITS, can_peel, classes_left
from attack_core.fc.spear import Inseparable
from attack_core.gradients.targets import gradient_estimate, sees_images_again
from attack_core.separation.agreement import AGREEMENT_LIMITS, Agreement, Batch, Scale
from attack_core.separation.factors import Layer, clearance, leading_factors
from attack_core.separation.network import Training, layers_of, outputs_of
from attack_core.separation.search import Search
from attack_core.signal.signal_model import (
    hides_the_scale,
    knows_errors,
    mixes_labels,
    rounds_fairly,
    scales_examples,
    sends_signs,
    sent_numbers,
    vib_of_images,
    withholds,
)
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.errors import InputError
from fl_core.base.types import Tensors
from fl_core.threat.observation import Observation

_PURPOSE = "taking a batch's gradient apart"


@dataclass(frozen=True, kw_only=True)
class DamagedLimits:
    """When a batch is searched, and when the search ends; fixed on CIFAR-10 pictures of the train split."""

    fruitless: int = 4
    """Searches in a row that find no image, before the rest is given up. Each starts elsewhere; not measured."""
    exact: float = 1e5
    """A gradient is exact where its weakest image stands so many times above the noise.

    2.4e7 for 16 images in float32. Of 16 the exact search found 14 in float16 (1e4) and 11 in bfloat16, in three times
    its usual time.
    """
    one_image: float = 0.3
    """Inputs that are nearer than this share of their length are one image found twice; not measured."""


DAMAGED_LIMITS = DamagedLimits()
"""The limits in force."""


def follows_from_damaged(observation: Observation, head: Head) -> bool:
    """Whether `separated_inputs` applies: several images of pixels and two hidden layers wide enough for them.

    Signs, mixed labels, labels behind a bottleneck, columns that a defense cut, numbers of several clients of which
    nobody knows which were sent, and several passes in smaller batches are left out.
    """
    o = observation
    several = o.clients > 1 and (o.steps > 1 or _withholds_any(o))
    shuffled = sees_images_again(o) and o.batch_size < o.examples
    cut = any(fact.withheld == "columns" for fact in o.facts)
    odd = sends_signs(o) or not rounds_fairly(o) or mixes_labels(o) or vib_of_images(o) is not None or cut
    units = len(o.state.parameters[f"{head.first}.bias"])
    return (
        o.examples > 1
        and head.pixels
        and can_peel(head)
        and units >= PEELING_LIMITS.least_units * o.examples
        and not (several or shuffled or odd or o.earlier or o.later)
    )


def read_inputs(
    reading: Reading, observation: Observation, model: nn.Module, generator: torch.Generator
) -> LayerInputs:
    """`LayerInputs.of`, or `separated_inputs` where that applies and the gradient is not exact, or says more.

    Raises `Inseparable`.
    """
    head = _damaged_head(observation, model)
    if head is None:
        return LayerInputs.of(reading, observation, model, generator)
    routes: list[Callable[[], LayerInputs]] = [
        partial(LayerInputs.of, reading, observation, model, generator),
        partial(separated_inputs, observation, model, generator),
    ]
    if _is_damaged(observation, head):
        routes.reverse()
        if knows_errors(observation) or _withholds_any(observation) or sees_images_again(observation):
            return routes[0]()
    best, reason = None, Inseparable()
    for route in routes:
        try:
            found = route()
        except Inseparable as failed:
            reason = failed if best is None and not reason.args else reason
            continue
        if best is None or len(found.shares.inputs) > len(best.shares.inputs):
            best = found
        if best.shares.others is None:
            return best
    if best is None:
        raise reason
    return best


def _damaged_head(observation: Observation, model: nn.Module) -> Head | None:
    try:
        head = solvable_head(model, observation)
    except InputError:
        return None
    return head if follows_from_damaged(observation, head) else None


def _withholds_any(observation: Observation) -> bool:
    return any(withholds(observation, name) for name in observation.state.parameters)


def _is_damaged(observation: Observation, head: Head, limits: DamagedLimits = DAMAGED_LIMITS) -> bool:
    """Whether more than float32's rounding lies beyond the rank, or the facts or the steps say so."""
    if knows_errors(observation) or _withholds_any(observation) or observation.steps > 1:
        return True
    values = exact(gradient_estimate(observation)[f"{head.first}.weight"], _PURPOSE)
    return clearance(values, observation.examples) < limits.exact


def separated_inputs(observation: Observation, model: nn.Module, generator: torch.Generator) -> LayerInputs:
    """The inputs of the first fully connected layer, with the error that the measured noise leaves in them.

    Raises `Inseparable` where this does not apply, noise hides the images, and none comes apart.
    """
    try:
        head = solvable_head(model, observation)
    except InputError as reason:
        raise Inseparable(str(reason).removesuffix(".")) from None
    if not follows_from_damaged(observation, head):
        raise Inseparable("the signal is no gradient of pixels behind two hidden layers")
    gradients = gradient_estimate(observation)
    batch, search = _problem(observation, gradients, head)
    found = _found(batch, search, generator)
    device = gradients[f"{head.first}.weight"].device
    inputs, errors = found.inputs[:, :-1].float().to(device), found.errors.float().to(device)
    outputs = outputs_of(batch.layers, found.inputs[:, :-1])[-1]
    logit_errors = outputs.softmax(1) - torch.eye(outputs.shape[1], dtype=outputs.dtype)[found.labels]
    left = batch.count - len(inputs)
    shares = Shares(
        inputs=inputs,
        errors=errors,
        logit_errors=logit_errors.float().to(device),
        residual=_residual(batch, found),
        others=_others(gradients, head, logit_errors, batch.count).to(device) if left else None,
    )
    return LayerInputs(
        gradients=gradients, head=head, shares=shares, order=None, error=_error(found), measured=True
    )


def _problem(observation: Observation, gradients: Tensors, head: Head) -> tuple[Batch, Search]:
    """The batch as its gradient shows it, and where its images are looked for."""
    sent, count = sent_numbers(observation), observation.examples
    layers = list[Layer]()
    for number, name in enumerate(head.layers[:-1]):
        values, mask = exact(gradients[f"{name}.weight"], _PURPOSE), sent.get(f"{name}.weight")
        kept = None if mask is None else mask.cpu()
        if number == 0:
            offset, mask = exact(gradients[f"{name}.bias"], _PURPOSE), sent.get(f"{name}.bias")
            values = torch.cat([values, offset[:, None]], dim=1)
            if kept is not None:
                own = torch.ones_like(kept[:, :1]) if mask is None else mask.cpu()[:, None]
                kept = torch.cat([kept, own], dim=1)
        layers.append(Layer(values if kept is None else values * kept, kept))
    first = leading_factors(layers[0], count)
    second = leading_factors(layers[1].transposed(), count)
    weights = layers_of(observation.state.parameters, head)
    scale: Scale = "known"
    if hides_the_scale(observation):
        scale = "own" if scales_examples(observation) else "common"
    # Layers behind the second are small, and of low rank in other ways: they have the second's noise.
    noises = [first.noise, *[second.noise] * (len(layers) - 1)]
    training = Training.of(observation)
    batch = Batch(count, layers, first, noises, weights, training, scale)
    return batch, Search(first, second, weights)


def _found(
    batch: Batch, search: Search, generator: torch.Generator, limits: DamagedLimits = DAMAGED_LIMITS
) -> Agreement:
    """All images that can be found, in agreement with the gradient; raises `Inseparable` where there are none."""
    width, rank = batch.first.basis.shape
    inputs = batch.first.basis.new_zeros((0, width))
    directions, labels = inputs.new_zeros((0, rank)), torch.zeros(0, dtype=torch.int64)
    known: Agreement | None = None
    fruitless = 0
    best: Agreement | None = None
    while fruitless < limits.fruitless:
        before = len(inputs)
        # What was found roughly leaves some of itself; another start among all images has none of that.
        for candidate in search.images(inputs if fruitless % 2 == 0 else inputs[:0], generator):
            apart = (inputs - candidate.inputs).norm(dim=1) > limits.one_image * candidate.inputs.norm()
            if not bool(apart.all()):
                continue
            inputs = torch.cat([inputs, candidate.inputs[None]])
            directions = torch.cat([directions, candidate.direction[None]])
            labels = torch.cat([labels, torch.tensor([candidate.label])])
            if len(inputs) == batch.count:
                break
        if len(inputs) > before:
            known = batch.agreed(inputs, labels, directions)
            known = known.only(known.misfits <= AGREEMENT_LIMITS.misfit)
            inputs, labels, directions = known.inputs, known.labels, known.directions
            if len(inputs) == batch.count:
                return known
        # Images that agree with the gradient no more once all are there make room, but are no progress.
        if known is not None and (best is None or len(known.labels) > len(best.labels)):
            best, fruitless = known, 0
        else:
            fruitless += 1
    if best is None or not len(best.labels):
        raise Inseparable(f"none of {batch.count} images came apart")
    return best


def _residual(batch: Batch, found: Agreement) -> float:
    """What the images leave of the first layer's weight gradient, relatively, of the numbers that were sent."""
    left, whole = batch.left(found.errors, found.inputs), batch.gradients[0].values
    return float(left[:, :-1].norm() / whole[:, :-1].norm().clamp_min(TINY))


def _error(found: Agreement) -> float:
    """The expected relative squared error of the inputs."""
    numbers = found.inputs[:, :-1]
    deviation = found.deviation.expand_as(found.inputs)[:, :-1]
    return float(deviation.square().sum() / numbers.square().sum().clamp_min(TINY))


def _others(gradients: Tensors, head: Head, logit_errors: Tensor, count: int) -> Tensor:
    """The classes of the images that were not found, as far as the last bias's gradient tells them."""
    left = exact(gradients[f"{head.layers[-1]}.bias"], _PURPOSE) - logit_errors.sum(0) / count
    return classes_left(left, count - len(logit_errors))
