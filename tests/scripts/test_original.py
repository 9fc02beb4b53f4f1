"""The original's document: every command in it runs as it is written there, from a clone, with small budgets added."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

CLONE = ("fl_core", "defenses", "attack_core", "orchestrator", "gradsweep", "scripts", "sweeps")
"""What of a clone the commands need, beside `run_experiment.py`."""

SUITE = "--set scale=small --address serial"
SINGLE = "--attack-iterations 3 --attack-restarts 1 --image-size 16"
RUN = ("baseline_attack_result.png", "metrics.txt", "config.json")

COMMANDS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    # Quick start.
    ("bash scripts/run_showcase.sh", SUITE, "results/showcase", RUN),
    ("bash scripts/run_benchmark.sh", SUITE, "results/benchmark", RUN),
    (
        "bash scripts/run_multi_client.sh",
        SUITE,
        "results/multi_client",
        tuple(f"bmk_c{client}/{name}" for client in range(3) for name in RUN),
    ),
    (
        "python scripts/analyze_multi_client.py --results-dir results/multi_client",
        "",
        "results/multi_client",
        ("runs.csv",),
    ),
    # Or drive directly.
    (
        "python run_experiment.py --num-rounds 1 --capture-round 0 --batch-size 1 --client-momentum 0.0 "
        "--attack-iterations 3000 --attack-restarts 3 --tv-weight 1e-5 --lr-schedule cosine --compute-lpips",
        SINGLE,
        "results/baseline_*",
        RUN,
    ),
    (
        "python run_experiment.py --attack-source one_step_update --client-momentum 0.0 --local-epochs 1",
        SINGLE,
        "results/baseline_*",
        RUN,
    ),
    (
        "python run_experiment.py --attack-source agg_update --capture-client 0 --client-momentum 0.0 "
        "--local-epochs 1",
        f"{SINGLE} --model mlp",
        "results/baseline_*",
        RUN,
    ),
    # Privacy defenses.
    (
        "python run_experiment.py --dp-epsilon 8 --dp-delta 1e-5 --dp-max-norm 1.0",
        f"{SINGLE} --model mlp --num-rounds 1 --out-dir results/dp",
        "results/dp",
        RUN,
    ),
    (
        "python run_experiment.py --use-he",
        f"{SINGLE} --model lenet --num-rounds 1 --out-dir results/he",
        "results/he",
        RUN,
    ),
    (
        "python run_experiment.py --use-he --he-bits 512 --he-precision 1000000",
        f"{SINGLE} --model lenet --num-rounds 1 --num-clients 4 --data-subset 20 --yes --out-dir results/paillier",
        "results/paillier",
        RUN,
    ),
    (
        "bash scripts/run_defenses.sh",
        SUITE,
        "results/defenses",
        tuple(f"{run}/metrics.txt" for run in ("baseline", "dp_eps8", "dp_eps1", "dp_eps01", "he", "dp_he")),
    ),
    (
        "python scripts/analyze_defenses.py --results-dir results/defenses",
        "",
        "results/defenses",
        ("runs.csv",),
    ),
    # Repo map.
    ("bash scripts/run_ablation.sh", SUITE, "results/ablation", ("c0_tv_1e-5/metrics.txt",)),
    ("python scripts/analyze_ablation.py", "", "results/ablation", ("runs.csv",)),
    ("python scripts/exp_base.py", SUITE, "results/base", ("showcase/config.json", "realistic/metrics.txt")),
    (
        "python scripts/exp_phase1.py",
        SUITE,
        "results/phase1",
        tuple(
            f"{run}/metrics.txt"
            for run in (
                "tv-sweep/tv_1e-5",
                "layer-weights/early",
                "combinations/tv_1e-5_early",
                "perceptual/plain",
            )
        ),
    ),
)
"""The commands, what is added to make them small, and in which folder which files lie afterwards."""


@pytest.fixture(scope="module")
def clone(many_faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone with faces in CelebA's layout where the document says that they belong."""
    root = tmp_path_factory.mktemp("clone")
    for name in CLONE:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run_experiment.py", root)
    (root / "data").symlink_to(many_faces_root)
    yield root
    shutil.rmtree(root)


def call(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; `python` is this environment's, and gradsweep only what the clone holds."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command.split(),
        cwd=folder,
        env={**kept, "PATH": path, "COLUMNS": "120", "DEVICE": "auto", **variables},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_command_of_the_document_runs_as_it_is_written(clone: Path) -> None:
    for command, added, folder, files in COMMANDS:
        before = set(clone.glob(folder))
        done = call(f"{command} {added}", clone)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        found = set(clone.glob(folder))
        (results,) = found - before if "*" in folder else found or {clone / folder}
        missing = [name for name in files if not (results / name).is_file()]
        assert not missing, f"{command}: {missing}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_scripts_work_from_any_directory_with_their_variables(clone: Path, tmp_path: Path) -> None:
    script = clone / "scripts" / "run_multi_client.sh"
    variables = {"NUM_ATTACK_CLIENTS": "2", "SEED": "7", "OUT_DIR": "results/elsewhere", "DATA_SUBSET": "50"}
    done = call(f"bash {script} {SUITE}", tmp_path, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
    runs = sorted(path.parent.name for path in (clone / "results/elsewhere").glob("*/metrics.txt"))
    assert runs == ["bmk_c0", "bmk_c1"]
    done = call(f"python {clone}/scripts/analyze_multi_client.py --results-dir results/elsewhere", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bmk_c1" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.stem)
def test_shell_scripts_are_clean_and_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 6
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
