"""The attack benchmark runs on a tiny setting, and says so where the peer library is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.benchmarks import benchmark


@pytest.fixture
def without_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`import breaching` fails, whether or not it is installed."""
    (tmp_path / "breaching.py").write_text("raise ModuleNotFoundError('hidden by the test')\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("without_peer")
def test_a_tiny_comparison_without_the_peer(faces_root: Path, tmp_path: Path) -> None:
    figure = tmp_path / "attacks.svg"
    tuned = "matching schedule=cosine objective.kind=cosine"
    done = benchmark(
        "attacks",
        *("--data-root", str(faces_root), "--model", "mlp", "--image-size", "16", "--victims", "2"),
        *("--iterations", "5", "--ours", "matching", tuned, "--peer", "invertinggradients", "legacy"),
        *("--figure", str(figure), "--json"),
    )
    assert done.returncode == 0, done.stderr
    lines: dict[str, dict[str, Any]] = {}
    for text in done.stdout.splitlines():
        entry = json.loads(text)
        assert {"name", "value", "unit", "target", "ok", "spread", "n"} <= set(entry)
        lines[entry["name"]] = entry
    for name in ("matching", tuned):
        assert lines[f"{name}: PSNR"]["n"] == 2
        assert lines[f"{name}: PSNR"]["low"] is None, "two victims have no interval"
        assert lines[f"{name}: best reconstructed"]["value"] >= lines[f"{name}: PSNR"]["value"]
        # One pass an iteration, and one for the last point.
        assert lines[f"{name}: forward passes"]["value"] == 6
    for name in ("invertinggradients", "legacy"):
        missing = lines[f"breaching {name}: PSNR"]
        assert missing["value"] is None
        assert missing["n"] == 0
        assert "hidden by the test" in missing["reason"]
    assert lines["our best minus breaching's best"]["value"] is None
    assert figure.stat().st_size > 1000


@pytest.mark.usefixtures("without_peer")
def test_a_wrong_attack_or_setting_is_refused_by_name() -> None:
    done = benchmark("attacks", "--ours", "matching lr=0", "--victims", "1")
    assert done.returncode == 2
    assert "lr = 0" in done.stderr
    done = benchmark("attacks", "--ours", "mtching")
    assert done.returncode == 2
    assert "matching" in done.stderr


def test_a_case_of_the_suite_is_judged_by_its_target(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("one", "two"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    done = benchmark(
        "attacks",
        *("--suite", "frontier", "--data-root", str(tmp_path), "--cases", "vit, batch 1", "ViT-S/16"),
        *("--victims", "1", "--json"),
    )
    assert done.returncode == 0, done.stderr
    lines = {entry["name"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    assert lines["vit, batch 1: mean"]["target"] == 80.0
    assert lines["vit, batch 1: mean"]["value"] > 80.0
    assert "--photos-root" in lines["ViT-S/16: PSNR"]["reason"]


def test_an_unknown_case_is_refused_by_name() -> None:
    done = benchmark("attacks", "--suite", "frontier", "--cases", "vit, batch 3")
    assert done.returncode == 2
    assert "vit, batch" in done.stderr
