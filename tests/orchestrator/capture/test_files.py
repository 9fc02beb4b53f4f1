"""Captures on disk: what is saved is what was captured."""

from __future__ import annotations

from pathlib import Path

from tests.support.small import run_quietly, sweep


def test_gradients_that_share_memory_are_saved(faces_root: Path, tmp_path: Path) -> None:
    """A transformer's class token and position embedding: one image's gradients of both are views of one tensor."""
    attackers = [{"name": "generic", "attack": {"kind": "matching", "iterations": 1}}]
    cells = [{"name": "none"}]
    config = sweep(
        faces_root, model__kind="vit", attackers=attackers, cells=cells, victims={"tuning": 0, "test": 1}
    )
    assert run_quietly(config, tmp_path / "out")["status"].tolist() == ["ok"]
