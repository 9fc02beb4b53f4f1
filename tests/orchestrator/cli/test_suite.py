"""Suites on the command line: run in their small form, resumed, analysed; each run has its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orchestrator.io.cache_upkeep import entries
from tests.support.command import gradsweep, refused
from tests.support.paths import ROOT

SMALL = ("--set", "scale=small", "--set", "execution.device=cpu", "--address", "serial")
IDENTITY = ["trial_id", "image_id", "psnr", "mse", "seed"]


def rows(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "trials")


@pytest.fixture(scope="module")
def ran(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small form of `multi_client`, run once for these tests."""
    out = tmp_path_factory.mktemp("suites") / "multi"
    done = gradsweep(
        "suite", "multi_client", *SMALL, "--set", f"data.root={faces_root}", OUT_DIR=str(out), SEED="3"
    )
    assert done.returncode == 0, done.stderr
    return out


def test_ten_clients_are_clients_and_each_has_a_folder(ran: Path) -> None:
    found = rows(ran)
    assert sorted(found["cell"]) == ["bmk_c0", "bmk_c1", "bmk_c2"]
    assert dict(zip(found["cell"], found["client"], strict=True)) == {f"bmk_c{i}": i for i in range(3)}
    assert found["image_id"].nunique() == 3, "each client has its own image"
    for row in found.to_dict("records"):
        folder = ran / str(row["cell"])
        metrics = dict(line.split(": ", 1) for line in (folder / "metrics.txt").read_text().splitlines())
        assert float(metrics["PSNR"]) == pytest.approx(row["psnr"], abs=1e-3)
        assert float(metrics["PSNR_Range4"]) == pytest.approx(row["psnr"] + 20 * np.log10(2), abs=1e-2)
        assert metrics["Images"] == "1 of 1"
        with Image.open(folder / "baseline_attack_result.png") as picture:
            assert picture.width > 100


def test_config_json_is_a_sweep_file_of_that_run_alone(ran: Path, tmp_path: Path) -> None:
    done = gradsweep(
        "sweep", ran / "bmk_c1" / "config.json", "--out", tmp_path / "again", "--address", "serial"
    )
    assert done.returncode == 0, done.stderr
    first = rows(ran).query("cell == 'bmk_c1'")[IDENTITY].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows(tmp_path / "again")[IDENTITY], first)


def test_the_analysis_is_the_mean_over_clients(ran: Path) -> None:
    done = gradsweep("analyze", "multi_client", "--results-dir", ran)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(ran / "runs.csv")
    found = rows(ran).set_index("cell").loc[table["run"]]
    np.testing.assert_allclose(table["psnr"], found["psnr"])
    np.testing.assert_allclose(table["psnr_range4"] - table["psnr"], 20 * np.log10(2), atol=1e-3)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("original"))
    _, clients, mean, range4, least, most, *_ = line.split()
    assert clients == "3"
    assert float(mean) == pytest.approx(found["psnr"].mean(), abs=0.051)
    assert float(range4) == pytest.approx(found["psnr"].mean() + 6.0206, abs=0.006)
    assert (float(least), float(most)) == pytest.approx((found["psnr"].min(), found["psnr"].max()), abs=0.006)
    assert "6.02 dB higher" in done.stdout
    assert done.stdout.startswith("Data: ")


def test_a_suite_that_was_run_is_resumed_and_another_is_not_mixed_with_it(
    ran: Path, faces_root: Path
) -> None:
    before = rows(ran)
    command = (*SMALL, "--set", f"data.root={faces_root}", "--out", ran)
    assert gradsweep("suite", "multi_client", *command, SEED="3").returncode == 0
    pd.testing.assert_frame_equal(rows(ran), before)
    refused(gradsweep("suite", "benchmark", *command), str(ran))


