"""Our kernels as operators, of which what traces a program sees one, and not what it consists of."""

import torch

OPERATORS = torch.library.Library("gradsweep", "DEF")
"""Operators of the name `gradsweep`. Not `torch.library.custom_op`: its first call loads a compiler (1.2 CPU-s)."""
