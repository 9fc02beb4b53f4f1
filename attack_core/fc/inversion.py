"""The inputs of a fully connected layer, from its gradients alone.

For one image the weight gradient of a layer y = W x + b is the outer product of the error at y and the input x, and
the bias gradient is that error: every row of one over the other is x (Phong et al. 2018, arXiv:1706.04340; Geiping et
al. 2020, arXiv:2003.14053, prop. 3.1). For several images both are sums, which `attack_core.fc.spear` separates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional

from attack_core.base.reading import Estimate
from attack_core.fc.cone import separate_rectified
from attack_core.fc.head import Head
from attack_core.fc.peeling import can_peel, peel
from attack_core.fc.spear import Inseparable, separate_batch
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.rng import generator
from fl_core.base.types import Tensors


@dataclass(frozen=True, kw_only=True)
class LargeBatchLimits:
    """Where batches of two classes are taken apart image by image (`attack_core.fc.peeling`); others always are."""

    images: int = 16
    """Up to so many, choices of units find faces that are alike, which peeling was not measured on."""


LARGE_BATCH = LargeBatchLimits()
"""The limits in force."""

_PURPOSE = "reading layer inputs off a gradient"


@dataclass(frozen=True, kw_only=True)
class ReadingLimits:
    """Where arithmetic ends when layer inputs are read; none was measured against others."""

    most_turns: int = 100
    """Withheld numbers: how often errors and inputs are found from each other at most."""
    settled: float = 1e-6
    """Withheld numbers: inputs that change less than this, relatively, are final. About float32's own precision."""
    rounding: float = 1e-6
    """The relative error that float32 arithmetic leaves at least in a recovered output of a ReLU."""
    most_patterns: int = 10
    """How often the units that are on are read off again at most, when errors are followed down a layer."""
    on: float = 1e-4
    """A unit of the last hidden layer is on for an image where its error exceeds this share of the largest."""
    probes: int = 3
    """Several rounds: random vectors beside the bias gradient that the leading singular vector is searched from."""
    products: int = 60
    """Several rounds: how often these are multiplied by the matrix.

    Of 2,560 rows and 3,072 columns of noise at the edge of what can be seen, 60 give the leading value to rounding, 30
    to 7e-7; it takes a fifth of the time of all eigenvectors.
    """
    together: int = 2**17
    """How many numbers of a gradient are compared with an image's share of them at a time: what caches hold.

    For 8 million numbers that takes half of the time of all at once.
    """
    squared: float = 1e-12
    """Gradients whose largest number is below this, or above its inverse, are scaled before they are squared."""
    few_rows: int = 1000
    """Several rounds: up to so many rows all eigenvectors are taken. Not measured against other values."""


READING_LIMITS = ReadingLimits()
"""The limits in force."""


@dataclass(frozen=True)
class Shares:
    """Each image's part in the gradient of the head's first layer.

    `inputs` (B, I) and `errors` (B, O) are that layer's; `logit_errors` (B, K) are those at the network's output, up
    to a positive factor for each image. `residual` is the relative L2 distance between the observed weight gradient
    and the one that the shares give, over the numbers that were sent. `unknown` (I,) marks inputs about which nothing
    was sent but that they are at most `ceiling` in absolute value; None where all are known. `others` (M,) are the
    classes of images that did not come apart; None where all B did.
    """

    inputs: Tensor
    errors: Tensor
    logit_errors: Tensor
    residual: float
    unknown: Tensor | None = None
    ceiling: float = 0.0
    others: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        """The class (B,) whose logit the loss wants higher: softmax minus one-hot is negative there alone."""
        return self.logit_errors.argmin(dim=1)


