"""What an attacker may know of a defense: facts about the numbers in a released signal.

A fact says by itself what it means for these numbers: which of them are known, how far off they are, at what scale. An
attack asks the facts of an observation and need not know which there are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from fl_core.base.types import EarlierUpdate, ModelState, Signal, Tensors
from fl_core.data.augmentation.transforms import Transform
from fl_core.threat.model import View

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Likelihood = Literal["exact", "gaussian", "signs"]
"""How the numbers that are known are off.

- `exact`: not at all.
- `gaussian`: by independent errors of a known variance, or by errors that are taken for such.
- `signs`: of each number the sign is known, and for a whole tensor one size.
"""

Withheld = Literal["nothing", "smallest", "part", "columns"]
"""Which numbers of a signal are 0 because they were not sent.

- `nothing`: a 0 is a 0.
- `smallest`: all but the largest, so that the smallest that was sent bounds the others.
- `part`: some that were encrypted, which nothing bounds.
- `columns`: columns of one layer's weight, which nothing bounds.
"""


class Seen(Protocol):
    """The part of an observation that facts speak of; see `fl_core.threat.observation.Observation`."""

    @property
    def signal(self) -> Signal:
        """Which signal it is."""

    @property
    def state(self) -> ModelState:
        """The weights that it was computed at."""

    @property
    def tensors(self) -> Tensors:
        """Its numbers, by parameter name."""

    @property
    def clients(self) -> int:
        """Of how many clients it is the mean."""

    @property
    def steps(self) -> int:
        """How many local steps each took."""

    @property
    def lr(self) -> float:
        """Their learning rate."""

    @property
    def momentum(self) -> float:
        """Their momentum."""

    @property
    def earlier(self) -> tuple[EarlierUpdate, ...]:
        """What was seen of the client before."""

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All that is known of the defense."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Base of every fact: it owns its tensors, and by default says nothing of a signal's numbers."""

    withheld: ClassVar[Withheld] = "nothing"
    """Which numbers were not sent."""
    rescales: ClassVar[Literal["nothing", "update", "examples"]] = "nothing"
    """What may have been scaled down by a factor that nobody is told: the update, or each image's part of it."""
    mixes_labels: ClassVar[bool] = False
    """Whether images were trained on with mixtures of labels, so that a label is a vector of probabilities."""

    @property
    def likelihood(self) -> Likelihood:
        """How the numbers that are known are off."""
        return "exact"

    @property
    def unbiased(self) -> bool:
        """Whether the numbers are right on average."""
        return True

    def to(self, device: torch.device) -> Self:
        """The same with every tensor on `device`."""
        moved = {field.name: _moved(getattr(self, field.name), device) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **moved)

    def seen_as(self, view: View, share: float) -> Fact | None:  # noqa: ARG002
        """What it says of the signal that `view` has of a round, `share` of it; None where it is not about that."""
        return self

    def withholds(self, seen: Seen, name: str) -> bool:  # noqa: ARG002
        """Whether numbers of parameter `name` that are 0 in the signal may have been something else."""
        return self.withheld in ("smallest", "part")

    def known(self, seen: Seen) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Masks of the numbers that are what they were, for each parameter of which some are not; {} for none."""
        return {}

    def ceiling(self, seen: Seen, name: str) -> float:  # noqa: ARG002
        """What the absolute value of a withheld number of parameter `name` is at most; infinite without a bound."""
        return math.inf

    def variance(self, seen: Seen, values: Tensor, unit: float) -> float:  # noqa: ARG002
        """The variance of the error on `values`: a parameter's numbers, of which one in the signal makes `unit`."""
        return 0.0


