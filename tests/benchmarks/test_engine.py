"""The engine's benchmark runs on a tiny setting, and its losses agree with a plain double backward's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.benchmarks import benchmark


def test_a_tiny_run_has_every_line_and_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling takes minutes; `tests/attack_core/matching/test_recorded.py` does it.
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = benchmark(
        "engine",
        *(
            "--rows",
            "cosine-8",
            "lenet",
            "candidates",
            "victims",
            "programs",
            "rounded",
            "evaluation",
            "celeba",
            "batch-8",
        ),
        *("--image-size", "16", "--repeats", "1", "--json"),
    )
    assert not done.stderr
    lines: dict[str, dict[str, Any]] = {}
    for text in done.stdout.splitlines():
        entry = json.loads(text)
        lines[entry["name"]] = entry
    for row in ("cosine-8", "lenet"):
        assert lines[f"{row}: plain / ours"]["value"] > 0
        assert lines[f"{row}: loss off plain's"]["ok"]
    assert lines["candidates: one of 16 / alone"]["target"] == 0.6
    assert lines["victims: 6 of lenet together / in turn"]["value"] > 0
    assert lines["rounded: cnn64, batch 8, bf16 / float32"]["value"] > 0
    assert lines["evaluation: mismatch, prior and slopes / convolutions"]["target"] == 1.3
    assert lines["evaluation: one with its share of a descent"]["value"] > 0
    assert "CUDA alone" in lines["programs: graphs / operations"]["reason"]
    assert "'no-such-compiler' is not found" in lines["programs: compiled / operations"]["reason"]
    for row in ("celeba", "batch-8"):
        assert "--against" in lines[f"{row}: ours / theirs"]["reason"]