def input_estimate(weight: Tensor, bias: Tensor, estimate: Estimate, *, balance: float = 1.0) -> Tensor:
    """A single image's layer input (I,) from its weight gradient (O, I) and bias gradient (O,).

    - `ratio`: the row of the largest bias gradient, divided by it.
    - `weighted`: the mean of all rows' ratios weighted by the squared bias gradient, W^T b / |b|^2: the least squares
      solution where b is exact.
    - `rank_one`: from the leading singular pair of [W cb], the best fit where W and cb carry the same noise; c is
      `balance`.

    Raises `Inseparable` where the bias gradient is zero (the layer is dead for this image) or the weight gradient is.
    """
    if not float(_largest_size(bias)) > 0:
        raise Inseparable("the bias gradient is zero: no unit of the layer reacts to the image")
    if not float(_largest_size(weight)) > 0:
        raise Inseparable("the weight gradient is zero: it tells nothing of the layer's input")
    if estimate == "ratio":
        row = int(bias.abs().argmax())
        return weight[row] / bias[row]
    if estimate == "weighted":
        # Divided first: a network that is sure of its answer has gradients whose squares float32 does not hold.
        largest = _largest_size(bias)
        shares = bias / largest
        return weight.mT @ shares / largest / shares.square().sum()
    unit = torch.linalg.eigh(_gram(weight, balance * bias)).eigenvectors[:, -1].float().to(weight)
    found: Tensor = weight.mT @ unit / (bias @ unit)
    return found


def completed_input(
    weight: Tensor,
    bias: Tensor,
    sent: Tensor,
    sent_bias: Tensor,
    limits: ReadingLimits = READING_LIMITS,
) -> tuple[Tensor, Tensor]:
    """A single image's layer input (I,) from gradients of which only some numbers were sent, and which of it is known.

    `weight` (O, I) and `bias` (O,) are 0 where the masks `sent` and `sent_bias` are False. [W b] has rank one, so the
    errors b and the inputs x that explain the numbers sent follow from each other by least squares in turn; inputs
    none of whose numbers was sent are left at 0. Raises `Inseparable` where no bias gradient was sent.
    """
    if not bool(sent_bias.any()):
        raise Inseparable("no bias gradient of the layer was sent, so the scale of its input is not known")
    mask = sent.to(weight)
    errors, inputs = bias.clone(), torch.zeros_like(weight[0])
    for _ in range(limits.most_turns):
        before = inputs
        weight_of_input = errors.square() @ mask
        inputs = (errors @ weight) / weight_of_input.clamp_min(TINY)
        seen = mask @ inputs.square() + sent_bias.to(weight)
        errors = (weight @ inputs + bias) / seen.clamp_min(TINY)
        if float((inputs - before).norm()) <= limits.settled * float(inputs.norm()):
            break
    return inputs, weight_of_input > 0


def estimate_error(weight: Tensor, bias: Tensor, sigma: float) -> float:
    """The expected relative squared error of `rank_one`'s estimate where every number has noise of deviation `sigma`.

    From weight gradient (O, I) and bias gradient (O,): by how much noise turns the leading singular vector
    (Benaych-Georges and Nadakuditi 2012), and by how much it rescales what the bias gives along that vector. Infinite
    where noise alone has singular values as large.
    """
    return _error_left(weight, bias, sigma, Leading.of(weight, bias))


@dataclass(frozen=True)
class Leading:
    """The leading singular value's square of a layer's gradients [W b], and its left vector (O,)."""

    square: float
    vector: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> Leading:
        """From weight gradient (O, I) and bias gradient (O,)."""
        values, vectors = torch.linalg.eigh(_gram(weight, bias))
        return cls(float(values[-1]), vectors[:, -1].float().to(bias))

    @classmethod
    def of_many(cls, weight: Tensor, bias: Tensor, limits: ReadingLimits = READING_LIMITS) -> Leading:
        """The same of so many rows that all eigenvectors would take minutes: block Krylov iteration from the bias.

        Musco and Musco 2015, arXiv:1504.05477. The bias gradient is the error itself under noise, so it is near.
        """
        gram = _gram(weight, bias)
        probes = torch.randn((len(gram), limits.probes), generator=generator("leading"), dtype=gram.dtype)
        block = torch.cat([exact(bias, _PURPOSE)[:, None], probes], dim=1)
        basis = torch.linalg.qr(block).Q
        block = basis
        for _ in range(limits.products):
            block = gram @ block
            for _ in range(2):  # Twice is enough for orthogonality to rounding (Parlett 1980).
                block = block - basis @ (basis.mT @ block)
            block = torch.linalg.qr(block).Q
            basis = torch.cat([basis, block], dim=1)
        values, vectors = torch.linalg.eigh(basis.mT @ gram @ basis)
        return cls(float(values[-1]), (basis @ vectors[:, -1]).float().to(bias))


