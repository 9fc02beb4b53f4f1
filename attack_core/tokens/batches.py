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

from attack_core.base.probes import sent_back
from attack_core.gradients.operations import twice_differentiable
from attack_core.tokens.embedding import PatchEmbedding
from fl_core.base.decibels import TINY
from fl_core.base.types import ModelState
from fl_core.models.forward import predict


@dataclass(frozen=True, kw_only=True)
class SlopeLimits:
    """How steep the errors are in each patch. Neither field was measured against other values."""

    probes: int = 8
    """How many times noise in the errors' place is sent backwards."""
    floor: float = 1e-2
    """Patches below this share of the steepest count as this share. Of four pictures the least was at 0.03."""


SLOPE_LIMITS = SlopeLimits()
"""The limits in force."""


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
        found, features = self._seen(images)
        with torch.enable_grad():
            missed = _relative(features, self.features)
            for rows in self._parts():
                missed = missed + _relative(found[rows], self.errors[rows])
        return missed

    def slopes(
        self, images: Tensor, generator: torch.Generator, limits: SlopeLimits = SLOPE_LIMITS
    ) -> Tensor:
        """How steeply the patches' errors change with each pixel, (B, C, H, W), relative to the steepest patch.

        LayerNorm divides by a token's size, so patches of strong contrast move errors tens of times less than faint
        ones. All pixels of a patch have one value.
        """

        def errors(point: Tensor) -> Tensor:
            return self._seen(point)[0][self._parts()[0]]

        power = torch.zeros_like(images)
        for back in sent_back(errors, images, limits.probes, generator):
            power += back.square()
        zero = torch.zeros_like(images[0])
        means = [self.embedding.patches_of(each).mean(1, keepdim=True) for each in power]
        steep = torch.stack(
            [
                self.embedding.picture_of(mean.expand(self.embedding.pixels.shape), zero + mean.mean())
                for mean in means
            ]
        ).sqrt()
        return (steep / steep.max().clamp_min(TINY)).clamp_min(limits.floor)

    def _seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The positions' gradient (R, D) and the head's inputs (B, I) of images, both differentiable."""
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
        return gradient.reshape(-1, gradient.shape[-1]), seen[0]

    def _parts(self) -> list[Tensor]:
        """The rows of patches, and those of other tokens."""
        rows = torch.arange(len(self.errors), device=self.errors.device)
        first = self.embedding.first
        of_patches = (rows >= first) & (rows < first + self.embedding.tokens)
        return [part for part in (rows[of_patches], rows[~of_patches]) if len(part)]


def _relative(found: Tensor, known: Tensor) -> Tensor:
    return (found - known).square().sum() / known.square().sum().clamp_min(TINY)
