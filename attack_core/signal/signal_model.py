"""What the facts about a defense say of the numbers in a signal: which were sent, how far off they are, at what scale.

All of it is in units of `gradient_estimate`'s numbers, which attacks work with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from attack_core.gradients.objectives import Matched
from attack_core.gradients.targets import travelled
from fl_core.base.types import Tensors
from fl_core.threat.facts import (
    Clip,
    ExampleClip,
    Fact,
    HiddenMixture,
    InTheClear,
    MeanNoise,
    Mixture,
    Noise,
    PrunedRepresentation,
    Quantiser,
    RandomCode,
    Sparsity,
    StepNoise,
)
from fl_core.threat.observation import Observation


def sent_numbers(observation: Observation) -> dict[str, Tensor]:
    """Masks of the numbers that the client sent as they were, by parameter name; {} where all are known.

    Of several clients' mean nothing is known of what was withheld: a number may lack some clients' parts, and nothing
    tells which. A layer whose columns were cut is told apart where the signal shows the cuts (`_uncut`).
    """
    masks: dict[str, Tensor] = {}
    if is_sparse(observation) and observation.clients == 1:
        masks = {name: observation.tensors[name] != 0 for name in observation.state.parameters}
    for fact in observation.facts:
        if isinstance(fact, InTheClear):
            masks = {name: mask & masks.get(name, mask) for name, mask in fact.masks.items()}
    for name in _cut_weights(observation):
        uncut = _uncut(observation, observation.tensors[name])
        masks[name] = masks[name] & uncut if name in masks else uncut
    return masks


def layer_numbers(
    observation: Observation, gradients: Tensors, layer: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A fully connected layer's weight (O, I) and bias (O,) gradient, 0 where withheld, and masks of what was sent."""
    sent, names = sent_numbers(observation), (f"{layer}.weight", f"{layer}.bias")
    masks = [sent.get(name, torch.ones_like(gradients[name], dtype=torch.bool)) for name in names]
    weight, bias = (masked(gradients[name], sent.get(name)) for name in names)
    return weight, bias, masks[0], masks[1]


def matched_numbers(observation: Observation, targets: Tensors, weights: Mapping[str, float]) -> Matched:
    """The parameters named in `weights` as the attacker may match them: numbers that were sent, at an unknown scale."""
    return Matched.of(targets, weights, sent=sent_numbers(observation), scaled=hides_the_scale(observation))


def largest_withheld(observation: Observation, name: str) -> float:
    """What the absolute value of a withheld number of parameter `name` is at most; infinite where nothing bounds it."""
    if name in _cut_weights(observation) or sees_a_part(observation):
        return math.inf
    facts = [fact for fact in observation.facts if isinstance(fact, Sparsity)]
    alone = any(fact.scope == "tensor" for fact in facts)
    group = [observation.tensors[name]] if alone else list(observation.tensors.values())
    sent = [tensor[tensor != 0].abs() for tensor in group]
    least = min((float(values.min()) for values in sent if len(values)), default=math.inf)
    return least * _unit(observation)


def cut_columns(observation: Observation, name: str) -> int:
    """How many columns of weight `name` a defense of the representation left nothing of that can be relied on."""
    if name not in _cut_weights(observation):
        return 0
    return int((~_uncut(observation, observation.tensors[name]).any(dim=0)).sum())


def hides_the_scale(observation: Observation) -> bool:
    """Whether the signal may have been scaled down by a factor that the attacker is not told.

    With `scales_examples` each image's part may have its own besides.
    """
    return any(isinstance(fact, (Clip, ExampleClip)) for fact in observation.facts)


def scales_examples(observation: Observation) -> bool:
    """Whether each of several images' parts of the signal may have been scaled down by a factor of its own.

    Such a factor is a label: for probabilities p and label y an image's gradient is the one that p - y sends back, and
    f (p - y) is p - y' with the soft label y' = (1 - f) p + f y.
    """
    return observation.examples > 1 and any(isinstance(fact, ExampleClip) for fact in observation.facts)


def sends_signs(observation: Observation) -> bool:
    """Whether one client's numbers say no more than a sign each, and a size for all of a tensor."""
    one_bit = any(isinstance(fact, Quantiser) and fact.bits == 1 for fact in observation.facts)
    return one_bit and observation.clients == 1


def rounds_fairly(observation: Observation) -> bool:
    """Whether rounded numbers are right on average, so that rounding is noise; the sign of a number is not."""
    return all(fact.scheme == "stochastic" for fact in observation.facts if isinstance(fact, Quantiser))


def code_of_images(observation: Observation) -> RandomCode | None:
    """The bottleneck that drew a code for each image, where the attacker knows of one."""
    return next((fact for fact in observation.facts if isinstance(fact, RandomCode)), None)


def mixes_labels(observation: Observation) -> bool:
    """Whether images were trained on with mixtures of labels, so that a label is a vector of probabilities."""
    return any(isinstance(fact, (Mixture, HiddenMixture)) for fact in observation.facts)


def is_sparse(observation: Observation) -> bool:
    """Whether only the largest numbers were sent."""
    return any(isinstance(fact, Sparsity) for fact in observation.facts)


