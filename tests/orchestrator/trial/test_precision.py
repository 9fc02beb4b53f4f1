"""Trials whose attacks multiply in bfloat16: other trials than in float32, and their scores are float32's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import orchestrator.trial.score as score_module
from attack_core.metrics.metrics import ssim
from fl_core.base.errors import InputError
from orchestrator.driver.sweep import resolve
from tests.support.small import run_quietly, sweep


def one_victim(root: Path, precision: str) -> Any:
    return sweep(
        root,
        victims={"tuning": 0, "test": 1},
        attackers__0__search={},
        cells=[{"name": "none"}],
        model__kind="cnn64",
        execution__precision=precision,
    )


def test_an_attack_in_bfloat16_is_another_trial_whose_scores_are_measured_in_float32(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[Tensor, Tensor]] = []

    def watched(mine: Tensor, real: Tensor) -> Tensor | None:
        scored.append((mine, real))
        return ssim(mine, real)

    monkeypatch.setattr(score_module, "ssim", watched)
    whole, rounded = (
        run_quietly(one_victim(faces_root, precision), tmp_path / precision)
        for precision in ("float32", "bf16")
    )
    assert (len(whole), list(rounded["status"])) == (1, ["ok"])
    assert list(rounded["image_id"]) == list(whole["image_id"])
    assert rounded["trial_id"][0] != whole["trial_id"][0]
    assert rounded["match_loss"][0] == pytest.approx(whole["match_loss"][0], rel=0.05)
    assert rounded["match_loss"][0] != whole["match_loss"][0]
    assert [float(ssim(*pair)) for pair in scored] == [*whole["ssim"], *rounded["ssim"]]  # type: ignore[arg-type]
    pd.testing.assert_series_equal(rounded["psnr_mean_image"], whole["psnr_mean_image"])


def test_bfloat16_is_for_the_cpu_and_cuda(faces_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sweep(faces_root, execution__precision="bf16")
    assert resolve(config).execution.precision == "bf16"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(
        InputError,
        match=r"execution\.precision = 'bf16': this sweep runs on mps, and that is for the CPU and CUDA",
    ):
        resolve(sweep(faces_root, execution__precision="bf16", execution__device="mps"))
