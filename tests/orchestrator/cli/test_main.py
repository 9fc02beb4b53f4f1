"""The command line as a person meets it: exit codes, one clear line, no traceback."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from orchestrator.cli import sweeps
from orchestrator.execute.lifelines import RayLost
from orchestrator.runtime.stop import EXIT_CODE
from tests.support.command import as_main, gradsweep, refused
from tests.support.paths import ROOT
from tests.support.small import tree


@pytest.fixture
def file(faces_root: Path, tmp_path: Path) -> Path:
    return write(tmp_path, tree(faces_root, study__suggestions=2, victims={"tuning": 1, "test": 2}))


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "small.yaml"
    YAML(typ="safe", pure=True).dump(content, path)
    return path


def test_a_sweep_prints_its_table_and_report_and_runs_only_once(
    file: Path, faces_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = gradsweep("sweep", file, "--out", out, "--address", "serial")
    assert first.returncode == 0, first.stderr
    for part in (
        "none / generic",
        "dp / generic",
        "won by suggestion",
        f"Data: CelebA layout at {faces_root}, attribute Male",
        "8 trials, 8 of them run now, 0 failed",
    ):
        assert part in first.stdout
    assert (out / "report.html").is_file()
    assert (out / "summary.parquet").is_file()
    assert list((out / "figures").glob("*.png"))
    again = gradsweep("sweep", file, "--out", out, "--address", "serial")
    assert again.returncode == 0
    assert "8 trials, 0 of them run now" in again.stdout
    report = gradsweep("report", out)
    assert report.returncode == 0
    assert "none / generic" in report.stdout
    assert f"Data: CelebA layout at {faces_root}, attribute Male" in report.stdout


def test_a_dry_run_says_what_would_happen_and_does_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gradsweep("sweep", file, "--out", tmp_path / "out", "--dry-run")
    assert done.returncode == 0
    assert "CPU-hours" in done.stdout
    assert "Planned: 1 tuning victims and 2 test victims in each cell" in done.stdout
    total = next(line for line in done.stdout.splitlines() if line.startswith("2 cells x 1 attackers"))
    assert total.split()[5] == "8", "two cells of two suggestions on one victim, and two tests"
    assert not (tmp_path / "out").exists()
    nothing = ("--set", "data.kind=auto", "--set", "data.root=data", "--set", "data.synthetic_images=64")
    done = gradsweep("sweep", file, "--dry-run", *nothing)
    assert "Data: synthetic faces (seed 0, 64), attribute Male" in done.stdout
    for named in ("~/nowhere", "Data", str(file)):
        refused(gradsweep("sweep", file, "--dry-run", "--set", f"data.root={named}"))
    assert list(tmp_path.iterdir()) == [file]


def test_paths_of_data_may_begin_with_a_home_folder(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    assert gradsweep("data", "synth", "--out=~/faces", "--num=8").returncode == 0
    assert gradsweep("data", "check", "~/faces").returncode == 0
    assert [path.name for path in tmp_path.rglob("img_align_celeba")] == ["img_align_celeba"]
    assert not (tmp_path / "~").exists()
    refused(gradsweep("run", "--data-root", "~/facse", "--out-dir", "o"), "Did you mean", "home/faces?")
    refused(
        gradsweep("run", "--data-root", "~/faces/img_align_celeba", "--out-dir", "o"), "home/faces instead"
    )
    assert not (tmp_path / "o" / "trials").exists()


UNWRITTEN = ("data.kind=synthetic", "data.root=data", "data.synthetic_images=64")


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["victims.test=500", "data.train=50"], "501 victims were asked for"),
        (["data.train=1000"], "fewer than the 1000 asked for"),
        (["capture.round=7"], "the federation has rounds 0 to 1"),
        (["execution.device=gpu"], "Unknown device 'gpu'"),
        (["data.attribute=Mael"], "Did you mean 'Male'"),
        ([*UNWRITTEN, "victims.test=500"], "victims were asked for"),
        ([*UNWRITTEN, "data.attribute=Mael"], "Did you mean 'Male'"),
    ],
)
def test_a_dry_run_is_refused_like_the_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    sets = [word for override in overrides for word in ("--set", override)]
    refused(gradsweep("sweep", file, "--out", tmp_path / "out", "--dry-run", *sets), part)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_cells_can_be_chosen(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = gradsweep("sweep", file, "--out", out, "--address", "serial", "--cells", "d*")
    assert done.returncode == 0
    assert set(pd.read_parquet(out / "trials")["cell"]) == {"dp"}
    assert f"{out}, unfinished: 4 of 8 trials" in done.stdout, "the other cell is yet to come"
    refused(gradsweep("sweep", file, "--out", out, "--cells", "x*"), "--cells 'x*' matches none of none, dp")
    refused(
        gradsweep("sweep", file, "--out", out, "--cells", "dp", "--cells", "x"), "--cells 'x' matches none"
    )
    both = gradsweep("sweep", file, "--out", out, "--address", "serial", "--cells", "dp", "--cells", "none")
    assert both.returncode == 0
    assert "unfinished" not in both.stdout
    assert "8 trials, 4 of them run now, 0 failed." in both.stdout
    told = next(line for line in reversed(both.stdout.splitlines()) if "  best: " in line)
    assert "dp/generic" in told, "what an earlier run has reached is not forgotten"
    assert "none/generic" in told


def test_failed_trials_give_exit_code_1(faces_root: Path, tmp_path: Path) -> None:
    attack = {"kind": "matching", "iterations": 2, "lr": 1e30, "preset": "none"}
    path = write(tmp_path, tree(faces_root, attackers__0__attack=attack, attackers__0__search={}))
    done = gradsweep("sweep", path, "--out", tmp_path / "out", "--address", "serial")
    assert done.returncode == 1
    assert "6 failed" in done.stdout


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("study.sugestions=3", ("unknown key 'study.sugestions'", "'suggestions'")),
        ("study.lag=often", ("study.lag", "must be a whole number")),
        ("execution.device=gpu", ("Unknown device 'gpu'", "cuda", "mps")),
        ("execution.device=cuda", ("Device 'cuda' is not available here",)),
        ("data.root=nowhere", ("nowhere",)),
        ("data.attribute=Mael", ("Mael", "Did you mean 'Male'")),
        ("data.train=100000", ("100000",)),
        ("victims.test=1000", ("victims were asked for",)),
        ("capture.round=7", ("capture.round = 7", "0 to 1")),
        ("threat.view=aggregate", ("threat.view = 'aggregate'",)),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    file: Path, tmp_path: Path, override: str, parts: tuple[str, ...]
) -> None:
    if override == "execution.device=cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
    refused(
        gradsweep("sweep", file, "--out", tmp_path / "out", "--address", "serial", "--set", override), *parts
    )


def test_bad_files_and_folders_are_one_line(file: Path, tmp_path: Path) -> None:
    refused(gradsweep("sweep", tmp_path / "absent.yaml"), "absent.yaml")
    refused(gradsweep("report", tmp_path), "holds no results")
    refused(gradsweep("sweep", file, "--out", file / "out", "--address", "serial"), "Cannot write to")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(
        gradsweep(
            "sweep", file, "--set", f"data.root={empty}", "--out", tmp_path / "o", "--address", "serial"
        ),
        "empty",
    )
    missing = gradsweep("data", "check", empty / "none")
    assert missing.returncode == 2
    assert str(empty / "none") in missing.stdout


def test_a_machine_that_is_too_small_is_one_line_and_a_mistake_of_ours_is_not(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 137 GB.")

    monkeypatch.setattr("orchestrator.capture.store.initial_state", allocate)
    done = gradsweep("sweep", file, "--out", tmp_path / "out", "--address", "serial")
    refused(done, "Memory ran out", "137 GB", "take a smaller network")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("orchestrator.capture.store.initial_state", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        gradsweep("sweep", file, "--out", tmp_path / "out", "--address", "serial")


def test_an_unreachable_cluster_is_one_line(file: Path, tmp_path: Path) -> None:
    done = gradsweep("sweep", file, "--out", tmp_path / "out", "--address", "auto", RAY_ADDRESS="127.0.0.1:9")
    refused(done, "No Ray cluster answers", "--address local")


def test_faces_are_written_checked_and_their_problems_listed(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    assert gradsweep("data", "synth", "--out", root, "--num", 16, "--seed", 3).returncode == 0
    fine = gradsweep("data", "check", root)
    assert fine.returncode == 0, fine.stdout
    (root / "img_align_celeba" / "000002.jpg").write_bytes(b"no picture")
    (root / "img_align_celeba" / "000003.jpg").unlink()
    broken = gradsweep("data", "check", root)
    assert broken.returncode == 2
    assert "000002.jpg" in broken.stdout
    assert "000003.jpg" in broken.stdout
    refused(gradsweep("data", "synth", "--out", root, "--num", 4), str(root))


def test_a_name_that_is_too_long_is_one_line(file: Path, tmp_path: Path) -> None:
    name = tmp_path / ("n" * 300)
    for command in (
        ("report", name),
        ("sweep", name),
        ("sweep", file, "--address", "serial", "--out", name),
        ("sweep", file, "--dry-run", "--set", f"data.root={name}"),
        ("merge", name, "--out", tmp_path / "merged"),
        ("data", "synth", "--num", 2, "--out", name),
        ("run", "--data-root", name, "--out-dir", tmp_path / "run"),
        ("run", "--out-dir", name),
    ):
        refused(gradsweep(*command), "ile name too long")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read a folder")
def test_a_folder_that_may_not_be_entered_is_one_line(file: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "root").mkdir(parents=True)
    closed.chmod(0o700)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o111)
    os.seteuid(65534)
    try:
        found = [
            gradsweep("report", closed / "root"),
            gradsweep("sweep", closed / "root" / "x.yaml"),
            gradsweep("run", "--data-root", closed / "root", "--out-dir", closed / "root" / "run"),
        ]
    finally:
        os.seteuid(0)
    for done in found:
        refused(done, "Permission denied")


def test_a_cluster_that_was_lost_can_be_resumed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object, **__: object) -> None:
        raise RayLost("Ray's process at 10.0.0.1:6379 is gone (Connection refused)", cluster="10.0.0.1:6379")

    monkeypatch.setattr(sweeps, "run_sweep", lose)
    done = gradsweep("sweep", file, "--out", tmp_path / "out")
    assert done.returncode == EXIT_CODE == 75
    assert done.stderr.splitlines() == [
        "gradsweep: Ray's process at 10.0.0.1:6379 is gone (Connection refused); run the same command again to resume."
    ]


def test_doctor_says_what_is_here() -> None:
    done = gradsweep("doctor")
    assert done.returncode == 0
    for part in ("cuda", "mps", "LPIPS", "torch"):
        assert part in done.stdout


def test_help_lists_every_command() -> None:
    done = gradsweep("--help")
    for command in ("run", "sweep", "report", "doctor", "data", "merge", "submit", "jobs", "slurm"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        *((words, 0) for words in (["--help"], ["sweep", "--help"], ["--version"])),
        *((words, 2) for words in (["swep"], ["sweep"], ["sweep", "no.yaml"], ["sweep", "pyproject.toml"])),
        *(([command, "nowhere"], 2) for command in ("report", "status", "watch", "retry")),
        *((words, 2) for words in (["compare", "a", "b"], ["merge", "a", "--out", "b"], ["show", "a", "1"])),
        (["sweep", "sweeps/quickstart.yaml", "--set", "seed"], 2),
        (["suite", "benchmark", "--set", "seed"], 2),
        (["submit", "no.yaml", "--address", "http://localhost:8265", "--out", "/r"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_needs_no_library_waits_for_none(words: list[str], code: int) -> None:
    """A person who asks for help, or mistypes a flag, does not wait seconds for torch."""
    probe = f"""
