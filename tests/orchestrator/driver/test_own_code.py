"""Sweeps with a user's own defense, attack, objective and prior, from the file to the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summary_lines
from orchestrator.config.parse import load_sweep
from orchestrator.report.report import write_report
from tests.support.command import gradsweep, refused
from tests.support.forked import Child
from tests.support.own import ATTACK, DEFENSE, PARTS, write_own
from tests.support.small import comparable, run, run_quietly


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, faces_root: Path) -> Path:
    """A sweep with all four, run in this process, and its files."""
    folder = tmp_path_factory.mktemp("own")
    run_quietly(load_sweep(write_own(folder, faces_root)), folder / "out")
    return folder


def test_all_four_are_run_and_shown_by_their_names(folder: Path) -> None:
    rows = pd.read_parquet(folder / "out" / "trials")
    assert set(rows["status"]) == {"ok"}, rows["error"].dropna().unique()
    blur = rows[rows["cell"] == "blur"]
    assert set(blur["defense"]) == {"my_defense.py:Blur+prune"}
    first = json.loads(blur["defense_params"].iloc[0])[0]
    assert first == {"kind": "my_defense.py:Blur", "sigma": 0.2, "offsets": [0.0]}
    mine, loop = (rows[rows["attacker"] == name] for name in ("mine", "loop"))
    assert set(mine["attack"]) == {"my_attack.py:Mine"}
    assert set(mine["method"]) == {"mine"}
    parts = json.loads(loop["attack_params"].iloc[0])
    assert parts["priors"] == [{"kind": "my_parts.py:Smooth", "weight": 0.01}]
    assert parts["objective"]["kind"] == "my_parts.py:Huber"
    assert "source" not in "".join(rows["attack_params"])


def test_the_fields_of_own_classes_are_searched(folder: Path) -> None:
    rows = pd.read_parquet(folder / "out" / "trials")
    mine = rows[(rows["attacker"] == "mine") & (rows["phase"] == "tune")]
    assert set(mine["hp_steps"]) <= {1, 2, 3, 4, 5}
    assert (mine["hp_steps"] == mine["iterations"]).all(), "the attack ran with what was drawn"
    deltas = rows[(rows["attacker"] == "loop") & (rows["phase"] == "tune")]
    used = [json.loads(text)["objective"]["delta"] for text in deltas["attack_params"]]
    (column,) = [name for name in rows.columns if name.startswith("hp_") and "delta" in name]
    assert list(deltas[column]) == used


def test_the_report_names_them(folder: Path) -> None:
    page = write_report(folder / "out", summary_lines(folder / "out")).read_text(encoding="utf-8")
    assert "&#34;kind&#34;: &#34;my_defense.py:Blur&#34;" in page
    assert "draw_noise" not in page, "the text is in sweep.json"


@pytest.mark.slow
def test_the_same_rows_on_workers_that_have_no_such_files(
    folder: Path, tmp_path: Path, faces_root: Path
) -> None:
    path = write_own(tmp_path, faces_root)
    config = load_sweep(path, ["execution.workers=1"])
    shutil.rmtree(tmp_path / "code")
    run(config, tmp_path / "out", address="local")
    pd.testing.assert_frame_equal(comparable(tmp_path / "out"), comparable(folder / "out"))


def test_a_resumed_sweep_finds_all_done_and_refuses_changed_text(folder: Path, faces_root: Path) -> None:
    before = comparable(folder / "out")
    assert run(load_sweep(folder / "sweep.yaml"), folder / "out").fresh == 0
    pd.testing.assert_frame_equal(comparable(folder / "out"), before)
    changed = folder / "changed"
    path = write_own(changed, faces_root)
    (changed / "code" / "my_attack.py").write_text(f"{ATTACK}# changed\n")
    with pytest.raises(InputError, match=r"attackers\.mine\.attack\.code\.source was .* and is now"):
        run(load_sweep(path), folder / "out")


@pytest.mark.slow
def test_reading_results_runs_no_code_of_theirs(tmp_path: Path, faces_root: Path) -> None:
    """Somebody else's results folder may hold any text."""
    path = write_own(tmp_path, faces_root)
    mark = tmp_path / "was_run"
    for name, text in {"my_defense.py": DEFENSE, "my_attack.py": ATTACK, "my_parts.py": PARTS}.items():
        marked = text.replace(
            "\nfrom dataclasses", f"\nopen({str(mark)!r}, 'a').close()\nfrom dataclasses", 1
        )
        (tmp_path / "code" / name).write_text(marked)
    cut = ["victims.test=1", "victims.tuning=0", "attackers.0.search={}", "attackers.1.search={}"]
    run_quietly(load_sweep(path, cut), tmp_path / "out")
    assert mark.exists()
    mark.unlink()
    for command in ("report", "summary"):
        if command == "report" or gradsweep(command, "--help").returncode == 0:
            # In a process that has not run this code for the sweep.
            child = Child([command, str(tmp_path / "out")], tmp_path / "log")
            assert child.wait(120) == 0, (tmp_path / "log").read_text()
    assert not mark.exists()


