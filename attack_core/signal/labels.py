"""Which labels an attack matches with: given, inferred or optimised.

At the last layer a batch's bias gradient is the mean of softmax minus one-hot, so for class k it is p_k - n_k / B,
with the mean probability p_k and the count n_k. Inferred labels are multisets, in ascending order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack_core.gradients.targets import gradient_estimate, weights_along
from attack_core.signal.choices import LabelStrategy
from attack_core.signal.inits import initial_images
from attack_core.signal.signal_model import mixes_labels, scales_examples, vib_of_images
from fl_core.base.decibels import TINY
from fl_core.base.errors import InputError
from fl_core.base.types import ModelState, Tensors
from fl_core.federation.client import loss_gradient
from fl_core.models.forward import layer_inputs, predict
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class StandIns:
    """The random images on which mean probabilities are estimated. Neither field was measured against other values."""

    images: int = 32
    """How many there are."""
    std: float = 0.4
    """Their standard deviation around the mean image, in normalised pixels: about that of photographs."""


STAND_INS = StandIns()
"""The stand-ins in force."""


@dataclass(frozen=True, kw_only=True)
class TriedLabels:
    """How labels of a found image are tried."""

    most: int = 32
    """How many at most: each takes a forward and a backward pass. Not measured."""
    step: float = 1e-3
    """How far along the signal logits are compared, as a share of the weights' length. Not measured."""


TRIED_LABELS = TriedLabels()
"""The limits in force."""


def resolve_labels(
    strategy: LabelStrategy,
    observation: Observation,
    model: nn.Module,
    images: int,
    generator: torch.Generator,
) -> Tensor | None:
    """Fixed labels (B,) for `images` reconstructions, or None where they are to be optimised as soft labels.

    `auto` takes known labels where the threat model gives them, iDLG for one image unless the signal is
    `agg_update` or the mean of several clients (the bias alone where the last layer sees numbers below 0, as behind a
    LayerNorm), counts where all images of the signal are reconstructed and none was scaled by itself, and optimises
    otherwise, as where clients do not train the last layer. Raises `InputError` where a strategy asks for what is not
    there.
    """
    if strategy == "auto":
        strategy = _choose(observation, images)
        if strategy == "idlg" and _either_sign(observation, model):
            strategy = "bias_corrected"
    match strategy:
        case "known":
            return _known(observation, images)
        case "idlg":
            if images != 1:
                raise InputError(
                    f"label_strategy 'idlg' infers one label, but {images} images are reconstructed."
                )
            return idlg(observation)
        case "bias_corrected":
            return bias_corrected(observation, images)
        case "counts":
            return counted(observation, model, images, generator)
        case _:
            return None


def _choose(observation: Observation, images: int) -> LabelStrategy:
    if mixes_labels(observation):
        return "optimize"
    if observation.labels is not None and len(observation.labels) == images:
        return "known"
    if not sends_last_layer(observation):
        return "optimize"
    if images == 1 and observation.signal != "agg_update" and observation.clients == 1:
        # The code that a bottleneck hands on has negative numbers, so row sums say nothing; the bias does.
        return "idlg" if vib_of_images(observation) is None else "bias_corrected"
    if scales_examples(observation):
        return "optimize"
    # Of some images among many the counts say only which label is the most frequent.
    return "counts" if images == observation.examples else "optimize"


@torch.no_grad()
def _either_sign(observation: Observation, model: nn.Module) -> bool:
    """Whether the last layer has a bias and sees numbers below 0, behind which iDLG's row sums say nothing."""
    weight, bias = _last_names(observation)
    if bias not in observation.tensors:
        return False
    device = observation.state.parameters[weight].device
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randn((2, *observation.model.shape.size), generator=draw) * STAND_INS.std
    state = observation.state.with_own_buffers()
    try:
        inputs = layer_inputs(model, state, (weight.rpartition(".")[0],), pictures.to(device))[0]
    except (AssertionError, AttributeError):
        # The matrix is no layer's, or its layer is not called.
        return False
    return bool((inputs < 0).any())


def _known(observation: Observation, images: int) -> Tensor:
    if observation.labels is None:
        raise InputError("label_strategy 'known' needs a threat model with labels: known.")
    if len(observation.labels) != images:
        raise InputError(
            f"label_strategy 'known' reconstructs as many images as there are labels "
            f"({len(observation.labels)}), not {images}."
        )
    return observation.labels


def idlg(observation: Observation) -> Tensor:
    """The label of a single image, (1,): the class whose row of the last weight gradient has the smallest sum.

    Zhao et al. 2020, arXiv:2001.02610: behind non-negative activations only the true class's row is negative.
    """
    weight, _ = _last_layer(observation)
    return weight.sum(1).argmin().reshape(1)


def single_label(observation: Observation) -> Tensor:
    """The label of a single image, (1,), behind activations of either sign: where the last bias's gradient is least.

    Softmax minus one-hot is negative at the true class alone. `idlg`'s where the last layer has no bias.
    """
    _, bias = _last_layer(observation)
    return idlg(observation) if bias is None else bias.argmin().reshape(1)


def bias_corrected(observation: Observation, images: int) -> Tensor:
    """Labels (B,) of a batch, one by one: always the class whose gradient is most negative, which is then lifted.

    A label's share is the sum of the negative entries over B; every class with a negative entry occurs at least
    once (Wainakh et al. 2022, arXiv:2105.09369; the greedy form of the library breaching). Uses the last bias's
    gradient, or the weight gradient's row sums where there is no bias. With two classes only one entry is
    negative, so it sees only one of them.
    """
    weight, bias = _last_layer(observation)
    left = (weight.sum(1) if bias is None else bias).detach().cpu().clone()
    share = -left.clamp_max(0.0).sum() / images
    order = left.argsort()
    found = [int(k) for k in order if left[k] < 0][:images]
    left[found] += share
    while len(found) < images:
        worst = int(left.argmin())
        found.append(worst)
        left[worst] += share
    return torch.tensor(sorted(found))