def stacked_input(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, float, list[float]]:
    """The mean input (I,) of a layer over rounds, its expected relative squared error, and each round's share in it.

    From each round's weight gradient (O, I) and bias gradient (O,), all of whose numbers have noise of deviation 1. In
    each they are an error times the input; stacked they are nearly of rank one, and their leading left vector weighs
    each round by its error's energy. The error is `estimate_error`'s, infinite where noise hides the input.
    """
    weight, bias = torch.cat(list(weights)), torch.cat(list(biases))
    leading = (Leading.of if len(bias) <= READING_LIMITS.few_rows else Leading.of_many)(weight, bias)
    parts = leading.vector.split([len(each) for each in biases])
    error = _error_left(weight, bias, 1.0, leading)
    inputs: Tensor = weight.mT @ leading.vector / (bias @ leading.vector)
    return inputs, error, [float(part.square().sum()) for part in parts]


def _error_left(weight: Tensor, bias: Tensor, sigma: float, leading: Leading) -> float:
    rows, columns = weight.shape[0], weight.shape[1] + 1
    top = leading.square / sigma**2
    inner = top - rows - columns
    if top <= (math.sqrt(rows) + math.sqrt(columns)) ** 2 or inner**2 <= 4 * rows * columns:
        return math.inf
    signal = (inner + math.sqrt(inner**2 - 4 * rows * columns)) / 2
    aligned = 1 - columns * (rows + signal) / (signal * (signal + columns))
    size = float(bias @ leading.vector) ** 2 / sigma**2 - 1
    return math.inf if aligned <= 0 or size <= 0 else 1 / aligned - 1 + 1 / size


def _gram(weight: Tensor, bias: Tensor) -> Tensor:
    """Inner products (O, O) of the rows of [W b], in float64 on the CPU: some accelerators have none."""
    both = torch.cat([weight, bias[:, None]], dim=1)
    return exact(both @ both.mT, _PURPOSE)


