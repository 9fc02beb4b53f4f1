"""Operations whose library forms lack a second derivative, computed from ones that have it; their numbers are the same.

Attention has fused kernels that can be differentiated once only, and so has the hard sigmoid of mobile networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_LIBRARIES = ("torch", "torchvision", "fl_core")
"""What is known of their layers: they have the images on the first axis, and call the hard sigmoid as a layer."""


@contextmanager
def twice_differentiable(model: nn.Module, *, replaced: bool | None = None) -> Iterator[None]:
    """While it lasts, what `model` computes can be differentiated twice.

    `replaced` is `needs_replacing` of it, where that is known.
    """
    replaced = needs_replacing(model) if replaced is None else replaced
    with sdpa_kernel(SDPBackend.MATH), _Replaced() if replaced else nullcontext():
        yield


def needs_replacing(model: nn.Module) -> bool:
    """Whether `model` may call a function of the table below; asking at every call costs time."""
    return not comes_from_libraries(model) or any(isinstance(m, nn.Hardsigmoid) for m in model.modules())


def comes_from_libraries(model: nn.Module) -> bool:
    """Whether every layer's class is of a library that is known."""
    return all(type(module).__module__.partition(".")[0] in _LIBRARIES for module in model.modules())


class _Replaced(TorchFunctionMode):
    """Calls of functions of the table, by anybody, are calls of what stands for them."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _SAME.get(function, function)(*args, **(kwargs or {}))


def _hard_sigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    found = functional.relu6(input + 3.0) / 6.0
    return input.copy_(found) if inplace else found


_SAME: Mapping[Any, Callable[..., Tensor]] = {functional.hardsigmoid: _hard_sigmoid}
