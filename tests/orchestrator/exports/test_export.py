"""Exports hold what the folder holds; the real `datasets` and MLflow read them where they are installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from orchestrator.analysis.summary import summarize
from orchestrator.config.plain_yaml import read_yaml
from orchestrator.config.sweep import SweepConfig
from tests.support.command import gradsweep, refused
from tests.support.results_folder import failed_row, row, suggestion, trial, write_folder
from tests.support.small import sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cells, a study of three suggestions of which one failed, a failed test victim, pictures."""
    config: SweepConfig = sweep(Path("/nowhere/secret"))
    tests = [
        trial(row(cell, victim, 10.0 + victim, suggestion=2, git_commit="c0ffee", host="mine"), pictures=True)
        for cell in ("none", "dp")
        for victim in (2, 3)
    ]
    failed = trial(failed_row("dp", 4, 'a "quoted", comma', suggestion=2, host="mine"))
    told = [
        suggestion(number, value, f"{cell}/generic", **{"lr": 0.1, "objective.kind": "l2"})
        for cell in ("none", "dp")
        for number, value in enumerate((9.0, None, 12.5))
    ]
    return write_folder(tmp_path / "small", [*tests, failed], suggestions=told, config=config)


def test_csv_files_hold_every_value(folder: Path) -> None:
    done = gradsweep("export", folder, "--csv")
    out = folder.with_name("small-csv")
    assert (done.returncode, done.stdout.strip()) == (0, str(out))
    assert {path.name for path in out.iterdir()} == {"trials.csv", "studies.csv", "summary.csv"}
    there, read = pd.read_parquet(folder / "trials"), pd.read_csv(out / "trials.csv")
    assert list(read.columns) == list(there.columns)
    for name in ("trial_id", "psnr", "victim", "error", "status"):
        assert [value for value in read[name] if not pd.isna(value)] == [
            value for value in there[name] if not pd.isna(value)
        ]
    summary = pd.read_csv(out / "summary.csv")
    assert list(summary["psnr"]) == list(summarize(folder)["psnr"]) == [12.5, 12.5]
    studies = pd.read_csv(out / "studies.csv")
    assert json.loads(studies["params"][0]) == {"lr": 0.1, "objective.kind": "l2"}
    assert json.loads(studies["trial_ids"][0]) == []


@pytest.mark.parametrize("pictures", [True, False])
def test_a_data_set_names_its_files_and_nothing_of_this_machine(pictures: bool, folder: Path) -> None:
    out = folder.parent / "set"
    flags = ["--pictures"] if pictures else []
    assert gradsweep("export", folder, "--hf", "--out", out, *flags).returncode == 0
    card = (out / "README.md").read_text()
    head: Any = read_yaml(card.split("---")[1], where="README.md")
    files = {entry["config_name"]: entry["data_files"] for entry in head["configs"]}
    assert set(files) == {"trials", "studies", "summary", *(["pictures"] if pictures else [])}
    assert {path.name for path in out.iterdir()} == {*files.values(), "README.md"}
    trials = pd.read_parquet(out / files["trials"])
    assert list(trials["trial_id"]) == list(pd.read_parquet(folder / "trials")["trial_id"])
    assert "host" not in trials
    assert "| none | generic | 2 | 12.5 | 11.0 | 1.5 |" in card
    for path in out.iterdir():
        assert b"secret" not in path.read_bytes()
        assert b"mine" not in path.read_bytes()
    if pictures:
        told = json.loads(pq.read_schema(out / files["pictures"]).metadata[b"huggingface"])
        assert told["info"]["features"]["reconstruction"] == {"_type": "Image"}
        assert len(pd.read_parquet(out / files["pictures"])) == 4


