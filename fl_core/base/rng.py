"""Randomness as an argument: one generator per role, derived from names instead of shared state.

There are two kinds, both reproducible and neither of them cryptographic.

`stream` is for what a defense draws for a client: noise, random rounding, signs, augmentations, codes. It has a key of
128 bits, so that no two of a simulation's draws are ever the same.

`generator` is torch's. On the CPU it takes 32 bits of a seed, whatever it is given: among 77,000 of them two are
the same as likely as not. It is for what repeats without harm: initial weights, an attack's random start, who takes
part, orders of a client's images, who drops out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    Random: TypeAlias = np.random.Generator
    """A `stream`."""


def __getattr__(name: str) -> object:
    """`Random`, which is NumPy's class and so loads it: settings name it in annotations alone."""
    if name != "Random":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np

    return np.random.Generator


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed that depends on every one of `parts` and on their order (SHA-256)."""
    return int.from_bytes(_digest(parts)[:8], "big") >> 1


def generator(*parts: str | int) -> torch.Generator:
    """A CPU generator seeded by `derive_seed(*parts)`, of which torch uses 32 bits.

    Always on the CPU, whatever the device of the work: draws are made there and moved, so that a seed
    means the same numbers on CUDA, MPS and CPU.
    """
    import torch

    return torch.Generator().manual_seed(derive_seed(*parts))


def drawn_generators(source: torch.Generator, count: int) -> list[torch.Generator]:
    """So many CPU generators, seeded by what `source` draws: what one of them draws depends on no other."""
    import torch

    seeds = torch.randint(2**62, (count,), generator=source).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def derive_key(*parts: str | int) -> int:
    """128 bits that depend on every one of `parts` and on their order (SHA-256)."""
    return int.from_bytes(_digest(parts)[:16], "big")


def stream(*parts: str | int) -> Random:
    """Philox (Salmon et al., SC 2011) under `derive_key(*parts)`, all of which it uses."""
    import numpy as np

    return np.random.Generator(np.random.Philox(key=derive_key(*parts)))


def normal(random: Random, shape: Sequence[int]) -> Tensor:
    """Standard normal float32 numbers on the CPU."""
    import numpy as np
    import torch

    return torch.from_numpy(random.standard_normal(tuple(shape), dtype=np.float32))


def uniform(random: Random, shape: Sequence[int]) -> Tensor:
    """Float32 numbers from [0, 1) on the CPU."""
    import numpy as np
    import torch

    return torch.from_numpy(random.random(tuple(shape), dtype=np.float32))


def _digest(parts: Sequence[str | int]) -> bytes:
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).digest()
