"""Soteria: pruning of the representation that reveals the image (Sun et al., CVPR 2021, arXiv:2012.06043)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from defenses.mechanism.base import Mechanism, Stage
from fl_core.base.types import InUnits, ModelState, require
from fl_core.federation.client import Batch, GradientRule
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Fact, PrunedRepresentation

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class Soteria(Mechanism):
    """Zero the columns of a fully connected layer's weight gradient at the inputs that expose the image most.

    The layer's input r is the representation. Cutting its entry i moves the image that explains it by about
    |r_i| / ||dr_i/dx||. So the share `ratio` of entries whose ||dr_i/dx|| / |r_i|, summed over the batch, is smallest
    is cut from the layer's weight gradient; the rest of the gradient stays as it is. Entries that no pixel moves go
    first, as in the authors' code. `layer` is the first or the last fully connected one.

    The Jacobian's norms take one backward pass for each entry, 64 at a time; with `probes` they are estimated from so
    many random directions instead, right on average in their squares, at a relative error of about 1 / sqrt(2 probes).
    Where BatchNorm couples the images of a batch, an entry's norm counts what each image does to all.
    """

    stage: ClassVar[Stage] = "gradient"
    kind: Literal["soteria"] = "soteria"
    ratio: Annotated[float, InUnits("share")] = 0.8
    layer: Literal["first", "last"] = "first"
    probes: Annotated[int | None, InUnits("directions")] = None

    def __post_init__(self) -> None:
        require(0 < self.ratio < 1, self, "ratio", "in (0, 1)")
        few = self.probes is None or self.probes >= 1
        require(few, self, "probes", "at least 1, or null for the exact norms")

    def on_model(self, model: ModelConfig) -> ModelConfig:
        """See `Mechanism.on_model`; raises `InputError` for a network of the zoo without a layer that it can defend."""
        from defenses.compression.representation import defended_layer, representation
        from fl_core.models.build import build_model

        network = build_model(model)
        layer = defended_layer(network, self.layer)
        if model.kind != "own":
            # Networks of the user's own need not run without values; theirs is checked when it runs.
            nothing = ModelState(
                parameters=dict(network.named_parameters()), buffers=dict(network.named_buffers())
            )
            representation(network, nothing, layer, model.shape.empty(2, "meta"))
        return model

    def on_gradient(self, rule: GradientRule, random: Random, plan: FederationConfig) -> GradientRule:
        """Cut; see `Mechanism.on_gradient`. Raises `InputError` for a network without a fully connected layer."""
        import torch

        from defenses.compression.representation import defended_layer, kept, slopes

        def defended(model: nn.Module, state: ModelState, batch: Batch) -> dict[str, Tensor]:
            layer = defended_layer(model, self.layer)
            found = slopes(model, state, layer, batch[0], probes=self.probes, random=random)
            gradients = rule(model, state, batch)
            name = f"{layer}.weight"
            return gradients | {name: torch.where(kept(found, self.ratio), gradients[name], 0.0)}

        return defended

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (PrunedRepresentation(layer=self.layer),)
