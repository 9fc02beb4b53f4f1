"""Numbers on their way into a secure sum: layout, fixed point, lanes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.secure.fixed_point import FixedPoint, Lanes, guard_bits
from defenses.secure.packing import Layout
from fl_core.base.errors import InputError
from tests.support.updates import small_tensors


def test_tensors_come_back_from_their_flat_vector() -> None:
    tensors = small_tensors([0])[0] | {"steps": torch.tensor(5), "half": torch.tensor([0.5]).double()}
    layout = Layout.of(tensors)
    flat = layout.flatten(tensors)
    assert flat.dtype == np.float64
    assert layout.size == len(flat) == 54 + 7 + 1 + 0 + 1 + 1
    back = layout.restore(flat)
    assert list(back) == list(tensors)
    for name, value in tensors.items():
        assert torch.equal(back[name], value.float() if name == "steps" else value)
        assert back[name].dtype == (torch.float32 if name == "steps" else value.dtype)
    assert layout.place(0) == "conv.weight[0]"
    assert layout.place(55) == "fc.bias[1]"
    assert layout.place(62) == "steps[0]"  # The empty tensor holds no place.


def test_single_precision_stays_single() -> None:
    tensors = small_tensors([0])[0]
    assert Layout.of(tensors).flatten(tensors).dtype == np.float32


def test_another_layout_is_named() -> None:
    tensors = small_tensors([0])[0]
    with pytest.raises(ValueError, match=r"fc\.bias"):
        Layout.of(tensors).flatten(tensors | {"fc.bias": torch.zeros(8)})


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=20), precision=st.integers(1, 2**30))
@settings(max_examples=100, deadline=None)
def test_rounding_is_at_most_half_a_step(values: list[float], precision: int) -> None:
    fixed = FixedPoint(precision=precision, limit=2**40)
    numbers = np.array(values)
    off = np.abs(fixed.decode(fixed.encode(numbers)) - numbers)
    assert float(off.max()) <= 0.5 / precision * (1 + 1e-9) + 1e-14


@pytest.mark.parametrize("bad", [1.01, -1.01, float("nan"), float("inf"), -float("inf")])
def test_what_would_wrap_is_refused_by_name(bad: float) -> None:
    fixed = FixedPoint(precision=1000, limit=1000)
    numbers = np.array([0.5, 1.0, bad, -1.0], dtype=np.float32)
    fixed.check(numbers[:2])
    for refuse in (fixed.encode, fixed.check):
        with pytest.raises(InputError, match=r"^here 2 = .*at most 1 in magnitude.*precision") as caught:
            refuse(numbers, lambda index: f"here {index}")
        assert "\n" not in str(caught.value)


@given(
    bits=st.sampled_from([32, 64]),
    guard=st.integers(0, 6),
    count=st.integers(1, 9),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_packed_sums_are_the_sums(bits: int, guard: int, count: int, data: st.DataObject) -> None:
    """Exactly, for any number of clients up to the guard, the extremes of every lane included."""
    lanes = Lanes(bits=bits, guard_bits=guard, count=count)  # type: ignore[arg-type]
    clients = data.draw(st.integers(1, lanes.capacity))
    size = data.draw(st.integers(0, 20))
    number = st.sampled_from([-lanes.limit, lanes.limit]) | st.integers(-lanes.limit, lanes.limit)
    rows = data.draw(st.lists(st.lists(number, min_size=size, max_size=size), min_size=1, max_size=4))
    rows = [rows[client % len(rows)] for client in range(clients)]
    packed = [lanes.pack(np.array(row, dtype=np.int64)) for row in rows]
    words = [sum(column) for column in zip(*packed, strict=True)]
    assert all(word < 1 << (bits * count) for word in words)
    sums = lanes.unpack(words, size, clients)
    assert sums.tolist() == [sum(column) for column in zip(*rows, strict=True)]


def test_lanes_refuse_what_would_carry() -> None:
    lanes = Lanes(bits=32, guard_bits=2, count=3)
    with pytest.raises(ValueError, match="beyond"):
        lanes.pack(np.array([0, lanes.limit + 1]))
    word = lanes.pack(np.full(3, lanes.limit))[0]
    assert lanes.unpack([4 * word], 3, 4).tolist() == [4 * lanes.limit] * 3
    with pytest.raises(ValueError, match="guard bits allow 1 to 4"):
        lanes.unpack([5 * word % (1 << 96)], 3, 5)
    with pytest.raises(ValueError, match="no room"):
        Lanes(bits=32, guard_bits=31, count=1)


def test_guard_bits_are_just_enough() -> None:
    for clients in range(1, 300):
        assert 1 << guard_bits(clients) >= clients
        assert guard_bits(clients) == 0 or 1 << (guard_bits(clients) - 1) < clients
