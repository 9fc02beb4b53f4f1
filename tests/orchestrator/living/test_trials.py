"""One trial of a folder: shown, and run again with the same figures."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from orchestrator.living.find import find_trial
from orchestrator.living.page import convergence, drawn, show_trial
from orchestrator.living.replay import replay_trial
from orchestrator.results.pictures import decode
from orchestrator.results.schema import trials_schema
from orchestrator.results.store import read_images
from tests.support.command import gradsweep, refused
from tests.support.results_folder import failed_row, row, suggestion, trial, write_folder
from tests.support.small import run_quietly, sweep


@pytest.fixture(scope="module")
def small(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small sweep with pictures, trained for a round, at two seeds."""
    out = tmp_path_factory.mktemp("trials") / "out"
    changes: dict[str, Any] = {"execution__images": "test", "study__suggestions": 2, "capture__round": 1}
    run_quietly(sweep(faces_root, seeds=2, **changes), out)
    return out


def rows_of(out: Path, **wanted: Any) -> pd.DataFrame:
    rows = pd.read_parquet(out / "trials")
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    return rows


def test_a_trial_is_found_by_id_beginning_and_victim(small: Path) -> None:
    best = rows_of(small, cell="dp", phase="test", victim=3, sweep_seed=5)
    (trial_id,) = best["trial_id"]
    for name in (trial_id, trial_id[:10], "dp/generic/3"):
        assert [found["trial_id"] for found in find_trial(small, name)] == [trial_id]


def test_what_is_not_there_is_refused_with_what_was_meant(small: Path, tmp_path: Path) -> None:
    trial_id = str(rows_of(small)["trial_id"].iloc[0])
    swapped = trial_id[:8] + trial_id[9] + trial_id[8] + trial_id[10:-1] + "x"
    refused(gradsweep("show", small, swapped), "has no trial", f"Did you mean '{trial_id}'")
    refused(gradsweep("show", small, "noen/generic/3"), "Unknown cell 'noen'", "Did you mean 'none'?")
    refused(gradsweep("show", small, "dp/genric/3"), "Unknown attacker", "'generic'")
    refused(gradsweep("show", small, "dp/generic/1"), "no test victim '1'", "it has: 2, 3, 4")
    refused(gradsweep("show", tmp_path / "gone", "dp"), "is not there")
    refused(gradsweep("replay", tmp_path, "dp"), "holds no results")
    several = [trial(row(victim=victim)) for victim in (2, 3)]
    refused(gradsweep("show", write_folder(tmp_path, several), "none-"), "2 trials that begin with 'none-'")


def test_the_page_has_settings_figures_and_the_command(small: Path, tmp_path: Path) -> None:
    picture = tmp_path / "pair.png"
    done = gradsweep("show", small, "dp/generic/3", "--picture", picture)
    assert done.returncode == 0, done.stderr
    (found,) = find_trial(small, "dp/generic/3")
    for text in (
        *("ok", "dp_update", "test, victim 3", f"lr={found['hp_lr']:.4g}", found["image_id"]),
        *(f"{found['psnr']:.1f}", f"{found['match_loss']:.4g}", "convergence: "),
        f"Run it again: gradsweep replay {small} {found['trial_id']}",
    ):
        assert text in done.stdout
    kept = read_images(small).to_pandas().set_index("trial_id").loc[found["trial_id"]]
    saved = np.asarray(Image.open(picture))
    np.testing.assert_array_equal(saved[:16], decode(kept["original"]))
    np.testing.assert_array_equal(saved[16:], decode(kept["reconstruction"]))


def test_a_failed_trial_has_its_error_and_no_figures(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [trial(failed_row(error="out of memory"))])
    done = gradsweep("show", folder, "none/generic/2")
    assert "out of memory" in done.stdout
    assert "No pictures of it were kept" in done.stdout
    refused(gradsweep("show", folder, "none/generic/2", "--picture", tmp_path / "p.png"), "keeps no pictures")


