"""Randomness as an argument: one generator per role, derived from names instead of shared state."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed that depends on every one of `parts` and on their order (SHA-256)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`.

    Always on the CPU, whatever the device of the work: draws are made there and moved, so that a seed
    means the same numbers on CUDA, MPS and CPU.
    """
    return torch.Generator().manual_seed(derive_seed(*parts))
