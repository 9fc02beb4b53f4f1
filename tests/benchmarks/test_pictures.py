"""The benchmark of kinds of pictures runs on a tiny setting and keeps to the contract of benchmarks."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.benchmarks import benchmark


def lines_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    found = [json.loads(text) for text in done.stdout.splitlines()]
    for entry in found:
        assert {"name", "value", "unit", "target", "ok", "spread", "n"} <= set(entry)
    return {entry["name"]: entry for entry in found}


def test_every_kind_is_drawn_read_and_attacked(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(np.full((20, 30, 3), 80 * number, np.uint8)).save(tmp_path / f"{number}.png")
    tiny = ("--image-size", "16", "--victims", "2", "--evaluations", "12")
    lines = lines_of(benchmark("pictures", *tiny, "--folder", f"plain={tmp_path}", "--json"))
    kinds = ("faces", "plain", "logo", "page of text", "colour blocks", "white noise", "binary noise")
    for kind in kinds:
        figures = lines[f"{kind}: PSNR"]
        assert figures["n"] == 2
        assert figures["least"] <= figures["value"] <= figures["most"]
    assert 10.0 < lines["white noise: PSNR"]["grey"] < 11.5
    assert abs(lines["binary noise: PSNR"]["grey"] - 6.02) < 0.01


def test_noise_has_fewer_features_than_numbers() -> None:
    lines = lines_of(
        benchmark(
            "pictures", "--image-size", "8", "--victims", "1", "--kinds", "white noise", "--rank", "--json"
        )
    )
    found = lines["white noise: rank of the features' Jacobian"]
    assert found["numbers"] == 3 * 8 * 8
    assert 0 < found["value"] <= min(found["features"], found["numbers"])


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (("--kinds", "logos"), "kind of picture 'logos'"),
        (("--folder", "photos"), "must be NAME=DIR"),
        (("--folder", f"photos={tmp_path}", "--victims", "2"), "holds 0 images"),
    ):
        done = benchmark("pictures", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
