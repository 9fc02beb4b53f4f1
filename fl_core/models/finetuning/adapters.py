"""Low-rank adaptation (LoRA, Hu et al. 2022, arXiv:2106.09685): linear layers stay, and a small product is trained."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn import functional

from fl_core.base.errors import InputError, hint, listed
from fl_core.models.finetuning.low_rank import LowRankConfig


class LowRankLinear(nn.Module):
    """A linear layer, whose `weight` and `bias` keep their names, and its adapter; inputs (..., I) to (..., O)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, config: LowRankConfig) -> None:
        super().__init__()
        self.weight = layer.weight
        self.register_parameter("bias", layer.bias)
        self.down = nn.Linear(layer.in_features, config.rank, bias=False)
        self.up = nn.Linear(config.rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)
        self.scale = config.alpha / config.rank

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        adapted: Tensor = self.up(self.down(inputs))
        return functional.linear(inputs, self.weight, self.bias) + self.scale * adapted


def adapt(model: nn.Module, config: LowRankConfig) -> nn.Module:
    """`model` with adapters at the layers that `config` names; it is changed in place.

    Raises `InputError` for a name that fits no linear layer.
    """
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    for name in fitting(config.layers, linear, where="model.lora.layers", what="linear layer"):
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, LowRankLinear(linear[name], config))
    return model


def fitting(patterns: Collection[str], names: Collection[str], *, where: str, what: str) -> list[str]:
    """Those of `names` that one of the `patterns` fits, in their order.

    Raises `InputError`, which begins with the setting `where`, for a pattern that fits none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"{where}: {pattern!r} fits no {what} of the network.{hint(pattern, names)} It has "
                f"{listed(names) if names else 'none'}."
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def adapters(model: nn.Module) -> list[str]:
    """The dotted names of the adapted layers."""
    return [name for name, module in model.named_modules() if isinstance(module, LowRankLinear)]