def recover_shares(
    gradients: Tensors,
    weights: Tensors,
    head: Head,
    count: int,
    generator: torch.Generator,
    *,
    estimate: Estimate,
    rounds: int,
    tolerance: float,
    after: Tensors | None = None,
    balance: float = 1.0,
    rectified: bool = False,
    again: bool = False,
) -> Shares:
    """The shares of `count` images in `gradients` taken at `weights` (both by parameter name).

    Where the weights moved between the images, `weights` are those before and `after` those after. `rectified` says
    that the inputs are nowhere negative, which tells more images and classes apart than anything else does; of images
    that were seen `again` and again nothing else does.

    Several images are told apart at the last hidden layer, whose errors the output layer's weights explain, and
    followed down from there: a layer's inputs, known, say which units below are on, so the errors there are known
    too and the inputs are the solution of linear equations. `rounds` and `tolerance` are `separate_batch`'s,
    `balance` is `input_estimate`'s for a single image. Raises `Inseparable`.
    """
    if count == 1:
        weight, bias = (gradients[f"{head.first}.{kind}"] for kind in ("weight", "bias"))
        inputs = input_estimate(weight, bias, estimate, balance=balance)[None]
        residual = _unexplained(bias[None], inputs, weight)
        return Shares(inputs, bias[None], gradients[f"{head.layers[-1]}.bias"][None], residual)
    middle = weights if after is None else {name: (weights[name] + after[name]) / 2 for name in weights}
    unlike = count > LARGE_BATCH.images or len(gradients[f"{head.layers[-1]}.bias"]) > 2
    if again and not (rectified and len(head.layers) <= 2):
        raise Inseparable(f"each of {count} images was seen more than once, with other inputs each time")
    if again:
        return _of_rectified(gradients, middle, head, count, generator, moved=True)
    if rectified and unlike and len(head.layers) <= 2:
        try:
            return _of_rectified(gradients, middle, head, count, generator, moved=False)
        except Inseparable:
            if len(head.layers) < 2 or count > LARGE_BATCH.images:
                raise
    if head.random:
        return _in_front(gradients, weights, head, count, generator, rounds=rounds, tolerance=tolerance)
    if after is None and can_peel(head) and unlike:
        return _peeled(gradients, weights, head, count, generator)
    if len(head.layers) < 2:
        raise Inseparable(
            f"one fully connected layer of {len(gradients[f'{head.first}.bias'])} outputs holds no ReLU pattern "
            f"that tells {count} images apart"
        )
    hidden, last = head.layers[-2:]
    ends = [weights] if after is None else [weights, after]
    outgoing = middle[f"{last}.weight"]
    try:
        mixture = separate_batch(
            gradients[f"{hidden}.weight"],
            gradients[f"{hidden}.bias"],
            count,
            generator,
            layers=tuple((end[f"{hidden}.weight"], end[f"{hidden}.bias"]) for end in ends),
            outgoing=tuple(end[f"{last}.weight"] for end in ends),
            rounds=rounds,
            tolerance=tolerance,
        )
    except Inseparable:
        if not rectified or unlike or len(head.layers) > 2:
            raise
        return _of_rectified(gradients, middle, head, count, generator, moved=False)
    logit_errors = _logit_errors(mixture.errors, outgoing)
    errors, inputs = mixture.errors, mixture.inputs
    for lower, upper in reversed(list(zip(head.layers[:-2], head.layers[1:-1], strict=True))):
        handed_back = errors @ middle[f"{upper}.weight"]
        layer = (middle[f"{lower}.weight"], middle[f"{lower}.bias"])
        errors, inputs = _followed_down(
            handed_back, _switched_on(inputs), gradients[f"{lower}.weight"], layer
        )
    weight = gradients[f"{head.first}.weight"]
    residual = _unexplained(errors, inputs, weight)
    if not residual <= tolerance:
        raise Inseparable(
            f"the errors followed down to {head.first} leave {residual:.1e} of its gradient unexplained"
        )
    return Shares(inputs, errors, logit_errors, residual)


def _of_rectified(
    gradients: Tensors,
    weights: Tensors,
    head: Head,
    count: int,
    generator: torch.Generator,
    *,
    moved: bool,
) -> Shares:
    """The shares where inputs are nowhere negative, for one fully connected layer or two."""
    weight, bias = (gradients[f"{head.first}.{kind}"] for kind in ("weight", "bias"))
    found = separate_rectified(weight, bias, count, generator, moved=moved)
    errors = found.errors
    if len(head.layers) > 1:
        errors = _logit_errors(errors, weights[f"{head.layers[-1]}.weight"])
    return Shares(found.inputs, found.errors, errors, found.residual)


def _peeled(
    gradients: Tensors, weights: Tensors, head: Head, count: int, generator: torch.Generator
) -> Shares:
    found = peel(gradients, weights, head, count, generator)
    others = found.others if len(found.others) else None
    return Shares(found.inputs, found.errors, found.logit_errors, found.residual, others=others)


