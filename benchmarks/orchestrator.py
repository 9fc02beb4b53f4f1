"""What the orchestrator adds to an attack that does nothing, beside Ray Tune with OptunaSearch on the same.

python benchmarks/orchestrator.py [--trials N] [--victims V] [--workers N] [--seconds S] [--no-peer] [--json]

The driver is the real one, with a results folder, captures, a TPE study over six parameters, and rows in Parquet.
Only the attack is a no-op: it answers with the mean public image, scaled by what is searched, after `--seconds`. Ray
Tune gets the same search space and the same number of workers, and returns one number.

Rates are taken from the first finished trial to the last, so that neither start counts.
"""

# ruff: noqa: E402 - the path has to be put right before anything is imported

from __future__ import annotations

import sys
from pathlib import Path

# This file has the name of the package that it measures, and Python would look for that in this file's folder first.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place).resolve() != HERE)]

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray

from benchmarks.noop import noop_job, quality
from fl_core.data.synthetic.faces import write_faces
from orchestrator.config.plain import build
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent
from orchestrator.trial.run import TrialResult

RATE = 50.0
"""Trials a second that have to be reached with 200 trials."""
SHARE = 0.1
"""Of wall time at 5,000 trials that the orchestrator may add to attacks of `TYPICAL` seconds."""
DRIVER_SHARE = 0.05
"""Of wall time that the driver's CPU seconds may be where attacks take `TYPICAL` seconds."""
TYPICAL = 1.0

SPACE: dict[str, dict[str, Any]] = {
    "lr": {"kind": "float", "low": 1e-3, "high": 1.0, "log": True},
    "tv_weight": {"kind": "float", "low": 1e-8, "high": 1e-2, "log": True},
    "init_std": {"kind": "float", "low": 0.01, "high": 1.0},
    "feature_weight": {"kind": "float", "low": 0.0, "high": 1.0},
    "restarts": {"kind": "int", "low": 1, "high": 4},
    "init": {"kind": "choice", "choices": ["normal", "fourier", "uniform"]},
}


@dataclass
class Stamps(Silent):
    """When jobs finished, and the CPU time that this process had used by then."""

    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)

    def job_done(self, study: str, psnr: float | None) -> None:  # noqa: ARG002
        """See `Reporter.job_done`."""
        self.walls.append(time.perf_counter())
        self.cpus.append(time.process_time())


