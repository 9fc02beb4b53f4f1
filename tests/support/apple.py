"""A stand-in for an Apple GPU, so that code can be shown to run on one without one.

Tensors that are moved to `mps` become `OnDevice`: the dispatcher and autograd take them for MPS tensors, so every
operator arrives as it would there, backward and double backward too. The numbers lie on the CPU and so are computed by
its kernels. What an Apple GPU refuses is refused: operators that PyTorch's own list (`native_functions.yaml`, which its
wheel ships) gives no kernel for, float64, and operands on two devices. Whether Apple's kernels compute rightly, and how
fast, it cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # The first optimizer imports it, and it looks at functions that are patched here.
import torchgen
from ruamel.yaml import YAML
from torch import Tensor
from torch._C import DispatchKey
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

MPS = torch.device("mps", 0)

HANDED_OVER = {
    "convolution": "_mps_convolution",
    "convolution_backward": "mps_convolution_backward",
    "copy_": "_copy_from",
    "_to_copy": "_copy_from",
    "median.dim": "median.dim_values",
    "arange.start_step": "arange.start_out",
    "arange": "arange.start_out",
}
"""Operators whose one kernel for all devices picks another operator's by the device of its tensors."""
SHAPES = {"_unsafe_view"}
"""Operators that make another tensor of the same numbers, as views do, and are not marked as views."""
COMPOSITE = (DispatchKey.CompositeExplicitAutograd, DispatchKey.CompositeExplicitAutogradNonFunctional)


_TOO_LONG = (torch.float64, torch.complex128)


class NotOnMPS(AssertionError):
    """The code asked for something that an Apple GPU does not do."""


@dataclass(frozen=True)
class Kernels:
    """For each ATen operator (with its overload) what implements it, and whose kernel it borrows."""

    keys: Mapping[str, frozenset[str]]
    delegates: Mapping[str, str]

    def on_mps(self, name: str) -> bool:
        """Whether `name`, or what it delegates to, has a kernel of its own for MPS."""
        name = HANDED_OVER.get(name, name)
        return "MPS" in self.keys[self.delegates.get(name, name)]

    def composite(self, name: str) -> bool:
        """Whether `name` is made of other operators on devices without a kernel of their own."""
        # An operator without any entry is composite by default.
        own = self.keys[name]
        return name not in self.delegates and (not own or any(key.startswith("Composite") for key in own))


@lru_cache(maxsize=1)
def kernels() -> Kernels:
    """Those of the installed PyTorch."""
    path = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    keys, delegates = {}, {}
    for entry in YAML(typ="safe").load(path):
        name = entry["func"].partition("(")[0]
        keys[name] = frozenset(
            key.strip() for listed in entry.get("dispatch", {}) for key in listed.split(",")
        )
        if "structured_delegate" in entry:
            delegates[name] = entry["structured_delegate"]
    return Kernels(keys, delegates)


class OnDevice(torch.Tensor):
    """A tensor that is on MPS as far as anybody can see; `held` has its numbers, on the CPU."""

    held: Tensor
    device = MPS  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        if held.dtype in _TOO_LONG:
            raise NotOnMPS(f"{held.dtype} on an Apple GPU")
        with torch._C._DisableTorchDispatch():
            shape = torch.empty_strided(held.size(), held.stride(), dtype=held.dtype, device="meta")
        # The library has a guard for the device `meta` everywhere, for `mps` on Apple's machines alone.
        self = torch.Tensor._make_subclass(cls, shape, False, device_for_backend_keys=MPS)
        self.held = held
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} ran outside of AppleGPU")

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_listed(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_listed(index), value)

    def tolist(self) -> Any:
        """As on the device: by way of the CPU."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """As on the device: refused."""
        raise NotOnMPS("numpy() of a tensor on the device")


@contextmanager
def apple_gpu() -> Iterator[AppleGPU]:
    """While it lasts, `MPS` is there; the mode that it gives knows what ran on it."""
    library = torch.library.Library("aten", "IMPL")
    lifted = torch._C._only_lift_cpu_tensors()
    try:
        # With kernels of their own these two are no longer taken apart above autograd.
        for name in ("linear", "max_pool2d"):
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "MPS"):
                library.impl(name, _never, "MPS")
        # Tensors made of numbers reach the mode on their way to the device.
        torch._C._set_only_lift_cpu_tensors(True)
        with _Indexed(), AppleGPU() as mode:
            yield mode
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        library._destroy()


class AppleGPU(TorchDispatchMode):
    """Runs operators on `OnDevice` tensors, or refuses them. `seen` has the names of those that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and loading the compiler takes seconds.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors: list[Tensor] = []
        _mapped(tensors.append, (args, kwargs))
        here = any(isinstance(each, OnDevice) for each in tensors)
        target = _target(kwargs)
        if not here and target != MPS:
            return func(*args, **kwargs)
        name = func.name().removeprefix("aten::")
        self.seen.add(name)
        _check_devices(func, name, tensors)
        if here and target != MPS and kwargs.get("dtype") in _TOO_LONG:
            raise NotOnMPS(f"{kwargs['dtype']} on an Apple GPU: move first, convert then")
        if func.is_view or name in SHAPES or kernels().on_mps(name):
            return self._run(func, name, args, kwargs, tensors, lands=target in (None, MPS))
        if not kernels().composite(name):
            raise NotOnMPS(f"aten::{name} has no kernel for MPS")
        for key in COMPOSITE:
            if func.has_kernel_for_dispatch_key(key):
                with self:
                    return func._op_dk(key, *args, **kwargs)
        return func.decompose(*args, **kwargs)

    def _run(
        self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor], *, lands: bool
    ) -> Any:
        """The operator's CPU kernel on what the tensors hold."""
        moved = _mapped(_held, kwargs)
        if lands and "device" in kwargs:
            moved["device"] = torch.device("cpu")
        plain = _APART.get(name, func)(*_mapped(_held, args), **moved)
        for each in tensors:
            if isinstance(each, OnDevice) and each.shape != each.held.shape:
                # Kernels that write into a tensor may give it the shape first.
                shaped = OnDevice(each.held)
                with torch._C._DisableTorchDispatch():
                    each.data = shaped
        if not lands:
            return plain
        return return_and_correct_aliasing(func, args, kwargs, _mapped(OnDevice, plain))