_FAILING = {
    "my_defense.py": DEFENSE.replace(
        "        noise = draw_noise", "        1 / 0\n        noise = draw_noise"
    ),
    "my_attack.py": ATTACK.replace(
        "        images = torch.full", "        1 / 0\n        images = torch.full"
    ),
    "my_parts.py": PARTS.replace("        squared = ", "        1 / 0\n        squared = "),
}


@pytest.mark.parametrize(
    ("file", "fails", "says"),
    [
        ("my_defense.py", lambda row: row["cell"] == "blur", "my_defense.py:Blur failed in on_update"),
        ("my_attack.py", lambda row: row["attacker"] == "mine", "my_attack.py:Mine failed in __call__"),
        ("my_parts.py", lambda row: row["attacker"] == "loop", "my_parts.py:Huber failed in loss"),
    ],
)
def test_what_fails_in_a_trial_is_a_failed_row_with_file_and_line(
    file: str, fails: Any, says: str, tmp_path: Path, faces_root: Path
) -> None:
    path = write_own(tmp_path, faces_root)
    (tmp_path / "code" / file).write_text(_FAILING[file])
    line = _FAILING[file].splitlines().index("        1 / 0") + 1
    cut = ["victims.test=1", "victims.tuning=0", "attackers.0.search={}", "attackers.1.search={}"]
    rows = run_quietly(load_sweep(path, cut), tmp_path / "out")
    assert len(rows) == 4
    expected = rows.apply(fails, axis=1)
    assert list(rows["status"] == "failed") == list(expected)
    for error in rows[expected]["error"]:
        assert says in error
        assert f"ZeroDivisionError: division by zero ({file}, line {line})" in error


@pytest.mark.slow
def test_a_failing_defense_leaves_its_cell_without_an_accuracy(tmp_path: Path, faces_root: Path) -> None:
    path = write_own(tmp_path, faces_root)
    (tmp_path / "code" / "my_defense.py").write_text(_FAILING["my_defense.py"])
    cut = ["victims.test=1", "victims.tuning=0", "attackers.0.search={}", "attackers.1.search={}"]
    small = {"train": 1000, "batch_size": 10}
    config = load_sweep(path, [*cut, f"utility={json.dumps(small)}", "data.kind=synthetic"])
    config = _with_many_faces(config, tmp_path)
    rows = run_quietly(config, tmp_path / "out")
    assert rows[rows["cell"] == "none"]["accuracy"].notna().all()
    assert rows[rows["cell"] == "blur"]["accuracy"].isna().all()
    assert set(rows[rows["cell"] == "blur"]["status"]) == {"failed"}


def _with_many_faces(config: Any, folder: Path) -> Any:
    import dataclasses

    data = dataclasses.replace(config.data, root=str(folder / "faces"), synthetic_images=1400)
    return dataclasses.replace(config, data=data)


@pytest.mark.slow
def test_a_threshold_over_an_own_field(tmp_path: Path, faces_root: Path) -> None:
    sweep = f"""
name: threshold
seed: 5
data: {{kind: celeba, root: "{faces_root}", train: 24, valid: 12, public: 8}}
model: {{kind: mlp, image_size: 16}}
federation: {{clients: 4, rounds: 1}}
victims: {{tuning: 0, test: 5}}
execution: {{device: cpu, controls: false}}
cells: [{{name: none}}]
thresholds:
  - name: blur
    defense: [{{kind: "code/my_defense.py:Blur"}}]
    strength: {{path: defense.0.sigma, weak: 0.001, strong: 1.0, points: 2}}
    refine: 1
attackers: [{{name: generic, attack: analytic}}]
"""
    path = write_own(tmp_path, faces_root, sweep=sweep.replace("{", "{{").replace("}", "}}"))
    config = load_sweep(path)
    assert [cell.name for cell in config.cells] == ["none", "blur_0.001", "blur_1"]
    done = gradsweep("sweep", path, "--address", "serial", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pd.read_parquet(tmp_path / "out" / "trials")
    sigmas = {
        name: json.loads(text)[0]["sigma"]
        for name, text in zip(rows["cell"], rows["defense_params"], strict=True)
        if name != "none"
    }
    assert all(name == f"blur_{sigma:g}" for name, sigma in sigmas.items())
    assert {"blur_0.001", "blur_1"} <= sigmas.keys()
    psnr = rows.groupby("cell")["psnr"].mean()
    assert psnr["blur_0.001"] > psnr["blur_1"]


def test_a_dry_run_takes_them_and_refuses_mistakes_in_one_line(tmp_path: Path, faces_root: Path) -> None:
    path = write_own(tmp_path, faces_root)
    out = tmp_path / "out"
    done = gradsweep("sweep", path, "--dry-run", "--no-calibrate", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "blur / mine" in done.stdout
    refused(
        gradsweep(
            "sweep", path, "--dry-run", "--no-calibrate", "--out", out, "--set", "cells.1.defense.0.sgima=1"
        ),
        "Did you mean 'sigma'?",
    )
    broken = DEFENSE.replace("return (Noise(distribution", "return (Nise(distribution")
    (tmp_path / "code" / "my_defense.py").write_text(broken)
    refused(
        gradsweep("sweep", path, "--dry-run", "--no-calibrate", "--out", out),
        "failed in facts: NameError",
        "line ",
    )
