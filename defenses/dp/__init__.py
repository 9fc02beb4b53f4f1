"""Differential privacy: accounting, local, central and distributed noise, DP-SGD, an empirical audit."""

from __future__ import annotations

from defenses.dp.accounting import replaced_epsilon
from defenses.dp.central import DPCentral
from defenses.dp.distributed import DPDistributed
from defenses.dp.local import DPUpdate
from defenses.dp.sgd import DPSGD

__all__ = [
    "DPCentral",
    "DPDistributed",
    "DPSGD",
    "DPUpdate",
    "replaced_epsilon",
]