def _moved(value: Any, device: torch.device) -> Any:
    """A field's value with its tensors on `device`."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(each, device) for name, each in value.items()}
    return value


@dataclass(frozen=True, kw_only=True)
class Clip(Fact):
    """Each update was scaled to at most this L2 norm (over all tensors, in units of the released signal)."""

    rescales: ClassVar[Literal["nothing", "update", "examples"]] = "update"
    max_norm: float


@dataclass(frozen=True, kw_only=True)
class Noise(Fact):
    """Independent noise of this standard deviation was added to every released number."""

    distribution: Literal["gaussian", "laplace"]
    sigma: float

    @property
    def likelihood(self) -> Likelihood:
        """See `Fact`; Laplace noise is taken for Gaussian noise of its variance."""
        return "gaussian"

    def variance(self, seen: Seen, values: Tensor, unit: float) -> float:  # noqa: ARG002
        """See `Fact`; each client's noise is its own, so that their mean has less."""
        return self.sigma**2 * unit**2 / seen.clients


@dataclass(frozen=True, kw_only=True)
class MeanNoise(Fact):
    """Independent Gaussian noise of this standard deviation was added to every number of the mean of a round's updates.

    The server adds it, so that it is in what becomes public and not in what the server itself has seen.
    """

    sigma: float

    @property
    def likelihood(self) -> Likelihood:
        """See `Fact`."""
        return "gaussian"

    def seen_as(self, view: View, share: float) -> Fact | None:
        """See `Fact`: of a part of the mean, which the rest was taken out of, the noise is the larger."""
        return dataclasses.replace(self, sigma=self.sigma / share) if view == "public" else None

    def variance(self, seen: Seen, values: Tensor, unit: float) -> float:  # noqa: ARG002
        """See `Fact`."""
        return self.sigma**2 * unit**2


@dataclass(frozen=True, kw_only=True)
class ExampleClip(Fact):
    """At each local step every example's gradient was scaled to at most this L2 norm before they were averaged."""

    rescales: ClassVar[Literal["nothing", "update", "examples"]] = "examples"
    max_norm: float


@dataclass(frozen=True, kw_only=True)
class StepNoise(Fact):
    """Independent Gaussian noise of this standard deviation was added to every number of each local step's gradient."""

    sigma: float

    @property
    def likelihood(self) -> Likelihood:
        """See `Fact`."""
        return "gaussian"

    def variance(self, seen: Seen, values: Tensor, unit: float) -> float:  # noqa: ARG002
        """See `Fact`."""
        if seen.signal == "gradients":
            return self.sigma**2
        moved = self.in_delta(lr=seen.lr, momentum=seen.momentum, steps=seen.steps)
        return moved**2 * unit**2 / seen.clients

    def in_delta(self, *, lr: float, momentum: float, steps: int) -> float:
        """The standard deviation of what it adds to a weight delta of so many steps from zero momentum.

        The noise of the k-th step from the end moves the weights by lr (1 + m + ... + m^(k-1)) of itself. What it does
        to the gradients of later steps is not in it.
        """
        carried = (sum(momentum**i for i in range(k)) for k in range(1, steps + 1))
        return lr * self.sigma * math.sqrt(sum(factor**2 for factor in carried))


@dataclass(frozen=True, kw_only=True)
class Sparsity(Fact):
    """Only some numbers of each update were sent: those that are 0 in it were withheld.

    A withheld number is at most as large, in absolute value, as the smallest that was sent: of its tensor where
    `scope` is `tensor`, of the whole update where it is `all`.
    """

    withheld: ClassVar[Withheld] = "smallest"
    scope: Literal["all", "tensor"]

    def known(self, seen: Seen) -> Mapping[str, Tensor]:
        """See `Fact`; a number of several clients' mean may lack some clients' parts, and nothing tells which."""
        if seen.clients > 1:
            return {}
        return {name: seen.tensors[name] != 0 for name in seen.state.parameters}

    def ceiling(self, seen: Seen, name: str) -> float:
        """See `Fact`."""
        group = [seen.tensors[name]] if self.scope == "tensor" else list(seen.tensors.values())
        sent = [tensor[tensor != 0].abs() for tensor in group]
        return min((float(values.min()) for values in sent if len(values)), default=math.inf)


