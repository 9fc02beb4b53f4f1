"""Larger batches and more local steps as the strength of a threshold: settings of the federation, openly different."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.parse import cell_settings, threshold_value, with_thresholds
from tests.support.small import sweep


@pytest.mark.parametrize("field", ["batch_size", "max_steps"])
def test_a_threshold_runs_over_a_setting_of_local_training(field: str) -> None:
    path = f"federation.local.{field}"
    threshold = {
        "name": "natural",
        "strength": {"path": path, "weak": 1, "strong": 8, "points": 4, "integer": True},
    }
    config = with_thresholds(sweep(Path("nowhere"), thresholds=[threshold]))
    cells = [cell for cell in config.cells if cell.name.startswith("natural_")]
    assert [getattr(cell_settings(config, cell).federation.local, field) for cell in cells] == [1, 2, 4, 8]
    assert [threshold_value(config.thresholds[0], cell) for cell in cells] == [1, 2, 4, 8]
    assert all(set(cell.differs) == {path} for cell in cells)
