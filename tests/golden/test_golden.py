"""Golden trials: a change that does not mean to change an attack, a defense or a capture changes no figure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.golden.trials import FIGURES, TOLERANCE_DB, measured

KEPT: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return measured(tmp_path_factory.mktemp("golden"))


def test_the_trials_are_the_same(found: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == KEPT["trials"].keys()
    assert KEPT["tolerance_db"] == TOLERANCE_DB


@pytest.mark.parametrize("trial", KEPT["trials"])
def test_the_figures_are_the_same(trial: str, found: dict[str, dict[str, Any]]) -> None:
    mine, kept = found[trial], KEPT["trials"][trial]
    assert (mine["status"], mine["method"]) == (kept["status"], kept["method"])
    assert mine["psnr"] == pytest.approx(kept["psnr"], abs=TOLERANCE_DB)