def ours(trials: int, victims: int, workers: int, seconds: float, scratch: Path) -> Stamps:
    """Run a sweep of about so many trials: suggestions times `victims`, and one test victim."""
    write_faces(scratch / "faces", num=96, seed=1)
    tree = {
        "name": "noop",
        "data": {"kind": "celeba", "root": str(scratch / "faces"), "train": 24, "valid": 12, "public": 8},
        "model": {"kind": "mlp", "image_size": 16},
        "federation": {"clients": 4, "rounds": 1},
        "victims": {"tuning": victims, "test": 1},
        "study": {"suggestions": trials // victims},
        "execution": {"device": "cpu", "workers": workers, "images": "none", "controls": False},
        "attackers": [{"name": "noop", "attack": {"kind": "matching"}, "search": SPACE}],
    }
    stamps = Stamps()
    # Workers of the Ray that is started here find the no-op where this process does.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    job: Callable[..., TrialResult] = partial(noop_job, seconds)
    config = build(SweepConfig, tree, where="benchmark")
    outcome = run_sweep(config, scratch / "out", address="local", reporter=stamps, job=job)
    assert outcome.failed == 0
    return stamps


def tune(trials: int, workers: int, seconds: float, scratch: Path) -> list[float]:
    """When Ray Tune's trials finished; raises `ImportError` where it is not installed."""
    from ray import tune as raytune
    from ray.tune.search.optuna import OptunaSearch

    finished: list[float] = []

    class Watch(raytune.Callback):
        def on_trial_complete(self, **info: Any) -> None:  # noqa: ARG002
            finished.append(time.perf_counter())

    def objective(config: dict[str, Any]) -> None:
        time.sleep(seconds)
        raytune.report({"psnr": quality(config["lr"], config["init_std"])})

    space = {
        "lr": raytune.loguniform(1e-3, 1.0),
        "tv_weight": raytune.loguniform(1e-8, 1e-2),
        "init_std": raytune.uniform(0.01, 1.0),
        "feature_weight": raytune.uniform(0.0, 1.0),
        "restarts": raytune.randint(1, 5),
        "init": raytune.choice(["normal", "fourier", "uniform"]),
    }
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        raytune.Tuner(
            objective,
            param_space=space,
            tune_config=raytune.TuneConfig(
                search_alg=OptunaSearch(metric="psnr", mode="max"), num_samples=trials, reuse_actors=True
            ),
            run_config=raytune.RunConfig(storage_path=str(scratch / "tune"), callbacks=[Watch()], verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    return finished


def main() -> int:
    """Measure and print; exit code 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--victims", type=int, default=1, help="trials of one suggestion")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.0, help="what an attack takes")
    parser.add_argument("--no-peer", action="store_true", help="leave Ray Tune out")
    parser.add_argument("--device", default="cpu", choices=["cpu"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        stamps = ours(options.trials, options.victims, options.workers, options.seconds, Path(scratch))
    count, wall = len(stamps.walls) - 1, stamps.walls[-1] - stamps.walls[0]
    cpu = (stamps.cpus[-1] - stamps.cpus[0]) / count
    lines = [
        line(
            "gradsweep",
            count / wall,
            "trials/s",
            RATE if options.trials <= 200 and not options.seconds else None,
            count,
        ),
        line("gradsweep, CPU of the driver", cpu * 1e3, "ms/trial", None, count),
    ]
    ideal = options.seconds * count / options.workers
    if options.seconds:
        lines.append(line("wall time added", (wall - ideal) / wall, "share", -SHARE, count))
    else:
        # All of a no-op run is overhead, as if nothing of it happened while attacks run.
        typical = TYPICAL * count / options.workers
        name = f"wall time added to attacks of {TYPICAL:g} s, at most"
        lines.append(line(name, wall / (typical + wall), "share", -SHARE, count))
    # Its CPU seconds a trial over the wall time that a trial adds, as all workers run one at a time each.
    lines.append(
        line(
            f"driver's CPU, share of wall time with attacks of {TYPICAL:g} s",
            cpu * options.workers / (options.seconds or TYPICAL),
            "share",
            -DRIVER_SHARE,
            count,
        )
    )
    if not options.no_peer:
        lines += peer(options.trials, options.workers, options.seconds, count / wall)
    for entry in lines:
        if options.json:
            print(json.dumps(entry))
        else:
            value = entry.get("reason") or f"{entry['value']:10.3g} {entry['unit']}"
            print(f"{entry['name']:50s} {value} {'' if entry['ok'] else 'MISSED'}")
    return 0 if all(entry["ok"] for entry in lines) else 1


def peer(trials: int, workers: int, seconds: float, rate: float) -> list[dict[str, Any]]:
    """Ray Tune's rate, and how many times ours it is; lines without a value where it is not there."""
    name = "Ray Tune + OptunaSearch"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            # What Ray Tune prints would stand between our lines.
            with redirect_stdout(sys.stderr):
                finished = tune(trials, workers, seconds, Path(scratch))
        except ImportError as missing:
            return [line(name, None, "trials/s", None, 0) | {"reason": f"not installed: {missing}"}]
    theirs = (len(finished) - 1) / (finished[-1] - finished[0])
    count = len(finished) - 1
    return [
        line(name, theirs, "trials/s", None, count),
        line(f"gradsweep / {name}", rate / theirs, "x", 1.0, count),
    ]


def line(name: str, value: float | None, unit: str, target: float | None, n: int) -> dict[str, Any]:
    """One result; a negative `target` is an upper bound. One run has no spread."""
    ok = target is None or (value is not None and (value <= -target if target < 0 else value >= target))
    shown = None if target is None else abs(target)
    return {"name": name, "value": value, "unit": unit, "target": shown, "ok": ok, "spread": None, "n": n}


if __name__ == "__main__":
    sys.exit(main())