def _followed_down(
    handed_back: Tensor,
    on: Tensor,
    gradient: Tensor,
    layer: tuple[Tensor, Tensor],
    limits: ReadingLimits = READING_LIMITS,
) -> tuple[Tensor, Tensor]:
    """Errors (B, O) and inputs (B, I) of a layer from what the one above hands back (B, O) to its ReLU.

    `on` (B, O) says which units are on, as the inputs of the layer above show it. The inputs that follow say it once
    more, by the layer's weight and bias, and more surely where an output is small: the solution of least residual is
    taken.
    """
    errors, inputs = _solved(handed_back * on, gradient)
    best = (_unexplained(errors, inputs, gradient), errors, inputs)
    for _ in range(limits.most_patterns):
        again = functional.linear(inputs, *layer) > 0
        if torch.equal(again, on):
            break
        on = again
        errors, inputs = _solved(handed_back * on, gradient)
        best = min(best, (_unexplained(errors, inputs, gradient), errors, inputs), key=lambda each: each[0])
    return best[1], best[2]


def _solved(errors: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The errors, and the inputs (B, I) that explain the weight gradient (O, I) best with them."""
    observed = exact(gradient, _PURPOSE)
    return errors, torch.linalg.lstsq(exact(errors.mT, _PURPOSE), observed).solution.to(errors)


def _in_front(
    gradients: Tensors,
    weights: Tensors,
    head: Head,
    count: int,
    generator: torch.Generator,
    *,
    rounds: int,
    tolerance: float,
) -> Shares:
    """The shares of `count` images in front of a bottleneck that draws.

    What its layers hand back depends on the draws, so the zeros of the ReLU in front alone tell images apart, and
    labels stay those of the whole. Raises `Inseparable`.
    """
    if not head.rectified:
        raise Inseparable(f"no ReLU in front of the bottleneck tells {count} images apart")
    weight, bias = (f"{head.first}.{kind}" for kind in ("weight", "bias"))
    mixture = separate_batch(
        gradients[weight],
        gradients[bias],
        count,
        generator,
        layers=((weights[weight], weights[bias]),),
        rounds=rounds,
        tolerance=tolerance,
    )
    whole = gradients[f"{head.layers[-1]}.bias"].expand(count, -1)
    return Shares(mixture.inputs, mixture.errors, whole, mixture.residual)


def _largest_size(tensor: Tensor) -> Tensor:
    """The largest absolute value (), in one pass."""
    least, most = torch.aminmax(tensor)
    return torch.maximum(-least, most)


def _unexplained(
    errors: Tensor, inputs: Tensor, gradient: Tensor, limits: ReadingLimits = READING_LIMITS
) -> float:
    """What errors (B, O) times inputs (B, I) leave of a gradient (O, I), relatively, in L2 norms."""
    largest = _largest_size(gradient)
    if not limits.squared <= float(largest) <= 1.0 / limits.squared:
        errors, gradient = errors / largest, gradient / largest
    rows = max(1, limits.together // gradient.shape[1])
    left, whole = list[Tensor](), list[Tensor]()
    for own, some in zip(errors.mT.split(rows), gradient.split(rows), strict=True):
        whole.append(vector_norm(some))
        left.append(vector_norm(torch.addmm(some, own, inputs, alpha=-1.0)))
    return float(vector_norm(torch.stack(left)) / vector_norm(torch.stack(whole)))


def _switched_on(outputs: Tensor) -> Tensor:
    """Which recovered outputs of a ReLU (B, O) are above 0; the negative ones show how large the error is."""
    largest = outputs.amax(dim=1, keepdim=True)
    error = (-outputs).amax().maximum(READING_LIMITS.rounding * largest)
    return outputs > 2.0 * error


def _logit_errors(errors: Tensor, outgoing: Tensor) -> Tensor:
    """Errors at the output (B, K) from those at the last hidden layer (B, O): least squares over units that are on.

    Softmax minus one-hot sums to zero over classes, so each is a combination of differences to the first class.
    """
    differences = exact(outgoing[1:] - outgoing[:1], _PURPOSE)
    found = []
    for error in exact(errors, _PURPOSE):
        on = error.abs() > READING_LIMITS.on * error.abs().max()
        rest = torch.linalg.lstsq(differences[:, on].mT, error[on][:, None]).solution[:, 0]
        found.append(torch.cat([-rest.sum()[None], rest]))
    return torch.stack(found).to(errors)
