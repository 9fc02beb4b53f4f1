"""What convolutions in front of BatchNorm in train mode saw of each image of a batch, where its statistics are seen.

The batch's own statistics make of train mode what evaluation mode is: with them in the place of the running ones each
image goes through the network by itself. So what `attack_core.convolutions.batch_space` reads of a batch can be
inverted image by image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from attack_core.convolutions.batch_space import (
    BATCH_LIMITS,
    explains_mean,
    in_front,
    in_order,
    normalised_outputs,
    output_mean,
    patch_pairs,
)
from attack_core.convolutions.calls import ConvolutionCall, convolution_calls
from attack_core.fc.cone import OFF_BY_LITTLE, separate_rectified
from attack_core.fc.head import observed_head
from attack_core.fc.spear import Inseparable
from attack_core.gradients.batchnorm import SeenStatistics
from attack_core.gradients.targets import gradient_estimate
from attack_core.gradients.tracing import couples_examples
from attack_core.signal.labels import resolve_labels
from attack_core.signal.signal_model import exact_gradients
from fl_core.base.errors import InputError
from fl_core.base.types import ModelState, Tensors
from fl_core.models.forward import layer_inputs
from fl_core.threat.observation import Observation


@dataclass(frozen=True)
class BatchInputs:
    """What is known of each image of a batch: `values` (B, I) are the inputs of `layers`, in one order of the images.

    `model` and `state` are the network in which each image goes by itself.
    """

    model: nn.Module
    state: ModelState
    layers: tuple[str, ...]
    values: tuple[Tensor, ...]
    note: str


@dataclass(frozen=True)
class _Reader:
    """The convolutions of the settled network, in order, and what is seen of them."""

    model: nn.Module
    state: ModelState
    calls: list[ConvolutionCall]
    gradients: Tensors
    means: Tensors
    images: int

    def separated(self, call: ConvolutionCall) -> Tensor | None:
        """The inputs (B, I) of a convolution in any order; None where they don't come apart."""
        rows, mean = self.gradients.get(f"{call.name}.weight"), output_mean(call, self.means, self.state)
        if rows is None or mean is None:
            return None
        weight = self.state.parameters[f"{call.name}.weight"]
        pairs = patch_pairs(call, rows, weight, mean, self.images)
        if pairs is None:
            return None
        # Any draws do; made anew for each layer, they leave the attack's own alone.
        draws = torch.Generator().manual_seed(0)
        try:
            found = separate_rectified(
                pairs.inputs, pairs.heights, self.images, draws, limits=OFF_BY_LITTLE
            ).inputs
        except Inseparable:
            return None
        return found if explains_mean(call, weight, mean, found) else None

    def made(self, call: ConvolutionCall, inputs: Tensor) -> Tensor:
        """What leaves BatchNorm behind a convolution with these inputs (B, I)."""
        return normalised_outputs(call, self.state, inputs, self._eps(call))

    def before(self, call: ConvolutionCall, behind: ConvolutionCall, inputs: Tensor) -> Tensor | None:
        """The inputs (B, I) of `call`, from those of the next one, where only BatchNorm and a ReLU lie between."""
        rows, name = self.gradients.get(f"{call.name}.weight"), f"{call.normalised}."
        if rows is None or call.outputs != behind.inputs or f"{name}running_var" not in self.state.buffers:
            return None
        after = inputs.double().view(-1, *call.outputs)
        on = (after > BATCH_LIMITS.zero * after.amax((1, 2, 3), keepdim=True)).double()
        scale, shift, mean, variance = (
            tensors[f"{name}{kind}"].detach().double().view(-1, 1, 1)
            for tensors, kind in (
                (self.state.parameters, "weight"),
                (self.state.parameters, "bias"),
                (self.state.buffers, "running_mean"),
                (self.state.buffers, "running_var"),
            )
        )
        wanted = (after - shift) / scale * (variance + self._eps(call)).sqrt() + mean
        bias = self.state.parameters.get(f"{call.name}.bias")
        if bias is not None:
            wanted = wanted - bias.detach().double().view(-1, 1, 1)
        weight = self.state.parameters[f"{call.name}.weight"]
        return in_front(call, rows, weight, wanted * on, on, self.images)

    def _eps(self, call: ConvolutionCall) -> float:
        layer = self.model.get_submodule(str(call.normalised))
        if not isinstance(layer, nn.BatchNorm2d):
            raise AssertionError("a convolution is followed by BatchNorm over its channels")
        return layer.eps


