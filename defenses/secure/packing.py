"""From named tensors to one flat vector and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.secure.fixed_point import Reals
from fl_core.base.types import Tensors


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each named tensor lies in one flat vector, in the order of the mapping it was made from."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, tensors: Tensors) -> Layout:
        """The layout of `tensors`."""
        return cls(
            names=tuple(tensors),
            shapes=tuple(tuple(value.shape) for value in tensors.values()),
            dtypes=tuple(value.dtype for value in tensors.values()),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """The number of values of all tensors."""
        return sum(self.sizes)

    def flatten(self, tensors: Tensors) -> NDArray[np.floating]:
        """All values in one vector: float32 where every tensor is, else float64.

        Raises `ValueError` where names or shapes are others than the layout's.
        """
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        wanted = dict(zip(self.names, self.shapes, strict=True))
        if found != wanted:
            odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            raise ValueError(f"Tensors differ from the layout in {', '.join(odd)}.")
        single = all(dtype == torch.float32 for dtype in self.dtypes)
        kind = torch.float32 if single else torch.float64
        parts = [tensors[name].detach().cpu().reshape(-1).to(kind) for name in self.names]
        flat: NDArray[np.floating] = torch.cat(parts).numpy() if parts else np.zeros(0)
        return flat

    def restore(self, values: Reals) -> dict[str, torch.Tensor]:
        """Tensors from one vector, on the CPU: in their own dtype, those of whole numbers as float32."""
        tensors, start = {}, 0
        for name, shape, dtype, size in zip(self.names, self.shapes, self.dtypes, self.sizes, strict=True):
            kind = dtype if dtype.is_floating_point else torch.float32
            tensors[name] = torch.from_numpy(values[start : start + size]).to(kind).reshape(shape).clone()
            start += size
        return tensors

    def place(self, index: int) -> str:
        """The tensor and the position in it of the flat vector's value `index`, for messages."""
        for name, size in zip(self.names, self.sizes, strict=True):
            if index < size:
                return f"{name}[{index}]"
            index -= size
        raise IndexError(index)
