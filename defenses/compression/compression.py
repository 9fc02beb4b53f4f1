"""Compression as a defense: pruning, rounding at random, and signs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from defenses.mechanism.base import Mechanism, Stage
from fl_core.base.rng import uniform
from fl_core.base.types import ClientUpdate, InUnits, require
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Fact, Quantiser, Sparsity

if TYPE_CHECKING:
    from torch import Tensor

    from fl_core.base.rng import Random

_NUMBER = 4
"""Bytes of a float32 number, and of a position in the update."""


@dataclass(frozen=True, kw_only=True)
class Compressor(Mechanism):
    """Base of what sends less than the whole update.

    With `error_feedback` what is withheld, or rounded off, is added to the client's next update (Seide et al. 2014;
    Karimireddy et al. 2019).
    """

    stage: ClassVar[Stage] = "compress"
    error_feedback: bool = False

    @property
    def has_error_feedback(self) -> bool:
        """See `Mechanism.has_error_feedback`."""
        return self.error_feedback


@dataclass(frozen=True, kw_only=True)
class Prune(Compressor):
    """Withhold the numbers of least absolute value (Aji and Heafield 2017, arXiv:1704.05021; Zhu et al. 2019).

    Withheld is the share `ratio` of each tensor (`scope: tensor`) or of the whole update (`all`), or, where a
    `threshold` is given, whatever is below that absolute value instead. Sent are the survivors' values and
    either a bit for each number or the survivors' positions, whichever is shorter.
    """

    kind: Literal["prune"] = "prune"
    ratio: Annotated[float, InUnits("share")] = 0.9
    threshold: Annotated[float | None, InUnits("signal")] = None
    scope: Literal["all", "tensor"] = "all"

    def __post_init__(self) -> None:
        require(0 < self.ratio < 1, self, "ratio", "in (0, 1)")
        positive = self.threshold is None or (self.threshold > 0 and math.isfinite(self.threshold))
        require(positive, self, "threshold", "finite and more than 0")

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """Withhold; see `Mechanism.on_update`."""
        names = list(update.tensors)
        groups = [names] if self.scope == "all" else [[name] for name in names]
        kept: dict[str, Tensor] = {}
        for group in groups:
            least = self._least_kept([update.tensors[name] for name in group])
            kept |= {name: _at_least(update.tensors[name], least) for name in group}
        survivors = sum(int((tensor != 0).sum()) for tensor in kept.values())
        numbers = sum(tensor.numel() for tensor in kept.values())
        where = min(math.ceil(numbers / 8), _NUMBER * survivors)
        return dataclasses.replace(update, tensors=kept, bytes_up=_NUMBER * survivors + where)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Sparsity(scope="all" if self.threshold is not None else self.scope),)

    def _least_kept(self, tensors: list[Tensor]) -> float:
        """The smallest absolute value that is sent; at least one number of the group is."""
        if self.threshold is not None:
            return self.threshold

        import torch

        sizes = torch.cat([tensor.abs().flatten().cpu() for tensor in tensors]).nan_to_num(nan=torch.inf)
        count = min(max(1, round((1.0 - self.ratio) * len(sizes))), len(sizes))
        return float(sizes.topk(count, sorted=False).values.min()) if count else 0.0


@dataclass(frozen=True, kw_only=True)
class Quantise(Compressor):
    """Round every number at random to one of its two neighbours among 2^`bits` even steps (QSGD's idea).

    The steps span each tensor's [-m, m], m its largest absolute value; the rounding is right on average (Alistarh et
    al., NeurIPS 2017). With `bits` = 1 only +m and -m are left. Sent are `bits` for each number and m for each tensor.
    """

    kind: Literal["quantise"] = "quantise"
    bits: Annotated[int, InUnits("bits")] = 8

    def __post_init__(self) -> None:
        require(1 <= self.bits <= 16, self, "bits", "from 1 to 16")

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """Round; see `Mechanism.on_update`."""
        rounded = {name: self._rounded(tensor, random) for name, tensor in update.tensors.items()}
        return dataclasses.replace(update, tensors=rounded, bytes_up=packed_bytes(rounded, self.bits))

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Quantiser(scheme="stochastic", bits=self.bits),)

    def _rounded(self, tensor: Tensor, random: Random) -> Tensor:
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        if largest == 0.0 or not math.isfinite(largest):
            return tensor  # Nothing to round; a diverged update stays visibly so.
        steps = 2**self.bits - 1
        exact = (tensor.cpu() / largest + 1.0) * (steps / 2.0)
        level = (exact + uniform(random, exact.shape)).floor().clamp(0, steps)
        rounded: Tensor = (level * (2.0 / steps) - 1.0) * largest
        return rounded.to(tensor)


@dataclass(frozen=True, kw_only=True)
class SignOnly(Compressor):
    """Send each number's sign and each tensor's mean absolute value (signSGD, Bernstein et al. 2018, scaled).

    The sign of zero is sent as plus: one bit has no third value.
    """

    kind: Literal["sign"] = "sign"

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """Keep the signs; see `Mechanism.on_update`."""
        import torch

        signs = {
            name: torch.where(tensor >= 0, tensor.abs().mean(), -tensor.abs().mean())
            for name, tensor in update.tensors.items()
        }
        return dataclasses.replace(update, tensors=signs, bytes_up=packed_bytes(signs, 1))

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return (Quantiser(scheme="sign", bits=1),)


def packed_bytes(tensors: Mapping[str, Tensor], bits: int) -> int:
    """What numbers of `bits` bits, packed, and one float32 scale for each tensor take."""
    return sum(math.ceil(tensor.numel() * bits / 8) + _NUMBER for tensor in tensors.values())


def _at_least(tensor: Tensor, least: float) -> Tensor:
    """The tensor with 0 for what is less; NaN is not, and stays to be seen."""
    import torch

    return torch.where(tensor.abs() < least, torch.zeros_like(tensor), tensor)
