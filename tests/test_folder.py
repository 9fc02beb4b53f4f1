"""What a results folder says when another sweep wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl_core.errors import InputError
from orchestrator.folder import claim_folder, first_difference
from tests.small import sweep


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, ("a.1.b", "2", "3")),
        ({"a": [1, 2]}, {"a": [1]}, ("a", "[1, 2]", "[1]")),
        ({"a": [{"name": "x", "b": 1}]}, {"a": [{"name": "x", "b": None}]}, ("a.x.b", "1", "null")),
        ({"a": [{"name": "x"}]}, {"a": [{"name": "x"}, {"name": "y"}]}, ("a", '["x"]', '["x", "y"]')),
        ({"a": [{"name": "x"}]}, {"a": [{"kind": "x"}]}, ("a", '[{"name": "x"}]', '[{"kind": "x"}]')),
        ({"a": []}, {"a": []}, None),
    ],
)
def test_the_first_difference_is_as_small_as_it_can_be(
    old: Any, new: Any, found: tuple[str, str, str]
) -> None:
    assert first_difference(old, new) == found


def test_a_changed_defense_is_named_by_its_cell(faces_root: Path, tmp_path: Path) -> None:
    def cells(epsilon: float) -> list[dict[str, Any]]:
        return [{"name": "none"}, {"name": "dp", "defense": [{"kind": "dp_update", "epsilon": epsilon}]}]

    claim_folder(tmp_path, sweep(faces_root, cells=cells(8)))
    with pytest.raises(
        InputError, match=r"cells\.dp\.defense\.0\.epsilon was 8\.0 and is now 1\.0; use another"
    ):
        claim_folder(tmp_path, sweep(faces_root, cells=cells(1)))
