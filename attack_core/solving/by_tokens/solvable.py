"""Which layer of a transformer tells its tokens' patches, or why none does."""

from __future__ import annotations

from torch import nn

from attack_core.signal.labels import last_matrix
from attack_core.signal.signal_model import rounds_fairly, sends_signs, withholds
from attack_core.tokens.embedding import PatchEmbedding, find_embedding
from attack_core.tokens.spanning_layer import SpanningLayer, find_spanning
from fl_core.base.errors import InputError
from fl_core.threat.observation import Observation


def solvable_tokens(observation: Observation, model: nn.Module) -> PatchEmbedding | SpanningLayer:
    """The network's patch embedding, or another layer, where this observation determines the patches of it.

    Raises `InputError` where the network has neither, and for several images, withheld numbers and signs.
    """
    if observation.examples > 1:
        raise InputError(f"the errors of the tokens of {observation.examples} images are known as a sum only")
    shape = observation.model.shape
    found: PatchEmbedding | SpanningLayer
    try:
        found = find_embedding(model, observation.state, shape)
        read = [found.weight, found.positions]
    except InputError as reason:
        try:
            found = find_spanning(model, observation.state, shape)
        except InputError as other:
            raise InputError(f"{str(reason).removesuffix('.')}; {other}") from other
        if observation.steps > 1 and found.moves(model, observation.state, shape):
            raise InputError(f"layers in front of {found.name!r} move from step to step") from reason
        read = [found.weight]
    for name in read:
        if withholds(observation, name):
            raise InputError(f"numbers of {name} were withheld")
    if sends_signs(observation) and not rounds_fairly(observation):
        raise InputError("signs of numbers tell nothing of their sizes")
    return found


def sends_nothing_down(observation: Observation, model: nn.Module) -> str | None:
    """Why no image can be read off a transformer's signal; None where its first layer has a gradient.

    A last layer of zeros, as torchvision starts transformers with, hands no error back to the layers in front.
    """
    if not any(not bool(value.any()) for value in observation.tensors.values()):
        return None
    try:
        embedding = find_embedding(model, observation.state, observation.model.shape)
    except InputError:
        return None
    if bool(observation.tensors[embedding.weight].any()):
        return None
    last = last_matrix(observation)
    return (
        f"the gradient of {embedding.weight} is 0: the last layer's weights are 0, as torchvision starts transformers, "
        "so it hands no error back to the layers that see the picture; train first, or give the head other weights"
        if last is None or not bool(observation.state.parameters[last].any())
        else f"the gradient of {embedding.weight} is 0: no error reaches the layers that see the picture"
    )
