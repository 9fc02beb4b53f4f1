"""Names of cells: from the value alone, readable, of characters that a folder's name may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.axes.names import LONGEST_JOINED, LONGEST_PART, joined, value_name
from orchestrator.axes.values import plain_name

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("model.kind", "lenet", "lenet"),
        ("capture.signal", "agg_update", "agg-update"),
        ("federation.local.batch_size", 4, "batch-size-4"),
        ("federation.local.lr", 1e-5, "lr-1e-5"),
        ("federation.fraction", 1.0, "fraction-1"),
        ("federation.flip", True, "flip"),
        ("federation.flip", False, "no-flip"),
        ("federation.local.max_steps", None, "no-max-steps"),
        ("model.image_size", [32, 48], "image-size-32-48"),
        ("model.factory", "/somewhere/my_net.py:make", "make"),
        ("model.weights", "/somewhere/resnet.safetensors", "resnet"),
        ("defense", [], "none"),
        ("defense", [{"kind": "ckks"}], "ckks"),
        ("defense", [{"kind": "dp_update", "epsilon": 0.1}], "dp-update-0.1"),
        ("defense", [{"kind": "dp_update", "epsilon": 8, "delta": 1e-5}], "dp-update-delta-1e-5-epsilon-8"),
        (
            "defense",
            [{"kind": "clip", "max_norm": 1.0}, {"kind": "noise", "sigma": 0.01}],
            "clip-1-noise-0.01",
        ),
        ("defense", [{"kind": "/somewhere/mine.py:Blur", "sigma": 2}], "Blur-2"),
    ],
)
def test_a_name_says_the_value(path: str, value: object, name: str) -> None:
    assert value_name(path, value) == name


@given(path=st.sampled_from(["defense", "model.kind", "data.split"]), value=VALUES)
def test_every_value_has_a_name_that_a_cell_may_have(path: str, value: object) -> None:
    name = value_name(path, value)
    assert plain_name(name)
    assert "_" not in name, "it joins the values of several axes"
    assert len(name.encode()) <= LONGEST_PART
    assert value_name(path, value) == name


def test_what_is_cut_stays_different() -> None:
    names = {value_name("defense", [{"kind": "noise", "sigma": 1}] * count) for count in range(10, 40)}
    assert len(names) == 30
    assert max(map(len, names)) <= LONGEST_PART
    long = [joined([f"value-{i}" for i in range(count)]) for count in (40, 41)]
    assert long[0] != long[1]
    assert max(map(len, long)) <= LONGEST_JOINED
