"""What the facts about a defense say of the numbers in a signal: which were sent, how far off they are, at what scale.

All of it is in units of `gradient_estimate`'s numbers, which attacks work with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.targets import gradient_estimate, travelled
from fl_core.base.errors import InputError
from fl_core.base.types import Tensors
from fl_core.threat.facts import Fact, RandomCode
from fl_core.threat.observation import Observation


def sent_numbers(observation: Observation) -> dict[str, Tensor]:
    """Masks of the numbers that are known as they were, by parameter name; {} where all are."""
    masks: dict[str, Tensor] = {}
    for fact in observation.facts:
        for name, mask in fact.known(observation).items():
            masks[name] = mask & masks[name] if name in masks else mask
    return masks


def layer_numbers(
    observation: Observation, gradients: Tensors, layer: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A fully connected layer's weight (O, I) and bias (O,) gradient, 0 where withheld, and masks of what was sent."""
    sent, names = sent_numbers(observation), (f"{layer}.weight", f"{layer}.bias")
    masks = [sent.get(name, torch.ones_like(gradients[name], dtype=torch.bool)) for name in names]
    weight, bias = (masked(gradients[name], sent.get(name)) for name in names)
    return weight, bias, masks[0], masks[1]


def matched_numbers(
    observation: Observation,
    targets: Tensors,
    weights: Mapping[str, float],
    *,
    only: Mapping[str, Tensor] | None = None,
) -> Matched:
    """The parameters named in `weights` as the attacker may match them: numbers that were sent, at an unknown scale.

    `only` masks what of them counts, by parameter name.
    """
    sent = sent_numbers(observation)
    for name, mask in (only or {}).items():
        sent[name] = sent[name] & mask if name in sent else mask
    return Matched.of(targets, weights, sent=sent, scaled=hides_the_scale(observation))


def largest_withheld(observation: Observation, name: str) -> float:
    """What the absolute value of a withheld number of parameter `name` is at most; infinite where nothing bounds it."""
    bounds = (fact.ceiling(observation, name) for fact in _withholding(observation, name))
    return max(bounds, default=0.0) * _unit(observation)


def cut_columns(observation: Observation, name: str) -> int:
    """How many columns of weight `name` a defense of the representation left nothing of that can be relied on."""
    cuts = [fact for fact in _withholding(observation, name) if fact.withheld == "columns"]
    return sum(int((~fact.known(observation)[name].any(dim=0)).sum()) for fact in cuts)


def hides_the_scale(observation: Observation) -> bool:
    """Whether the signal may have been scaled down by a factor that the attacker is not told.

    With `scales_examples` each image's part may have its own besides.
    """
    return any(fact.rescales != "nothing" for fact in observation.facts)


def scales_examples(observation: Observation) -> bool:
    """Whether each of several images' parts of the signal may have been scaled down by a factor of its own.

    Such a factor is a label: for probabilities p and label y an image's gradient is the one that p - y sends back, and
    f (p - y) is p - y' with the soft label y' = (1 - f) p + f y.
    """
    return observation.examples > 1 and any(fact.rescales == "examples" for fact in observation.facts)


def sends_signs(observation: Observation) -> bool:
    """Whether one client's numbers say no more than a sign each, and a size for all of a tensor."""
    return observation.clients == 1 and any(fact.likelihood == "signs" for fact in observation.facts)


def rounds_fairly(observation: Observation) -> bool:
    """Whether the numbers are right on average, so that rounding is noise."""
    return all(fact.unbiased for fact in observation.facts)


def vib_of_images(observation: Observation) -> RandomCode | None:
    """The bottleneck that drew a code for each image, where the attacker knows of one."""
    return next((fact for fact in observation.facts if isinstance(fact, RandomCode)), None)


def mixes_labels(observation: Observation) -> bool:
    """Whether images were trained on with mixtures of labels, so that a label is a vector of probabilities."""
    return any(fact.mixes_labels for fact in observation.facts)


def is_sparse(observation: Observation) -> bool:
    """Whether only the largest numbers were sent."""
    return any(fact.withheld == "smallest" for fact in observation.facts)


def sees_a_part(observation: Observation) -> bool:
    """Whether only some numbers went in the clear, the rest encrypted."""
    return any(fact.withheld == "part" for fact in observation.facts)


def withholds(observation: Observation, name: str) -> bool:
    """Whether numbers of parameter `name` that are 0 in the signal may have been something else."""
    return bool(_withholding(observation, name))


def deviations(observation: Observation, gradients: Tensors) -> dict[str, float]:
    """The standard deviation of the known error on each parameter's numbers; 0.0 where none is known."""
    unit = _unit(observation)
    return {
        name: math.sqrt(sum(fact.variance(observation, tensor, unit) for fact in observation.facts))
        for name, tensor in gradients.items()
    }


def precisions(observation: Observation, gradients: Tensors) -> dict[str, float]:
    """One over the variance of the known error on each parameter's numbers; those without one are left out."""
    found = deviations(observation, gradients)
    return {name: 1.0 / sigma**2 for name, sigma in found.items() if sigma > 0}


def knows_errors(observation: Observation) -> bool:
    """Whether a fact says that the signal's numbers are off."""
    return any(fact.likelihood != "exact" for fact in observation.facts)


def exact_gradients(observation: Observation) -> dict[str, Tensor]:
    """`gradient_estimate` without the parameters of which numbers were withheld, for what needs exact row spaces.

    Raises `InputError` where the numbers are known to be off.
    """
    if knows_errors(observation) or sends_signs(observation):
        raise InputError("the signal's numbers are off, and a row space has to be exact")
    return {
        name: value
        for name, value in gradient_estimate(observation).items()
        if not withholds(observation, name)
    }


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


def _withholding(observation: Observation, name: str) -> list[Fact]:
    """The facts that say that numbers of parameter `name` were not sent."""
    return [fact for fact in observation.facts if fact.withholds(observation, name)]


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


def masked(values: Tensor, mask: Tensor | None) -> Tensor:
    """`values` with 0 where `mask` is False; as they are without a mask."""
    return values if mask is None else torch.where(mask, values, torch.zeros_like(values))
