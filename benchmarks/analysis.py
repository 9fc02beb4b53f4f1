"""How long a results folder of a million rows takes from Parquet to statistics, and how much memory.

python benchmarks/analysis.py               # a million rows: 10 cells, 2 attackers, 1,000 victims, 50 images each
python benchmarks/analysis.py --rows 20000  # fewer victims
python benchmarks/analysis.py --json
"""

from __future__ import annotations

import sys
from pathlib import Path

# This folder has an `orchestrator.py` of its own.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import resource
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import result_line

from orchestrator.analysis.between.standing import standings
from orchestrator.analysis.summary import summarized
from orchestrator.io.parquet import parquet_bytes
from orchestrator.results.schema import trials_schema

CELLS, ATTACKERS, IMAGES = 10, 2, 50
SECONDS, GIGABYTES = 10.0, 2.0
PART = 100_000
_PARAMS = json.dumps({"kind": "matching", "iterations": 300, "objective": {"kind": "cosine"}, "lr": 0.1})


@dataclass(frozen=True)
class Measured:
    """Wall-clock seconds, the process's CPU seconds and its peak memory in GB (10^9 bytes)."""

    rows: int
    seconds: float
    cpu_seconds: float
    gigabytes: float


def measure(rows: int) -> Measured:
    """Write so many rows (rounded to whole victims), then read, summarize and compare them."""
    victims = max(1, round(rows / (CELLS * ATTACKERS * IMAGES)))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        written = write(folder, victims)
        start, cpu = time.perf_counter(), time.process_time()
        lines, figures = summarized(folder)
        groups = standings(lines, figures)
        seconds, spent = time.perf_counter() - start, time.process_time() - cpu
    assert len(lines) == CELLS * ATTACKERS
    assert len(groups[0].standings) == CELLS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Measured(written, seconds, spent, peak)


def write(folder: Path, victims: int) -> int:
    """A results folder of test rows as an attack on batches of `IMAGES` leaves them; how many rows it has."""
    (folder / "trials").mkdir()
    random, parts, count = np.random.default_rng(0), 0, 0
    at_once = max(1, PART // IMAGES)
    for cell in range(CELLS):
        for attacker in range(ATTACKERS):
            for first in range(0, victims, at_once):
                table = rows_of(cell, attacker, np.arange(first, min(victims, first + at_once)), random)
                path = folder / "trials" / f"part-{parts:06d}.parquet"
                path.write_bytes(parquet_bytes(table))
                parts, count = parts + 1, count + len(table)
    return count


def rows_of(cell: int, attacker: int, victims: np.ndarray, random: np.random.Generator) -> pa.Table:
    """The rows of some victims of one cell and attacker, every column filled."""
    schema, count = trials_schema([]), len(victims) * IMAGES
    psnr = 10.0 + cell + attacker + random.normal(0.0, 2.0, count)
    victim = np.repeat(victims, IMAGES)
    image = np.tile(np.arange(IMAGES), len(victims))
    given: dict[str, Any] = {
        "trial_id": [f"{cell:02d}{attacker:02d}{number:016d}" for number in victim],
        "image_id": [f"{number:06d}-{i:02d}.jpg" for number, i in zip(victim, image, strict=True)],
        "cell": "none" if cell == 0 else f"cell-{cell}",
        "attacker": f"attacker-{attacker}",
        "phase": "test",
        "status": "ok",
        "study": f"cell-{cell}/attacker-{attacker}",
        "sweep_seed": 42,
        "suggestion": None,
        "error": None,
        "victim": victim,
        "client": victim,
        "data": "synthetic:0123456789abcdef",
        "defense": "none" if cell == 0 else "dp_update",
        "defense_params": "[]" if cell == 0 else '[{"kind":"dp_update","epsilon":8.0,"max_norm":1.0}]',
        "differs": "{}",
        "threat": '{"view":null,"labels":"unknown","knows_defense":true}',
        "attack_params": _PARAMS,
        "notes": "[]",
        "epsilon": None,
        "preselected": image == 0,
        "psnr": psnr,
        "psnr_oracle": psnr + 0.1,
        "accuracy": None,
        "versions": '{"python":"3.11"}',
        "convergence": "[[1,1.0],[300,0.1]]",
        "started_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    plain: dict[str, Any] = {"string": "some", "double": 1.0, "int64": 1, "bool": True}
    columns = [
        _column(given.get(field.name, plain.get(str(field.type))), field.type, count) for field in schema
    ]
    return pa.table(columns, schema=schema)


def _column(value: Any, kind: pa.DataType, count: int) -> pa.Array:
    if isinstance(value, list | np.ndarray):
        return pa.array(value, type=kind)
    return pa.nulls(count, kind) if value is None else pa.repeat(pa.scalar(value, kind), count)


def main() -> None:
    """Measure once in this process, whose peak memory it is, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print result lines")
    arguments = parser.parse_args()
    found = measure(arguments.rows)
    name = f"statistics of {found.rows} rows"
    if arguments.json:
        for text, value, unit, target in (
            ("time", found.seconds, "s", SECONDS),
            ("CPU time", found.cpu_seconds, "s", None),
            ("peak memory", found.gigabytes, "GB", GIGABYTES),
        ):
            print(
                json.dumps(
                    result_line.line(f"{name}: {text}", value, unit, [value], target=target, at_most=True)
                )
            )
        return
    print(f"{name}: {found.seconds:.1f} s ({found.cpu_seconds:.1f} CPU-s), {found.gigabytes:.2f} GB at most")


if __name__ == "__main__":
    main()
