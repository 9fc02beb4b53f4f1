"""A batch's pictures from the gradient of a transformer's positions: the sum of the images' errors at each token.

The sum says, for each place in the picture, as many numbers as a token has about the B patches that lie there: how an
error depends on its own patch is about as steep in all directions. So a descent finds the pictures whose errors add
up to it (a whole gradient is no such objective: what all tokens share outweighs it a hundredfold). The class token's
errors are larger than those of patches and are counted by themselves. What of one image alone is known, its features
at the head, is counted too.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from attack_core.gradients.operations import twice_differentiable
from attack_core.tokens.embedding import PatchEmbedding
from fl_core.base.decibels import TINY
from fl_core.base.types import ModelState
from fl_core.models.forward import predict


@dataclass(frozen=True, kw_only=True)
class BatchTokens:
    """What a batch of pictures has to explain: the positions' gradient `errors` (R, D), and `features` (B, I).

    `features` are the inputs of layer `head`, in the order of `labels` (B,).
    """

    model: nn.Module
    state: ModelState
    embedding: PatchEmbedding
    errors: Tensor
    labels: Tensor
    head: str
    features: Tensor

    def mismatch(self, images: Tensor) -> Tensor:
        """The relative squared distances from what is known, summed, of images (B, C, H, W), ()."""
        seen: list[Tensor] = []
        name = self.embedding.positions
        positions = self.state.parameters[name].detach().requires_grad_(True)
        state = replace(self.state, parameters={**self.state.parameters, name: positions})
        with ExitStack() as during:
            during.enter_context(torch.enable_grad())
            during.enter_context(twice_differentiable(self.model))
            hook = self.model.get_submodule(self.head).register_forward_pre_hook(
                lambda module, inputs: seen.append(inputs[0])  # noqa: ARG005 - a hook's signature
            )
            during.callback(hook.remove)
            logits = predict(self.model, state, images)
            loss = functional.cross_entropy(logits, self.labels)
            (gradient,) = torch.autograd.grad(loss, positions, create_graph=True)
            found = gradient.reshape(-1, gradient.shape[-1])
            missed = _relative(seen[0], self.features)
            for rows in self._parts():
                missed = missed + _relative(found[rows], self.errors[rows])
        return missed

    def _parts(self) -> list[Tensor]:
        """The rows of patches, and those of other tokens."""
        rows = torch.arange(len(self.errors), device=self.errors.device)
        first = self.embedding.first
        of_patches = (rows >= first) & (rows < first + self.embedding.tokens)
        return [part for part in (rows[of_patches], rows[~of_patches]) if len(part)]


def _relative(found: Tensor, known: Tensor) -> Tensor:
    return (found - known).square().sum() / known.square().sum().clamp_min(TINY)
