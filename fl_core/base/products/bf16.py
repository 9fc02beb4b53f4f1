"""Convolutions and matrix products of float32 tensors in bfloat16, on any device, while a context lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

_ATEN = torch.ops.aten
PRODUCTS = frozenset(
    {
        _ATEN.convolution.default,
        _ATEN.convolution_backward.default,
        _ATEN.mm.default,
        _ATEN.addmm.default,
        _ATEN.bmm.default,
        _ATEN.baddbmm.default,
        _ATEN.mv.default,
        _ATEN.addmv.default,
        _ATEN.dot.default,
    }
)
"""What layers, `matmul`, `einsum` and their derivatives end in. Operators that write into a given tensor, as those with
`out` do, are none of them."""


@contextmanager
def products_in_bfloat16(wanted: bool) -> Iterator[None]:
    """While it lasts, this thread's products of float32 tensors are rounded to bfloat16, or not where not `wanted`.

    Every float32 tensor that a convolution or a matrix product takes, a bias too, is rounded to bfloat16, and so is its
    result, which is handed on as float32. Derivatives of any order consist of such products. All else, and products
    of other kinds of numbers, stay as they are. The innermost of several contexts decides.
    """
    outer = [
        mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, _Rounded) and mode.active
    ]
    for mode in outer:
        mode.active = False
    try:
        with _Rounded() if wanted else nullcontext():
            yield
    finally:
        for mode in outer:
            mode.active = True


def products_are_rounded() -> bool:
    """Whether this thread's products are rounded to bfloat16 now."""
    return any(isinstance(mode, _Rounded) and mode.active for mode in _get_current_dispatch_mode_stack())


class _Rounded(TorchDispatchMode):
    """Below derivatives, so that these do not see how a product was computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library's
        self.active = True
        """Whether no context inside this one has another precision."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if self.active and torch.is_inference_mode_enabled():
            # Where nothing is recorded for derivatives, functions come whole, and are taken apart here.
            with self:
                parts = func.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        if not self.active or func not in PRODUCTS or not any(map(_is_float32, args)):
            return func(*args, **named)
        found = func(*(arg.bfloat16() if _is_float32(arg) else arg for arg in args), **named)
        # A derivative that is not asked for is None.
        return tuple(map(_whole, found)) if isinstance(found, tuple) else _whole(found)


def _is_float32(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _whole(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.float()