def batch_inputs(observation: Observation, model: nn.Module, *, enough: float) -> BatchInputs:
    """The inputs of the first convolutions that the signal determines for each image, `enough` for each pixel's number.

    Raises `InputError` where they are not determined: several steps or clients, known errors, withheld numbers, a
    network whose convolutions have more positions than output channels for the whole batch.
    """
    seen = SeenStatistics.of(observation, model)
    if seen is None or not couples_examples(model):
        raise InputError("the statistics of the batch are not seen")
    if observation.steps > 1 or observation.clients > 1 or seen.batches > 1:
        raise InputError("the statistics of several batches are seen as a mean alone")
    gradients, images = exact_gradients(observation), observation.examples
    network, state = seen.settled(model, observation.state, images, observation.model.shape)
    # The algebra is small, and some accelerators have no float64.
    cpu = torch.device("cpu")
    here, means = state.to(cpu), {name: value.cpu() for name, value in seen.mean.items()}
    calls = convolution_calls(network, here, observation.model.shape)
    rows = {name: value.cpu() for name, value in gradients.items()}
    reader = _Reader(network, here, calls, rows, means, images)
    apart = ((place, reader.separated(call)) for place, call in enumerate(calls))
    first, found = next(((place, inputs) for place, inputs in apart if inputs is not None), (0, None))
    if found is None:
        raise InputError(f"no convolution's gradient determines its inputs for {images} images")
    read = {calls[first].name: found}
    # In front: what a convolution hands on says which of several inputs that explain its gradient it was.
    for behind, call in pairwise(reversed(calls[: first + 1])):
        inputs = reader.before(call, behind, read[behind.name])
        if inputs is None:
            break
        read = {call.name: inputs}
    # Behind, where that is too little: in the order of what leads there, as long as it has that shape.
    wanted = enough * observation.model.shape.numbers
    for call, behind in pairwise(calls[first:]):
        if call.name not in read or sum(each.shape[1] for each in read.values()) >= wanted:
            break
        inputs = reader.separated(behind) if call.outputs == behind.inputs else None
        if inputs is None:
            break
        read[behind.name] = in_order(reader.made(call, read[call.name]).flatten(1), inputs.double())
    layers = tuple(call.name for call in calls if call.name in read)
    device = observation.state.parameters[f"{layers[0]}.weight"].device
    note = (
        f"the statistics of the batch and the row spaces of gradients tell the inputs of {', '.join(layers)} for each "
        f"of {images} images"
    )
    values = tuple(read[layer].float().to(device) for layer in layers)
    return BatchInputs(network, state, layers, values, note)


def labels_of(
    observation: Observation, known: BatchInputs, images: Tensor, generator: torch.Generator
) -> Tensor:
    """The label (B,) of each of images (B, 3, S, S): that of the features of the batch that its own are most like.

    The last layer's gradient tells the batch's features and errors apart, and an image's error is below 0 at its label
    alone. Where it does not, the batch's labels in any order.
    """
    gradients, draws = gradient_estimate(observation), torch.Generator().manual_seed(0)
    try:
        last = observed_head(known.model, observation).layers[-1]
        weight, bias = (gradients[f"{last}.{kind}"].cpu() for kind in ("weight", "bias"))
        found = separate_rectified(weight, bias, len(images), draws, limits=OFF_BY_LITTLE)
    except (InputError, Inseparable):
        labels = resolve_labels("auto", observation, known.model, len(images), generator)
        return images.new_zeros(len(images), dtype=torch.int64) if labels is None else labels
    with torch.no_grad():
        features = layer_inputs(known.model, known.state, (last,), images)[0].cpu()
    _, places = linear_sum_assignment(torch.cdist(features, found.inputs).numpy())
    return found.errors[torch.from_numpy(places)].argmin(1).to(images.device)