def counted(observation: Observation, model: nn.Module, images: int, generator: torch.Generator) -> Tensor:
    """Labels (B,) of a batch by class counts: n_k = B (p_k - g_k), rounded to integers that sum to B.

    g is the gradient of the last bias. The mean probabilities p come from stand-ins for the training images:
    the public mean image where there is one, else grey, with photograph-like noise. For weight deltas they are
    taken halfway between the weights before and after. After Wainakh et al. 2022, arXiv:2105.09369 (LLG), and Ma
    et al. 2023, arXiv:2302.06000 (iLRG). Raises `InputError` where the last layer has no bias.
    """
    _, bias = _last_layer(observation)
    if bias is None:
        raise InputError(
            "label_strategy 'counts' needs a last layer with a bias; use 'bias_corrected' or 'optimize'."
        )
    shares = _mean_probabilities(observation, model, generator) - bias.detach()
    return torch.arange(len(shares)).repeat_interleave(rounded_counts(shares.cpu(), images))


def rounded_counts(shares: Tensor, total: int) -> Tensor:
    """Non-negative integers (K,) that sum to `total`, in proportion to `shares` (K,): largest remainders.

    Negative shares count as 0; where none is positive all are equal. int64.
    """
    positive = shares.clamp_min(0.0)
    if not bool((positive > 0).any()):
        positive = torch.ones_like(shares)
    # Divided first: `total` over a sum near the smallest number would overflow.
    ideal = positive / positive.sum() * total
    counts = ideal.floor().long()
    counts[(ideal - counts).argsort(descending=True)[: total - int(counts.sum())]] += 1
    return counts


@torch.no_grad()
def _mean_probabilities(observation: Observation, model: nn.Module, generator: torch.Generator) -> Tensor:
    """(K,), on the device of the signal."""
    picture = observation.model.shape.size
    noise = initial_images(
        "fourier", (1, STAND_INS.images, *picture), std=STAND_INS.std, generator=generator
    )[0]
    device = next(iter(observation.tensors.values())).device
    images = noise.to(device) + (0.0 if observation.public_mean is None else observation.public_mean)
    logits = predict(model, _halfway(observation), images.clamp(-1.0, 1.0))
    return logits.softmax(dim=1).mean(0)


def _halfway(observation: Observation) -> ModelState:
    """Where on the way the mean of a multi-step update's gradients was taken, roughly; a copy."""
    state = observation.state if observation.steps == 1 else weights_along(observation, 0.5)
    return state.detached()


def sends_last_layer(observation: Observation) -> bool:
    """Whether clients train the last fully connected layer: as shapes tell, no frozen one has a row for each class."""
    return not _for_each_class(observation.state.buffers, observation)


def last_matrix(observation: Observation) -> str | None:
    """The name of the weight that the logits come from, as far as shapes tell: the last with a row for each class."""
    names = _for_each_class(observation.state.parameters, observation)
    return names[-1] if names else None


def _for_each_class(tensors: Tensors, observation: Observation) -> list[str]:
    """The names of matrices that have a row for each class."""
    classes = observation.model.outputs
    return [name for name, value in tensors.items() if value.dim() == 2 and len(value) == classes]


def label_of_image(
    observation: Observation, model: nn.Module, image: Tensor, limits: TriedLabels = TRIED_LABELS
) -> Tensor:
    """The label (1,) with which `image` (1, C, H, W) explains the signal best.

    The last bias's gradient tells it where clients train that layer (`single_label`). Elsewhere labels are tried, those
    first whose logits a step against the signal would raise most.
    """
    if sends_last_layer(observation):
        return single_label(observation)
    targets = gradient_estimate(observation)
    state = observation.state

    lengths = [
        math.sqrt(sum(float(value.square().sum()) for value in each.values()))
        for each in (state.parameters, targets)
    ]
    step = limits.step * lengths[0] / max(lengths[1], TINY)
    moved = {name: value + step * targets[name] for name, value in state.parameters.items()}
    with torch.no_grad():
        there = predict(model, ModelState(parameters=moved, buffers=state.buffers).with_own_buffers(), image)
        raised = there - predict(model, state.with_own_buffers(), image)
    tried = raised[0].argsort()[: limits.most]
    alike = [_cosine(targets, loss_gradient(model, state, (image, label.reshape(1)))) for label in tried]
    best = alike.index(max(alike))
    return tried[best : best + 1]


def _cosine(one: Tensors, other: Tensors) -> float:
    """The cosine of the angle between two gradients; 0 where one of them is 0."""
    pairs = ((one, other), (one, one), (other, other))
    product, *squares = [sum(float((a[name] * b[name]).sum()) for name in one) for a, b in pairs]
    return product / max(math.sqrt(squares[0] * squares[1]), TINY)


def _last_layer(observation: Observation) -> tuple[Tensor, Tensor | None]:
    """The last fully connected layer's gradients: weight (K, H) and bias (K,), if it has one."""
    weight, bias = _last_names(observation)
    gradients = gradient_estimate(observation)
    return gradients[weight], gradients.get(bias)


def _last_names(observation: Observation) -> tuple[str, str]:
    """The names of the last fully connected layer's weight, as shapes tell, and of its bias, if it has one."""
    weight = last_matrix(observation)
    if weight is None:
        raise InputError("Labels are inferred at a last fully connected layer, and this model has none.")
    if not sends_last_layer(observation):
        raise InputError("Labels are inferred at the last fully connected layer, which clients do not train.")
    return weight, weight.removesuffix("weight") + "bias"