def test_pictures_are_drawn_on_a_terminal(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [trial(row(), pictures=True)])
    printed = io.StringIO()
    console = Console(force_terminal=True, color_system="truecolor", width=100, file=printed)
    show_trial(folder, find_trial(folder, "none/generic/2"), console)
    assert printed.getvalue().count("▀") == 2 * 32 * 16
    flat = np.full((2, 2, 3), 7, dtype=np.uint8)
    assert {span.style.color.triplet for span in drawn(flat).spans if not isinstance(span.style, str)} == {  # type: ignore[union-attr]
        (7, 7, 7)
    }


def test_convergence_is_on_a_logarithmic_scale() -> None:
    text = convergence([[1, 1.0], [2, 0.1], [3, 0.01]])
    assert "█▅▁" in text or "█▄▁" in text
    assert "loss 1 at iteration 1, 0.01 at 3" in text
    assert convergence([[1, 1.0]]) == ""
    assert "▁▁" in convergence([[1, 0.0], [2, 0.0]])


def test_rows_hold_how_the_loss_fell(small: Path) -> None:
    for text in rows_of(small)["convergence"]:
        points = json.loads(text)
        assert [done for done, _ in points] == list(range(1, 9))
        losses = [loss for _, loss in points]
        assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("kept", [True, False], ids=["captures kept", "captures gone"])
@pytest.mark.parametrize(("cell", "phase", "seed"), [("dp", "test", 6), ("none", "tune", 5)])
def test_a_trial_runs_again_with_the_same_figures(
    kept: bool, cell: str, phase: str, seed: int, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(small, out)
    if not kept:
        shutil.rmtree(out / "captures")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    trial_id = str(rows_of(out, cell=cell, phase=phase, sweep_seed=seed)["trial_id"].iloc[-1])
    done = replay_trial(out, trial_id)
    assert done.same, done.differences
    assert [now["psnr"] for now in done.now] == [old["psnr"] for old in done.before]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_other_figures_are_named(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(small, out)
    rows = rows_of(out)
    chosen = (rows["cell"] == "dp") & (rows["phase"] == "test") & (rows["victim"] == 3)
    rows.loc[chosen, "psnr"] += 1.0
    rows["host"] = "another"
    for path in (out / "trials").glob("*"):
        path.unlink()
    columns = trials_schema(attacker.space.every() for attacker in sweep(Path()).attackers)
    table = columns.empty_table().from_pandas(rows, schema=columns, preserve_index=False)
    import pyarrow.parquet as pq

    pq.write_table(table.replace_schema_metadata({"gradsweep": "4"}), out / "trials" / "part-000001.parquet")
    done = gradsweep("replay", out, "dp/generic/3")
    assert done.returncode == 1, done.stderr
    assert "gave other figures" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if ".jpg " in line] == ["psnr"]
    assert "host was another and is" in done.stdout
    same = gradsweep("replay", out, "none/generic/3")
    assert (same.returncode, "the same figures to the last digit" in same.stdout) == (0, True)


def test_a_folder_that_does_not_fit_its_trials_is_refused(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(small, out)
    noted = json.loads((out / "sweep.json").read_text())
    del noted["checksum"]
    noted["config"]["attackers"][0]["attack"]["iterations"] = 9
    (out / "sweep.json").write_text(json.dumps(noted))
    refused(gradsweep("replay", out, "dp/generic/3"), "give trial", "have changed")
    noted["config"]["data"]["root"] = str(tmp_path / "elsewhere")
    (out / "sweep.json").write_text(json.dumps(noted))
    refused(gradsweep("replay", out, "dp/generic/3"), "elsewhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_read(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(small, out)
    for path in [out, *out.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert gradsweep("replay", out, "dp/generic/3").returncode == 0


def test_an_attack_that_fails_again_is_the_same(tmp_path: Path, small: Path, monkeypatch: Any) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no luck")

    monkeypatch.setattr("orchestrator.living.replay.trial_job", broken)
    done = gradsweep("replay", small, "dp/generic/3")
    assert done.returncode == 1
    assert "RuntimeError: no luck" in done.stdout


def test_a_suggestion_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path, [trial(row(suggestion=0))], suggestions=[suggestion(0, 3.0)], config=sweep(Path("gone"))
    )
    (folder / "studies" / "studies.parquet").unlink()
    refused(gradsweep("replay", folder, "none-generic-test-0-2"), "gone")