def sees_a_part(observation: Observation) -> bool:
    """Whether only some numbers went in the clear, the rest encrypted."""
    return any(isinstance(fact, InTheClear) for fact in observation.facts)


def withholds(observation: Observation, name: str) -> bool:
    """Whether numbers of parameter `name` that are 0 in the signal may have been something else."""
    return is_sparse(observation) or sees_a_part(observation) or name in _cut_weights(observation)


def deviations(observation: Observation, gradients: Tensors) -> dict[str, float]:
    """The standard deviation of the known error on each parameter's numbers; 0.0 where none is known.

    Noise has one for all. Random rounding between steps of d has d / sqrt(6) where values lie anywhere between two
    steps; with one bit it has nearly the largest value itself. Each client's errors are its own, so their mean has
    less.
    """
    noise = sum(_noise_variance(fact, observation) for fact in observation.facts)
    rounding = [fact for fact in observation.facts if isinstance(fact, Quantiser)]
    found = {}
    for name, tensor in gradients.items():
        found[name] = math.sqrt(
            noise + sum(_rounding_variance(fact, tensor) for fact in rounding) / observation.clients
        )
    return found


def precisions(observation: Observation, gradients: Tensors) -> dict[str, float]:
    """One over the variance of the known error on each parameter's numbers; those without one are left out."""
    found = deviations(observation, gradients)
    return {name: 1.0 / sigma**2 for name, sigma in found.items() if sigma > 0}


def _noise_variance(fact: Fact, observation: Observation) -> float:
    """Of the noise that `fact` tells of, 0.0 where it tells of none."""
    unit = _unit(observation) ** 2
    match fact:
        case Noise(sigma=sigma):
            return sigma**2 * unit / observation.clients
        case MeanNoise(sigma=sigma):
            return sigma**2 * unit
        case StepNoise() if observation.signal == "gradients":
            return fact.sigma**2
        case StepNoise():
            moved = fact.in_delta(lr=observation.lr, momentum=observation.momentum, steps=observation.steps)
            return moved**2 * unit / observation.clients
        case _:
            return 0.0


def knows_errors(observation: Observation) -> bool:
    """Whether a fact says that the signal's numbers are off."""
    return any(isinstance(fact, (Noise, MeanNoise, StepNoise, Quantiser)) for fact in observation.facts)


def signal_energy(observation: Observation, gradients: Tensors) -> float:
    """The signal's squared norm beyond that of its known error, in units of the error's variance; infinite without.

    Half of it is how much better, in nats, the true images can explain the numbers than no signal at all would. Of
    numbers that were sent because they are large, so much is taken off as the largest of pure noise would have.
    """
    total, sent = 0.0, sent_numbers(observation)
    for name, sigma in deviations(observation, gradients).items():
        values = gradients[name] if name not in sent else gradients[name][sent[name]]
        if not values.numel():
            continue
        if sigma > 0:
            least = largest_withheld(observation, name) / sigma if name in sent else 0.0
            total += float(values.square().sum()) / sigma**2 - values.numel() * _second_moment_above(least)
        elif bool(values.any()):
            return math.inf
    return total


def _cut_weights(observation: Observation) -> list[str]:
    """The names of the weights of which columns were cut."""
    layers = [name for name, value in observation.state.parameters.items() if value.dim() == 2]
    ends = [fact.layer for fact in observation.facts if isinstance(fact, PrunedRepresentation)]
    return [layers[0 if end == "first" else -1] for end in ends if layers]


def _uncut(observation: Observation, weight: Tensor) -> Tensor:
    """Where a weight with cut columns is what it was: where a column is not 0, if zeros are seen as such.

    Several clients or steps have different columns cut, momentum of earlier rounds and errors cover them; then none
    of the weight's numbers is relied on (matching without the defended layer: Balunovic et al., ICLR 2022).
    """
    blurred = observation.clients > 1 or observation.steps > 1 or observation.earlier
    if blurred or knows_errors(observation):
        return torch.zeros_like(weight, dtype=torch.bool)
    return (weight != 0).any(dim=0).expand_as(weight)


def _second_moment_above(least: float) -> float:
    """The mean square of a standard normal number that is known to exceed `least` in absolute value."""
    above = math.erfc(least / math.sqrt(2.0)) / 2.0
    if above == 0.0:
        return least**2  # Beyond what floats can hold the numbers lie at the bound.
    return 1.0 + least * math.exp(-(least**2) / 2.0) / math.sqrt(2.0 * math.pi) / above


def _unit(observation: Observation) -> float:
    """How much of `gradient_estimate`'s numbers one unit of the signal's is."""
    if observation.signal == "gradients":
        return 1.0
    return 1.0 / (observation.lr * travelled(observation.momentum, observation.steps))


def _rounding_variance(fact: Quantiser, tensor: Tensor) -> float:
    largest = float(tensor.abs().max())
    if fact.bits == 1:
        return largest * largest
    step = 2.0 * largest / float(2**fact.bits - 1)
    return step * step / 6.0


def masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """`values` with 0 where `mask` is False; as they are without a mask."""
    return values if mask is None else torch.where(mask, values, torch.zeros_like(values))