import sys
from orchestrator.cli.start import main
try:
    main({words})
except SystemExit as end:
    assert end.code == {code}, end.code
print(sorted({{"torch", "ray", "pandas", "matplotlib", "scipy", "optuna"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stderr.splitlines()[-1:] == ["[]"], done.stderr


def test_reading_results_waits_for_neither_torch_nor_ray(tmp_path: Path) -> None:
    """Commands on a folder that is there compute nothing on tensors and start no worker."""
    for name in ("one", "two"):
        shutil.copytree(ROOT / "tests" / "compatibility" / "results", tmp_path / name)
    trial = pd.read_parquet(tmp_path / "one" / "trials", columns=["trial_id"])["trial_id"].iloc[0]
    commands = (
        ["report", "one"],
        ["status", "one"],
        ["watch", "one"],
        ["compare", "one", "two"],
        ["show", "one", trial],
        ["export", "one", "--csv"],
        ["merge", "one", "--out", "merged"],
    )
    probe = f"""
import sys
from orchestrator.cli.start import main
for words in {commands}:
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0, (words, end.code)
    assert not {{"torch", "ray"}} & set(sys.modules), words
"""
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "merged" / "report.html").is_file()


QUICK = "sweeps/quickstart.yaml"
SUBMIT = ["submit", QUICK, "--address", "http://localhost:8265", "--out", "/r", "--no-token"]
AUDIT = [
    "audit",
    "--image",
    "3x32x32",
    "--classes",
    "2",
    "--model",
    "tests/docs/nowhere.py:make",
    "--out",
    "o",
]
SIGNAL = [
    *AUDIT[:5],
    *(
        "--model",
        "tests/support/networks.py:Lambda",
        "--gradients",
        "pyproject.toml",
        "--before",
        "Makefile",
        "--out",
        "o",
    ),
]
REFUSED = [
    ["sweep", QUICK, "--set", "study.sugestions=3"],
    ["sweep", QUICK, "--set", "federation.fraction=2"],
    ["sweep", QUICK, "--set", "model.kind=resnet19"],
    ["sweep", QUICK, "--set", "attackers.0.attack=dgl"],
    ["sweep", QUICK, "--set", "capture.signal=gradient"],
    ["sweep", QUICK, "--set", "cells.1.defense=[{kind: prnue}]"],
    ["sweep", QUICK, "--set", "execution.device=gpu"],
    ["sweep", QUICK, "--set", "data.root=nowhere"],
    ["sweep", QUICK, "--cells", "x*"],
    ["sweep", QUICK, "--cells", "x*", "--dry-run"],
    ["sweep", QUICK, "--address", "lokal"],
    ["sweep", QUICK, "--cache", "nowhere"],
    ["run", "--model", "resnet19"],
    ["run", "--attack", "dgl"],
    ["run", "--attack-lr", "much"],
    ["run", "--local-epochs", "0"],
    ["run", "--num-clientz", "3"],
    ["run", "--he-bits", "2048"],
    ["run", "--data-root", "nowhere"],
    ["suite", "benchmarks"],
    ["suite", "base", "--mode", "nothing"],
    ["suite", "benchmark", "--set", "study.sugestions=3"],
    ["suite", "benchmark", "--device", "gpu"],
    ["analyze", "benchmarks"],
    ["analyze", "benchmark", "--results-dir", "nowhere"],
    ["analyze", "benchmark", "--results-dir", "docs"],
    ["report", "docs"],
    ["compare", "docs", "docs"],
    ["show", "docs", "1234"],
    ["replay", "docs", "1234"],
    ["export", "docs", "--csv"],
    ["export", "tests/compatibility/results"],
    ["status", "docs"],
    ["watch", "docs"],
    ["retry", "docs"],
    ["retry", "tests/compatibility/results", "--cells", "x*"],
    ["merge", "docs", "--out", "nowhere"],
    ["merge", "docs", "docs", "--out", "nowhere"],
    ["cache", "nowhere"],
    ["cache", "docs", "--keep", "much"],
    [*SUBMIT, "--set", "study.sugestions=3"],
    [*SUBMIT, "--set", "data.root=/faces", "--cells", "x*"],
    [*SUBMIT, "--set", "data.root=faces"],
    [*SUBMIT, "--set", "data.root=/faces", "--address", "localhost:8265"],
    ["jobs", "status", "job", "--address", "localhost:8265", "--no-token"],
    ["slurm", "cells", "pyproject.toml"],
    ["slurm", "render", QUICK, "/r", "--time", "tomorrow"],
    ["slurm", "render", QUICK, "/r", "--", "--set", "study.sugestions=3"],
    ["data", "check", "nowhere"],
    ["data", "check", "docs", "--size", "large"],
    ["data", "check", "nowhere", "--kind", "folder"],
    ["data", "check", "docs", "--kind", "arrays"],
    ["data", "check", "docs", "--kind", "parquet"],
    ["data", "check", "docs", "--kind", "torchvision"],
    ["sweep", QUICK, "--set", "data.kind=arrays", "--set", "data.root=nowhere"],
    ["sweep", QUICK, "--set", "data.kind=folder", "--set", "data.root=nowhere"],
    ["data", "check", "docs", "--kind", "pictures"],
    AUDIT,
    [*AUDIT, "--image", "large"],
    [*AUDIT, "--mean", "0.5"],
    [*SIGNAL, "--effort", "2"],
    [*SIGNAL, "--attack", "dgl"],
    [*SIGNAL, "--against", "noise,prnue"],
]


def test_what_is_refused_waits_for_no_library() -> None:
    """Nor does a person whose sweep file, flag or folder is wrong: a check that needs no library comes first."""
    heavy = ["torch", "numpy", "scipy", "optuna", "ray", "pandas", "matplotlib", "torchvision", "pyarrow"]
    probe = f"""
import sys
from orchestrator.cli.main import execute
for words in {REFUSED}:
    code = execute(words)
    loaded = [name for name in {heavy} if name in sys.modules]
    assert (code, loaded) == (2, []), (words, code, loaded)
"""
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not (ROOT / "o").exists()


def test_usage_mistakes_are_one_line() -> None:
    refused(gradsweep("swep"), "No such command 'swep'")
    refused(gradsweep("sweep"), "Missing argument 'file'")
    refused(gradsweep("sweep", "x.yaml", "--cel", "a"), "--cel")
    refused(gradsweep("data", "synth", "--num", "0", "--out", "x"), "'--num'", "greater than or equal to 1")


def test_the_command_itself_ends_with_the_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `python -m orchestrator`, in this process."""
    module = partial(runpy.run_module, "orchestrator", run_name="__main__")
    refused(as_main(module, ["report", tmp_path], capfd, monkeypatch), "holds no results")
