"""Sweeps that share a cache: the same rows, nothing computed twice, damage and changes are misses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from fl_core.base.errors import InputError
from orchestrator.config.parse import load_sweep
from orchestrator.config.plain import build
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver import sweep as driver
from orchestrator.driver.sweep import Outcome, run_sweep
from orchestrator.io import cache as cache_module
from orchestrator.io.cache import Cache, Entries, Kind
from orchestrator.results.store import read_images
from orchestrator.results.utility_files import utilities
from orchestrator.runtime.progress import Silent
from tests.support.command import gradsweep, refused
from tests.support.forked import FORKS
from tests.support.own import DEFENSE
from tests.support.small import comparable, sweep, tree

TRIALS = 2 * (2 + 2)
"""Of the small sweep: two cells, two suggestions on one tuning victim, two test victims."""


class Lines(Silent):
    """Keeps the lines that a person would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def shared(root: Path, **changes: Any) -> SweepConfig:
    """The small sweep after a round of training, with accuracies."""
    small: dict[str, Any] = {
        "study__suggestions": 2,
        "victims__tuning": 1,
        "victims__test": 2,
        "capture__round": 1,
        "utility": {"train": 1000},
    }
    return sweep(root, **small | changes)


def run(config: SweepConfig, out: Path, folder: Path | None) -> tuple[Outcome, dict[str, int], list[str]]:
    """The outcome, what was taken from the cache, and the lines."""
    reporter = Lines()
    cache = None if folder is None else Cache(folder, reporter.message)
    outcome = run_sweep(config, out, address="serial", reporter=reporter, cache=cache)
    return outcome, dict(cache.used) if cache else {}, reporter.lines


def figures(out: Path) -> pd.DataFrame:
    return comparable(out).drop(columns=["cached", "gpu_seconds"])