@dataclass(frozen=True, kw_only=True)
class Quantiser(Fact):
    """Every number was rounded to one of 2^`bits` values, evenly spread over its tensor's [-m, m].

    m is the largest absolute value of the tensor and is sent too, so that the values can be told from the signal.
    With `scheme` `stochastic` the rounding goes up or down at random and is right on average; with `sign` the one bit
    is the sign, and m the tensor's mean absolute value.
    """

    scheme: Literal["stochastic", "sign"]
    bits: int

    @property
    def likelihood(self) -> Likelihood:
        """See `Fact`."""
        return "signs" if self.bits == 1 else "gaussian"

    @property
    def unbiased(self) -> bool:
        """See `Fact`: random rounding is, the sign of a number is not."""
        return self.scheme == "stochastic"

    def variance(self, seen: Seen, values: Tensor, unit: float) -> float:  # noqa: ARG002
        """See `Fact`; each client's rounding is its own, so that their mean has less.

        Random rounding between steps of d has d^2 / 6 where values lie anywhere between two steps; with one bit it has
        nearly the square of the largest value itself.
        """
        largest = float(values.abs().max())
        if self.bits == 1:
            return largest * largest / seen.clients
        step = 2.0 * largest / float(2**self.bits - 1)
        return step * step / 6.0 / seen.clients


@dataclass(frozen=True, kw_only=True)
class PrunedRepresentation(Fact):
    """In each local step some columns of one fully connected layer's weight gradient were replaced by 0.

    They belong to the layer's inputs that were cut; which ones is not told. `layer` says which of the network's
    fully connected layers it is.
    """

    withheld: ClassVar[Withheld] = "columns"
    layer: Literal["first", "last"]

    def withholds(self, seen: Seen, name: str) -> bool:
        """See `Fact`."""
        return name == self._weight(seen)

    def known(self, seen: Seen) -> Mapping[str, Tensor]:
        """See `Fact`: where a column is not 0, if zeros are seen as such.

        Several clients or steps have different columns cut, momentum of earlier rounds and errors cover them; then none
        of the weight's numbers is relied on (matching without the defended layer: Balunovic et al., ICLR 2022).
        """
        import torch

        name = self._weight(seen)
        if name is None:
            return {}
        weight = seen.tensors[name]
        covered = any(fact.likelihood != "exact" for fact in seen.facts)
        if seen.clients > 1 or seen.steps > 1 or seen.earlier or covered:
            return {name: torch.zeros_like(weight, dtype=torch.bool)}
        return {name: (weight != 0).any(dim=0).expand_as(weight)}

    def _weight(self, seen: Seen) -> str | None:
        """The name of the weight; None for a network without fully connected layers."""
        layers = [name for name, value in seen.state.parameters.items() if value.dim() == 2]
        return layers[0 if self.layer == "first" else -1] if layers else None


@dataclass(frozen=True, kw_only=True, eq=False)
class InTheClear(Fact):
    """Only some numbers of the update reached the server as numbers, the rest encrypted, which the signal has as 0.

    `masks` says which, by parameter name: True where a number is what it was. Nothing bounds the others.
    """

    withheld: ClassVar[Withheld] = "part"
    masks: Tensors

    def known(self, seen: Seen) -> Mapping[str, Tensor]:  # noqa: ARG002
        """See `Fact`."""
        return self.masks


@dataclass(frozen=True, kw_only=True)
class RandomCode(Fact):
    """The network's bottleneck drew its code anew for each image, and `beta` times its divergence is in the loss."""

    beta: float


@dataclass(frozen=True, kw_only=True)
class Mixture(Fact):
    """Each image of a local batch was mixed with the next one of a random circle, and labels likewise.

    A batch has one share, from Beta(`alpha`, `alpha`).
    """

    mixes_labels: ClassVar[bool] = True
    alpha: float


@dataclass(frozen=True, kw_only=True)
class HiddenMixture(Fact):
    """Each image of a local batch was mixed with `images` - 1 others of it; then each number's sign was drawn anew."""

    mixes_labels: ClassVar[bool] = True
    images: int


@dataclass(frozen=True, kw_only=True)
class Augmented(Fact):
    """Each image was changed by the transforms of `policy`, each with a draw of its own, before it was trained on."""

    policy: tuple[Transform, ...]
