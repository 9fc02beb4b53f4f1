"""The benchmark of statistics runs on few rows, and its folder is one that statistics read."""

from __future__ import annotations

import json

from tests.support.benchmarks import benchmark


def test_a_small_folder_gives_three_result_lines() -> None:
    done = benchmark("analysis", "--rows", "5000", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert [entry["name"] for entry in lines] == [
        f"statistics of 5000 rows: {what}" for what in ("time", "CPU time", "peak memory")
    ]
    assert [entry["target"] for entry in lines] == [10.0, None, 2.0]
    assert all(entry["value"] > 0 for entry in lines)