@pytest.fixture(scope="module")
def filled(many_faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished sweep that filled a cache; its results folder and the cache."""
    folder, out = (tmp_path_factory.mktemp(name) for name in ("cache", "first"))
    outcome, used, _ = run(shared(many_faces_root), out, folder)
    assert (outcome.trials, outcome.fresh, outcome.failed) == (TRIALS, TRIALS, 0)
    assert used == {}
    assert not pd.read_parquet(out / "trials")["cached"].any()
    return out, folder


def test_a_second_sweep_takes_everything_and_starts_no_worker(
    filled: tuple[Path, Path], many_faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, folder = filled
    monkeypatch.setattr(driver, "make_executor", None)
    outcome, used, _ = run(shared(many_faces_root), tmp_path, folder)
    assert (outcome.trials, outcome.fresh, outcome.failed) == (TRIALS, 0, 0)
    assert used == {"trials": TRIALS, "weights": 1, "accuracies": 2}
    pd.testing.assert_frame_equal(figures(tmp_path), figures(first))
    rows, before = (
        pd.read_parquet(out / "trials").sort_values(["trial_id", "image_id"]).reset_index(drop=True)
        for out in (tmp_path, first)
    )
    assert rows["cached"].all()
    measured = ["seconds", "cpu_seconds", "gpu_seconds", "peak_memory_mb", "host", "started_at", "versions"]
    pd.testing.assert_frame_equal(rows[measured], before[measured])
    assert utilities(tmp_path) == utilities(first)
    pictures = [sorted(map(str, read_images(out).to_pylist())) for out in (tmp_path, first)]
    assert pictures[0] == pictures[1]
    again, used, _ = run(shared(many_faces_root), tmp_path, folder)
    assert (again.trials, again.fresh) == (TRIALS, 0)
    assert used.get("trials", 0) == 0, "what the folder has is not taken twice"


def test_sweeps_that_share_cells_share_them_whatever_their_names(
    filled: tuple[Path, Path], many_faces_root: Path, tmp_path: Path
) -> None:
    first, folder = filled
    plain = tree(
        many_faces_root,
        study__suggestions=2,
        victims__tuning=1,
        victims__test=3,
        capture__round=1,
        name="other",
    )
    plain["cells"] = [plain["cells"][0] | {"name": "bare"}]
    outcome, used, _ = run(build(SweepConfig, plain, where="test"), tmp_path, folder)
    assert (outcome.trials, outcome.fresh) == (5, 1), "the third test victim is this sweep's own"
    assert used == {"trials": 4, "weights": 1}
    rows = pd.read_parquet(tmp_path / "trials")
    assert set(rows["cell"]) == {"bare"}
    assert rows["cached"].sum() == 4
    theirs = pd.read_parquet(first / "trials")
    theirs = theirs[(theirs["cell"] == "none") & (theirs["phase"] == "test")].set_index("victim")["psnr"]
    mine = rows[(rows["phase"] == "test") & rows["cached"]].set_index("victim")["psnr"]
    assert mine.to_dict() == theirs.to_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {"data__public": 3},
        {"attackers__0__attack__iterations": 9},
    ],
    ids=str,
)
def test_what_decides_a_figure_is_in_the_key(
    filled: tuple[Path, Path], many_faces_root: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    _, folder = filled
    plain = {"utility": None, "victims__test": 1, "study__suggestions": 1} | changes
    _, used, _ = run(shared(many_faces_root, **plain), tmp_path, folder)
    assert used.get("trials", 0) == 0


def test_other_pictures_under_the_same_names_are_a_miss(
    filled: tuple[Path, Path], many_faces_root: Path, tmp_path: Path
) -> None:
    _, folder = filled
    root = tmp_path / "faces"
    shutil.copytree(many_faces_root, root)
    picture = sorted(root.rglob("*.jpg"))[0]
    Image.new("RGB", Image.open(picture).size, "green").save(picture)
    config = shared(root, utility=None, victims__test=1, study__suggestions=1)
    _, used, _ = run(config, tmp_path / "out", folder)
    assert used == {}


def test_other_code_is_a_miss(
    filled: tuple[Path, Path], many_faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = filled
    monkeypatch.setattr(cache_module, "code_digest", lambda: "another")
    config = shared(many_faces_root, utility=None, victims__test=1, study__suggestions=1)
    assert run(config, tmp_path, folder)[1] == {}


@pytest.mark.slow
def test_damaged_entries_are_misses_with_one_line_each_and_are_made_anew(
    many_faces_root: Path, tmp_path: Path
) -> None:
    folder, outs = tmp_path / "cache", [tmp_path / name for name in "abc"]
    folder.mkdir()
    config = shared(many_faces_root, study__suggestions=1)
    run(config, outs[0], folder)
    entries = {path.parent.name: path for path in sorted(folder.glob("*/*/*"))}
    damage = {
        "trials": ("trial.json", b"psnr"),
        "weights": (f"{next(folder.glob('*/weights/*/*')).name}", None),
        "accuracies": ("accuracy.json", b"accuracy"),
        "captures": ("truth.safetensors", None),
    }
    assert entries.keys() == damage.keys()
    for kind, (name, word) in damage.items():
        path = entries[kind] / name
        content = path.read_bytes()
        # A figure is swapped, or a byte turned: the file can be read and is not what was written.
        changed = (
            content[:-1] + bytes([content[-1] ^ 1]) if word is None else content.replace(b"0.", b"1.", 1)
        )
        assert changed != content
        path.write_bytes(changed)
    _, used, lines = run(config, outs[1], folder)
    said = [line for line in lines if line.startswith("the cache's")]
    # The capture that is damaged belongs to a trial that the cache has, unless it is that of the damaged trial.
    assert {"trials", "weights", "accuracies"} <= {
        part for line in said for part in damage if f"/{part}/" in line
    }
    assert all("is damaged" in line and "checksum" in line for line in said), said
    assert used["trials"] == 6 - 1
    pd.testing.assert_frame_equal(figures(outs[1]), figures(outs[0]))
    _, used, lines = run(config, outs[2], folder)
    assert used["trials"] == 6
    assert used["accuracies"] == 2
    assert not [line for line in lines if line.startswith("the cache's")]


def test_device_threads_and_pictures_are_part_of_every_key(tmp_path: Path) -> None:
    cache = Cache(tmp_path, print)
    pictures: dict[Kind, str] = {"weights": "a", "accuracies": "b"}
    mine = Entries(cache=cache, context={"device": "cpu", "threads": 1}, pictures=pictures)
    others = [
        dataclasses.replace(mine, context={"device": "cpu", "threads": 2}),
        dataclasses.replace(mine, pictures=pictures | {"weights": "c"}),
    ]
    mine.write("weights", "key", lambda: {"file": b"content"})
    assert mine.read("weights", "key", dict) == {"file": b"content"}
    assert [each.read("weights", "key", dict) for each in others] == [None, None]
    assert dataclasses.replace(mine, pictures=pictures | {"accuracies": "c"}).read("weights", "key", dict)
    mine.write("weights", "key", lambda: {"file": b"other"})
    assert mine.read("weights", "key", dict) == {"file": b"content"}, "who comes second leaves the first's"
    assert Entries().read("weights", "key", dict) is None


def test_failed_trials_are_not_kept(faces_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    config = shared(
        faces_root,
        utility=None,
        attackers=[
            {"name": "fine", "attack": {"kind": "matching", "iterations": 3}},
            {"name": "wild", "attack": {"kind": "matching", "iterations": 3, "lr": 1e30, "preset": "none"}},
        ],
    )
    outcome, _, _ = run(config, tmp_path / "a", folder)
    rows = pd.read_parquet(tmp_path / "a" / "trials")
    assert 0 < outcome.failed < outcome.trials, "one attacker leaves the numbers that there are"
    again, used, _ = run(config, tmp_path / "b", folder)
    assert again.failed == outcome.failed
    assert used["trials"] == (rows["status"] == "ok").sum()


def test_a_changed_own_class_is_a_miss_and_code_that_nobody_can_read_is_not_kept(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, installed = tmp_path / "cache", tmp_path / "installed"
    folder.mkdir()
    installed.mkdir()
    code = tmp_path / "own_blur.py"

    def sweep_file(kind: str) -> SweepConfig:
        plain = tree(faces_root, study__suggestions=1, victims__tuning=1, victims__test=1, capture__round=0)
        plain["cells"] = [{"name": "own", "defense": [{"kind": kind}]}]
        path = tmp_path / "sweep.yaml"
        path.write_text(json.dumps(plain))
        return load_sweep(path, [])

    code.write_text(DEFENSE)
    config = sweep_file("own_blur.py:Blur")
    run(config, tmp_path / "a", folder)
    assert run(config, tmp_path / "b", folder)[1] == {"trials": 2}
    code.write_text(DEFENSE.replace("+ noise[name]", "+ 2 * noise[name]"))
    assert run(sweep_file("own_blur.py:Blur"), tmp_path / "c", folder)[1] == {}
    (installed / "blur_installed.py").write_text(DEFENSE)
    monkeypatch.syspath_prepend(installed)
    config = sweep_file("blur_installed:Blur")
    before = sorted(folder.rglob("*"))
    run(config, tmp_path / "d", folder)
    assert sorted(folder.rglob("*")) == before
    assert run(config, tmp_path / "e", folder)[1] == {}


def _drive(config: SweepConfig, out: Path, folder: Path, ready: Any) -> None:
    ready.wait()
    run(config, out, folder)


@pytest.mark.slow
def test_two_drivers_fill_one_cache_at_once(
    filled: tuple[Path, Path], many_faces_root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    ready = FORKS.Barrier(2)
    config, outs = shared(many_faces_root), [tmp_path / name for name in "ab"]
    drivers = [FORKS.Process(target=_drive, args=(config, out, folder, ready)) for out in outs]
    for each in drivers:
        each.start()
    for each in drivers:
        each.join(240)
    assert [each.exitcode for each in drivers] == [0, 0]
    for out in outs:
        pd.testing.assert_frame_equal(figures(out), figures(filled[0]))
    assert not list(folder.rglob("_*")), "nothing half written is left"
    _, used, lines = run(config, tmp_path / "c", folder)
    assert used["trials"] == TRIALS
    assert not [line for line in lines if "damaged" in line]
    pd.testing.assert_frame_equal(figures(tmp_path / "c"), figures(filled[0]))


def test_a_cache_that_cannot_be_used_is_a_sentence(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(tree(faces_root)))
    missing = tmp_path / "missing"
    refused(
        gradsweep("sweep", file, "--cache", missing),
        "--cache",
        str(missing),
        "is not there",
        "make the folder",
    )
    refused(gradsweep("sweep", file, "--cache", file), str(file), "is no folder")
    closed = tmp_path / "closed"
    closed.mkdir()

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refuse)
        with pytest.raises(InputError, match="closed cannot be written to: Read-only file system"):
            Cache(closed, print)


def test_a_cache_that_fills_up_ends_no_sweep(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    whole = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if folder in self.parents and "w" in mode:
            raise OSError(28, "No space left on device")
        return whole(self, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", full)
    config = shared(faces_root, utility=None, victims__test=1, study__suggestions=1)
    outcome, _, lines = run(config, tmp_path / "out", folder)
    assert (outcome.fresh, outcome.failed) == (4, 0)
    assert [line for line in lines if "takes no more" in line] == [
        f"the cache {folder} takes no more (No space left on device); the sweep goes on without"
    ]
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_the_command_says_what_came_from_the_cache(
    filled: tuple[Path, Path], many_faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sweep.yaml"
    plain = tree(many_faces_root, study__suggestions=2, victims__tuning=1, victims__test=2, capture__round=1)
    file.write_text(json.dumps(plain))
    monkeypatch.setattr("orchestrator.cli.sweeps.report_on", lambda *_: None)
    done = gradsweep("sweep", file, "--out", tmp_path / "out", "--cache", filled[1], "--address", "serial")
    assert done.returncode == 0, done.stderr
    assert f"From the cache: {TRIALS} of {TRIALS} trials, 0 captures, 1 training." in done.stdout
    assert f"{TRIALS} trials, 0 of them run now, 0 failed." in done.stdout


def test_a_retry_takes_what_another_sweep_left(
    filled: tuple[Path, Path], many_faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with one cell is extended by the other from the cache alone."""
    out = tmp_path / "out"
    config = shared(many_faces_root)
    run_sweep(config, out, address="serial", reporter=Lines(), cells=["none"])
    monkeypatch.setattr("orchestrator.cli.results.reporting.report_on", lambda *_: None)
    done = gradsweep("retry", out, "--cache", filled[1], "--address", "serial")
    assert done.returncode == 0, done.stderr
    assert f"From the cache: {TRIALS // 2} of {TRIALS} trials" in done.stdout
    pd.testing.assert_frame_equal(figures(out), figures(filled[0]))
