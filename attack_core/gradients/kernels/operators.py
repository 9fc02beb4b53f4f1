"""Our kernels as operators, of which what traces a program sees one, and not what it consists of."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_core.base.products.bf16 import products_are_rounded

OPERATORS = torch.library.Library("gradsweep", "DEF")
"""Operators of the name `gradsweep`. Not `torch.library.custom_op`: its first call loads a compiler (1.2 CPU-s)."""


def are_for(tensor: Tensor) -> bool:
    """Whether they may compute of this tensor: on a CPU, in float32, and where no products are to be rounded.

    What rounds products sees the operator alone, and not the products in it.
    """
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and not products_are_rounded()