class _Indexed(TorchFunctionMode):
    """Reads `mps` as `mps:0`: C++ would ask a guard that only Apple's machines have for the index."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = {name: _indexed(value) for name, value in (kwargs or {}).items()}
        return func(*(_indexed(value) for value in args), **named)


def _indexed(value: Any) -> Any:
    return MPS if isinstance(value, torch.device) and value.type == "mps" else value


def _mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The arguments or results of an operator with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([_mapped(change, part) for part in value])
    if isinstance(value, dict):
        return {name: _mapped(change, part) for name, part in value.items()}
    return value


def _never(*_: Any) -> Any:
    raise AssertionError("AppleGPU comes first")


def _listed(index: Any) -> Any:
    """The index with lists as tensors: C++ would make them on `meta`."""
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts)


def _held(value: Tensor) -> Tensor:
    return value.held if isinstance(value, OnDevice) else value


def _target(kwargs: Mapping[str, Any]) -> torch.device | None:
    """Where the result is asked to be. C++ takes `OnDevice` for `meta`, which nobody else asks for but models."""
    if kwargs.get("device") is None:
        return None
    device = torch.device(kwargs["device"])
    apple = device.type == "mps" or (device.type == "meta" and torch.get_default_device().type != "meta")
    return MPS if apple else device


def _check_devices(func: Any, name: str, tensors: list[Tensor]) -> None:
    """Refuse operands on two devices, except where every device takes them."""
    anywhere = name in ("copy_", "_to_copy") or name.startswith(("index.", "index_put", "_index_put"))
    for each in tensors:
        taken = anywhere or (each.dim() == 0 and torch.Tag.pointwise in func.tags)
        if not isinstance(each, OnDevice) and not (each.device.type == "cpu" and taken):
            raise NotOnMPS(
                f"aten::{name} with one operand on mps and one, {tuple(each.shape)}, on {each.device}"
            )


def _linear_backward(inputs: Tensor, grad: Tensor, weight: Tensor, mask: list[bool]) -> Any:
    rows, flat = grad.flatten(0, -2), inputs.flatten(0, -2)
    found = (grad @ weight, rows.mT @ flat, rows.sum(0))
    return tuple(value if wanted else torch.empty(0) for value, wanted in zip(found, mask, strict=True))


def _max_pool2d_backward(grad: Tensor, inputs: Tensor, *window: Any) -> Tensor:
    _, where = torch.ops.aten.max_pool2d_with_indices(inputs, *window)
    # The library leaves out what has its default.
    size, stride, *rest = (*window, *([], [0, 0], [1, 1], False)[len(window) - 1 :])
    return torch.ops.aten.max_pool2d_with_indices_backward(grad, inputs, size, stride or size, *rest, where)


_APART: Mapping[str, Any] = {"linear_backward": _linear_backward, "max_pool2d_backward": _max_pool2d_backward}
"""The CPU has no kernel for these: it takes the operators whose slopes they are apart."""
