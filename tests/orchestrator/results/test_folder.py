"""What a results folder says when another sweep wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fl_core.base.errors import InputError
from orchestrator.config.sweep import SweepConfig
from orchestrator.results.folder import check_folder, claim_folder, first_difference
from orchestrator.results.store import ResultStore
from tests.support.small import comparable, run_quietly, sweep


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
        check_folder(tmp_path, sweep(faces_root, cells=cells(1)), finished=True)
    assert not check_folder(tmp_path, sweep(faces_root, cells=cells(1)), finished=False), "nothing is lost"


def refused(out: Path, config: SweepConfig) -> str:
    with pytest.raises(InputError) as raised:
        run_quietly(config, out)
    return str(raised.value)


def test_a_setting_that_is_refused_keeps_no_folder(faces_root: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {"cells": [{"name": "none"}], "attackers__0__attack__iterations": 1}
    small |= {"study__suggestions": 1, "victims__tuning": 1, "victims__test": 1}
    for change in (
        {"data__attribute": "Mael"},
        {"victims__test": 999},
        {"capture__round": 9},
        {"study__warm_start": str(tmp_path / "nowhere")},
    ):
        refused(tmp_path / "out", sweep(faces_root, **(small | change)))
        assert not (tmp_path / "out" / "sweep.json").exists(), change
        assert not (tmp_path / "out" / "warm_start.json").exists(), change
    assert len(run_quietly(sweep(faces_root, **small), tmp_path / "out")) == 2
    assert "holds another sweep: seed was 5 and is now 6" in refused(
        tmp_path / "out", sweep(faces_root, **small, seed=6)
    )


class _Ended(BaseException):
    """The end of a run before its first trial is recorded."""


def test_a_folder_without_results_may_be_claimed_again(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an aborted sweep suggested is no part of the next one, which may have the same names."""
    small: dict[str, Any] = {"cells": [{"name": "none"}], "attackers__0__attack__iterations": 1}
    small |= {"study__suggestions": 2, "victims": {"tuning": 1, "test": 1}}

    def end(*_: Any) -> None:
        raise _Ended

    with monkeypatch.context() as patched, pytest.raises(_Ended):
        patched.setattr(ResultStore, "add_trial", end)
        run_quietly(sweep(faces_root, **small, seed=6), tmp_path / "out")
    assert len(pd.read_parquet(tmp_path / "out" / "studies"))
    run_quietly(sweep(faces_root, **small), tmp_path / "out")
    run_quietly(sweep(faces_root, **small), tmp_path / "fresh")
    pd.testing.assert_frame_equal(comparable(tmp_path / "out"), comparable(tmp_path / "fresh"))
    (tmp_path / "out" / "sweep.json").unlink()
    assert "sweep.json is missing" in refused(tmp_path / "out", sweep(faces_root, **small))
