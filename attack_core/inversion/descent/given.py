"""What a descent is given: how badly images explain the data, how unlikely they are, and a metric to move by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from attack_core.inversion.descent.metric import Metric

Mismatch: TypeAlias = "Callable[[Tensor], Tensor]"
"""From images (B, 3, S, S) to how badly they explain the data, relative to the data's own square, ()."""
EachMismatch: TypeAlias = "Callable[[Tensor, Sequence[int]], Tensor]"
"""From images (n, 3, S, S) and which of the problems each is for to how badly each explains its own data, (n,)."""
Penalty: TypeAlias = "Callable[[Tensor], Tensor]"
"""From images (n, 3, S, S) to how unlikely each is, (n,)."""
Measure: TypeAlias = "Callable[[Tensor, int], Metric]"
"""From images (B, 3, S, S), and how many evaluations follow, to the metric that suits the data there."""
