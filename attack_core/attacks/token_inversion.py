"""The attack on transformers: one image's patches by linear equations, without a search.

The gradient of a learned position embedding is every token's error, and the patch embedding's gradient is linear in the
patches (`attack_core.tokens.equations`). Both hold for a weight delta over any number of local steps on one image too,
since each step adds its errors times the same patches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from attack_core.attacks.analytic import relative
from attack_core.attacks.falls_back import FallsBack
from attack_core.base.types import Progress, Reconstruction
from attack_core.evidence.likelihood_ratio import prior_answer
from attack_core.fc.layer_inputs import magnitude
from attack_core.gradients.objectives import squared_distance_of
from attack_core.gradients.targets import check_observation, gradient_estimate
from attack_core.matching.matching import Matching
from attack_core.signal.labels import single_label
from attack_core.signal.signal_model import (
    deviations,
    matched_numbers,
    rounds_fairly,
    sends_signs,
    withholds,
)
from attack_core.tokens.embedding import PatchEmbedding, find_embedding
from attack_core.tokens.equations import TokenEquations
from fl_core.base.errors import InputError
from fl_core.federation.client import loss_gradient
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class TokenInversion(FallsBack):
    """One image's patches by least squares; `fallback` runs where that does not apply, and the notes say why."""

    kind: Literal["tokens"] = "tokens"
    fallback: Matching = field(default_factory=Matching)

    def cost(self, images: int) -> float:  # noqa: ARG002 - the equations are of one image
        """See `Attack.cost`; that it need not fall back is assumed: one pass to check the network, one for the loss."""
        return 1.0

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
            embedding = solvable_embedding(observation, model)
        except InputError as reason:
            return self._matched_instead(reason, observation, model, generator, progress)
        return solve_tokens(embedding, observation, model)


def solvable_embedding(observation: Observation, model: nn.Module) -> PatchEmbedding:
    """The network's patch embedding, where this observation determines the patches of it.

    Raises `InputError` where the network has none, and for several images, withheld numbers and signs.
    """
    if observation.examples > 1:
        raise InputError(f"the errors of the tokens of {observation.examples} images are known as a sum only")
    embedding = find_embedding(model, observation.state, observation.model.shape)
    for name in (embedding.weight, embedding.positions):
        if withholds(observation, name):
            raise InputError(f"numbers of {name} were withheld")
    if sends_signs(observation) and not rounds_fairly(observation):
        raise InputError("signs of numbers tell nothing of their sizes")
    return embedding


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
    return (
        f"the gradient of {embedding.weight} is 0: the last layer's weights are 0, as torchvision starts transformers, "
        "so it hands no error back to the layers that see the picture; train first, or give the head other weights"
        if not any(bool(value.any()) for value in _last_matrix(observation))
        else f"the gradient of {embedding.weight} is 0: no error reaches the layers that see the picture"
    )


def _last_matrix(observation: Observation) -> list[Tensor]:
    """The weights that the logits come from, as far as shapes tell: the last matrix with a row for each class."""
    matrices = [
        value
        for value in observation.state.parameters.values()
        if value.dim() == 2 and len(value) == observation.model.outputs
    ]
    return matrices[-1:]


def solve_tokens(embedding: PatchEmbedding, observation: Observation, model: nn.Module) -> Reconstruction:
    """The answer to an observation of which `solvable_embedding` gave `embedding`."""
    gradients = gradient_estimate(observation)
    labels = single_label(observation)
    weight, positions = gradients[embedding.weight], gradients[embedding.positions]
    if not (bool(weight.any()) and bool(positions.any())):
        return prior_answer(observation, labels, f"tokens: the gradient of {embedding.positions} is 0")
    known = deviations(observation, gradients)
    equations = TokenEquations(
        embedding=embedding,
        errors=embedding.errors_of(positions),
        weight=weight.flatten(1),
        error_sigma=known[embedding.positions],
        weight_sigma=known[embedding.weight],
    )
    mean = observation.public_mean
    if mean is None:
        mean = torch.zeros(observation.model.shape.size, device=weight.device)
    solved = equations.solve(mean)
    images = solved.picture.to(weight.device)[None].clamp(-1.0, 1.0)
    matched = matched_numbers(observation, gradients, dict.fromkeys(gradients, 1.0))
    own = loss_gradient(model, observation.state, (images, labels))
    loss = relative(squared_distance_of(matched, own), matched)
    images = images.cpu()
    noise = equations.error_sigma > 0 or equations.weight_sigma > 0
    note = (
        f"{embedding.tokens} patches from the gradients of {embedding.weight} and {embedding.positions}, "
        f"of which {solved.determined} directions follow from the equations"
        + (", known noise" if noise else f", residual below {magnitude(solved.residual)}")
    )
    return Reconstruction(
        images=images,
        labels=labels.cpu(),
        loss=loss,
        candidates=images[None],
        history=torch.tensor([[loss]]),
        iterations=1,
        failed=0,
        method="tokens: least squares",
        outcome="analytic",
        notes=(note,),
        work=0.0,
        certificates=(solved.certificate,),
    )
