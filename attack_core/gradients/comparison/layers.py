"""Which parameters are matched, and how much each of them counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fl_core.base.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from fl_core.base.types import Tensors

LayerMode = Literal["uniform", "auto", "early", "early_linear", "early_strong", "early_conv"]


@dataclass(frozen=True, kw_only=True)
class LayerLimits:
    """Below which size a gradient counts as 0; set by what float32 holds, not by measurement."""

    least_norm: float = 1e-12
    """Norms below weigh nothing with the layer weights `auto`, which divide by the norm."""


LAYER_LIMITS = LayerLimits()
"""The limits in force."""


def choose(tensors: Tensors, *, indices: Sequence[int] | None, names: Sequence[str] | None) -> list[str]:
    """The parameters to match, in the model's order: by index, by substring of the name, or all.

    Given both, a parameter must satisfy both. Raises `InputError` for an index out of range, a substring that
    nothing contains, or an empty choice.
    """
    all_names = list(tensors)
    for index in indices or ():
        if not 0 <= index < len(all_names):
            raise InputError(
                f"Layer index {index} is out of range: the model has parameters 0 to {len(all_names) - 1}."
            )
    for part in names or ():
        if not any(part in name for name in all_names):
            raise unknown_name("layer name", part, all_names)
    chosen = [
        name
        for i, name in enumerate(all_names)
        if (indices is None or i in indices) and (names is None or any(part in name for part in names))
    ]
    if not chosen:
        raise InputError("The choice of layers by index and by name leaves no parameter to match.")
    return chosen


def layer_weights(tensors: Tensors, mode: LayerMode | tuple[float, ...]) -> dict[str, float]:
    """A weight for each parameter with mean 1, by mode or from explicit numbers in the model's order.

    With L parameters and index i: `auto` 1/norm of the observed tensor, 0 where it is 0; `early` exp(-0.08 i);
    `early_linear` max(1 - i/(L-1), 0.01); `early_strong` exp(-0.20 i); `early_conv` 3 for convolutions in the first
    half, 1.5 for later ones, 1.2 for anything else in the first half, 0.5 for the rest.
    """
    count = len(tensors)
    if isinstance(mode, tuple):
        if len(mode) != count or any(weight < 0 for weight in mode) or not any(mode):
            raise InputError(
                f"layer_weights has {len(mode)} numbers: must be {count}, one for each parameter, "
                "none negative, not all 0."
            )
        raw = list(mode)
    else:
        raw = [_raw_weight(mode, i, count, tensor) for i, tensor in enumerate(tensors.values())]
    # Where every tensor is 0, as where nothing was sent, all weigh nothing.
    mean = sum(raw) / count or 1.0
    return {name: weight / mean for name, weight in zip(tensors, raw, strict=True)}


def _raw_weight(mode: LayerMode, i: int, count: int, tensor: Tensor) -> float:
    early = i < count / 2
    match mode:
        case "uniform":
            return 1.0
        case "auto":
            from torch.linalg import vector_norm

            norm = float(vector_norm(tensor))
            return 1.0 / norm if norm > LAYER_LIMITS.least_norm else 0.0
        case "early":
            return math.exp(-0.08 * i)
        case "early_linear":
            return max(1.0 - i / max(count - 1, 1), 0.01)
        case "early_strong":
            return math.exp(-0.20 * i)
        case "early_conv":
            if tensor.dim() == 4:
                return 3.0 if early else 1.5
            return 1.2 if early else 0.5