def test_runs_have_parameters_metrics_with_steps_and_tags(folder: Path) -> None:
    out = folder.parent / "runs"
    assert gradsweep("export", folder, "--mlflow", "--out", out).returncode == 0
    (experiment,) = out.iterdir()
    meta: Any = read_yaml((experiment / "meta.yaml").read_text(), where="meta.yaml")
    assert (meta["name"], meta["experiment_id"], meta["lifecycle_stage"]) == (
        "small",
        experiment.name,
        "active",
    )
    runs = {
        read_yaml((path / "meta.yaml").read_text(), where="meta.yaml")["run_name"]: path  # type: ignore[index,call-overload]
        for path in experiment.iterdir()
        if path.is_dir()
    }
    assert set(runs) == {"none / generic", "dp / generic"}
    run = runs["dp / generic"]
    assert len(run.name) == 32
    assert (run / "params" / "hp.objective.kind").read_text() == "l2"
    assert (run / "params" / "hp.lr").read_text() == "0.1"
    assert (run / "tags" / "failure").read_text() == 'a "quoted", comma'
    assert (run / "tags" / "mlflow.source.git.commit").read_text() == "c0ffee"

    def points(name: str) -> list[tuple[float, int]]:
        lines = [line.split() for line in (run / "metrics" / name).read_text().splitlines()]
        return [(float(value), int(step)) for _, value, step in lines]

    assert points("tuning_psnr") == [(9.0, 0), (12.5, 2)]
    assert points("test_psnr") == [(12.0, 2), (13.0, 3)]
    assert points("psnr") == [(12.5, 0)]
    assert points("tests_failed") == [(1.0, 0)]
    assert not (run / "metrics" / "psnr_low").exists(), "two victims have no interval"


def test_what_cannot_be_exported_is_one_line(folder: Path, tmp_path: Path) -> None:
    refused(gradsweep("export", folder), "give one of --csv, --hf and --mlflow")
    refused(gradsweep("export", folder, "--csv", "--hf"), "give one of")
    refused(gradsweep("export", folder, "--csv", "--pictures"), "--pictures goes with --hf alone")
    refused(gradsweep("export", tmp_path / "smal", "--csv"), "is not there", "Did you mean 'small'?")
    (tmp_path / "empty").mkdir()
    refused(gradsweep("export", tmp_path / "empty", "--csv"), "holds no results")
    assert not (tmp_path / "empty-csv").exists()
    refused(gradsweep("export", folder, "--csv", "--out", folder), "is there already")
    (tmp_path / "file").write_text("")
    refused(gradsweep("export", folder, "--csv", "--out", tmp_path / "file" / "out"), "Cannot write")


_READ_DATA_SET = """
import sys
from datasets import load_dataset
trials = load_dataset(sys.argv[1], "trials")["train"]
picture = load_dataset(sys.argv[1], "pictures")["train"][0]["reconstruction"]
print(len(trials), picture.size)
"""
_READ_RUNS = """
import sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
(experiment,) = client.search_experiments()
for run in sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.run_name):
    history = client.get_metric_history(run.info.run_id, "tuning_psnr")
    print(run.info.run_name, run.data.params["hp.lr"], run.data.metrics["psnr"], [point.step for point in history])
"""


def _read(script: str, *arguments: object) -> str:
    """What a script prints in the environment of readers; skips where there is none."""
    folder = os.environ.get("GRADSWEEP_RECIPES")
    python = Path(folder or "").resolve() / "readers" / "bin" / "python"
    if not folder or not python.exists():
        pytest.skip("GRADSWEEP_RECIPES names no folder with an environment `readers`; see make test-recipes")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "MLFLOW_ALLOW_FILE_STORE": "true"}
    home = {"HF_HOME": str(arguments[0]).removeprefix("file://") + "-home"}
    done = subprocess.run(
        [python, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, **offline, **home},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_datasets_reads_the_data_set(folder: Path) -> None:
    out = folder.parent / "set"
    gradsweep("export", folder, "--hf", "--out", out, "--pictures")
    assert _read(_READ_DATA_SET, out) == "5 (8, 8)\n"


def test_mlflow_reads_the_runs(folder: Path) -> None:
    out = folder.parent / "runs"
    gradsweep("export", folder, "--mlflow", "--out", out)
    assert _read(_READ_RUNS, out.as_uri()).splitlines() == [
        "dp / generic 0.1 12.5 [0, 2]",
        "none / generic 0.1 12.5 [0, 2]",
    ]