def test_a_single_run_lies_in_the_results_folder_itself(faces_root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    done = gradsweep(
        "suite",
        "showcase",
        *SMALL,
        "--set",
        f"data.root={faces_root}",
        "--out-dir",
        tmp_path / "s",
        "--cache",
        tmp_path / "cache",
        TARGET_CLIENT="2",
        NUM_ATTACK_CLIENTS="4",
    )
    assert done.returncode == 0, done.stderr
    assert "NUM_ATTACK_CLIENTS is set; the suite showcase has no use for it." in done.stdout
    assert "From the cache: 0 of 1 trials" in done.stdout
    assert "captures" in {entry.kind for entry in entries(tmp_path / "cache")}
    assert rows(tmp_path / "s")["client"].tolist() == [2]
    for name in ("baseline_attack_result.png", "metrics.txt", "config.json", "runs.csv", "report.html"):
        assert (tmp_path / "s" / name).is_file(), name
    assert json.loads((tmp_path / "s" / "config.json").read_text())["capture"]["client"] == 2


def test_a_dry_run_says_what_a_mode_would_run_and_writes_nothing(tmp_path: Path, faces_root: Path) -> None:
    root = ("--set", f"data.root={faces_root}", "--set", "scale=small", "--out", tmp_path / "out")
    done = gradsweep("suite", "base", "--mode", "ablation", "--dry-run", *root)
    assert done.returncode == 0, done.stderr
    for part in ("original/base/ablation", "original/base/batch", "original/base/realistic"):
        assert f"{part}:\nData:" in done.stdout
    assert "original/base/showcase" not in done.stdout
    assert "after_5_rounds" in done.stdout
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    refused(gradsweep("suite", "showcases"), "'showcases'", "Did you mean 'showcase'?")
    refused(gradsweep("suite", "showcase", "--mode", "all"), "showcase has no modes")
    refused(gradsweep("suite", "showcase", SEED="many"), "SEED", "integer")
    refused(
        gradsweep("analyze", "defenses", "--results-dir", tmp_path / "none"),
        "no results of the suite defenses",
    )


@pytest.mark.slow
def test_the_ladder_to_production_keeps_its_victims(faces_root: Path, tmp_path: Path) -> None:
    attack = "attackers.0.attack"
    deep = f"{attack}.convolutions.inversion"
    less = (f"{deep}.evaluations=8", f"{deep}.stages=2", f"{attack}.fallback.iterations=1")
    options = [word for each in (*less, f"data.root={faces_root}") for word in ("--set", each)]
    done = gradsweep("suite", "realism", *SMALL, *options, "--out", tmp_path / "r")
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows(tmp_path / "r").query("preselected")
    assert found["cell"].nunique() == 10
    files = found["image_id"].str.removesuffix(":flip")
    same = {cell: frozenset(names) for cell, names in files.groupby(found["cell"])}
    before = [name for name in same if name not in ("9-trained-weights", "10-secure-sum")]
    assert len({same[name] for name in before}) == 1, "every rung at initial weights has the same images"
    assert same["9-trained-weights"] == same["10-secure-sum"] != same["1-literature"]
    assert "Rung by rung" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch", "local_steps", "models"])
def test_ready_sweeps_have_a_small_form(name: str, faces_root: Path, tmp_path: Path) -> None:
    file = ROOT / "sweeps" / f"{name}.yaml"
    options = ("--set", f"data.root={faces_root}", *SMALL, "--out", tmp_path / name)
    done = gradsweep("sweep", file, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (rows(tmp_path / name)["status"] == "ok").all()


def test_an_override_that_one_part_refuses_starts_none(faces_root: Path, tmp_path: Path) -> None:
    """`base` has the parts showcase and ablation; the ablation's third attacker is not one of the showcase."""
    out = tmp_path / "base"
    done = gradsweep(
        *("suite", "base", *SMALL, "--set", f"data.root={faces_root}", "--set", "attackers.2.name=third"),
        OUT_DIR=str(out),
    )
    refused(done, "attackers.2")
    assert not out.exists()
