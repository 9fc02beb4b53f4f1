"""The recipes of docs/recipes.md run with the real packages, and the audit reads what they save.

`make test-recipes` prepares an environment for each package; GRADSWEEP_RECIPES names the folder that holds them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.inference.optimizer import seen_optimizer
from orchestrator.library.files import load_update, save_update
from tests.support.command import gradsweep
from tests.support.paths import ROOT
from tests.support.pictures import write_pictures

RECIPES = ROOT / "docs" / "recipes"


def _run(package: str, script: str, *arguments: Path) -> None:
    """Run a recipe in the environment of its package; skips where there is none."""
    folder = os.environ.get("GRADSWEEP_RECIPES")
    if not folder:
        pytest.skip("GRADSWEEP_RECIPES names no folder of environments; make test-recipes prepares them")
    python = Path(folder).resolve() / package / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there: {package} could not be installed")
    offline = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, RECIPES / script, *arguments],
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
        env={**os.environ, **offline},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _audit(tmp_path: Path, update: Path, truth: Path) -> dict[str, Any]:
    done = gradsweep(
        *("audit", "--model", f"{RECIPES / 'network.py'}:make", "--update", update, "--truth", truth),
        *("--image", "3x32x32", "--classes", 10, "--mean", "0.49,0.48,0.45", "--std", "0.25,0.24,0.26"),
        *("--clients", 4, "--out", tmp_path / "audit"),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "audit" / "audit.json").read_text())
    return found


def _contradictions(found: dict[str, Any]) -> str:
    return " ".join(fact["contradiction"] for fact in found["facts"])


def test_the_file_in_ten_lines_is_that_of_the_library(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("update_file", RECIPES / "update_file.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = {"a": torch.zeros(2, 3), "b": torch.zeros(4).bfloat16()}
    after = {"a": torch.ones(3, 2).T, "b": torch.ones(4).bfloat16()}
    for write, name in ((module.save_update, "recipe"), (save_update, "library")):
        write(tmp_path / name, before, after, lr=0.1, steps=2)
    assert (tmp_path / "recipe").read_bytes() == (tmp_path / "library").read_bytes()
    assert load_update(tmp_path / "recipe").facts == {"lr": 0.1, "steps": 2.0}


def test_a_pytorch_loop_is_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = write_pictures(tmp_path / "client", 1)
    monkeypatch.setattr(sys, "argv", ["pytorch_loop.py", str(truth), str(tmp_path / "updates")])
    monkeypatch.setattr(sys, "path", [str(RECIPES), *sys.path])
    with torch.random.fork_rng():
        runpy.run_path(str(RECIPES / "pytorch_loop.py"), run_name="__main__")
    for name in ("network", "update_file"):
        del sys.modules[name]
    found = _audit(tmp_path, tmp_path / "updates" / "sgd.safetensors", truth)
    assert found["psnr"][0] > 50
    assert not _contradictions(found).strip()
    seen = seen_optimizer(load_update(tmp_path / "updates" / "adam.safetensors").tensors)
    assert seen is not None
    assert (seen.kind, seen.size) == ("signs", pytest.approx(1e-3, rel=0.01))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_flower_client_is_audited(tmp_path: Path) -> None:
    _run("flower", "flower_mod.py", write_pictures(tmp_path / "client", 2), tmp_path / "updates")
    updates = sorted((tmp_path / "updates").glob("flower-*.safetensors"))
    assert len(updates) == 2
    for i, update in enumerate(updates):
        truth = tmp_path / "client" / f"class{i}"
        assert _audit(tmp_path, update, truth)["psnr"][0] > 50


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_nvflare_client_is_audited(tmp_path: Path) -> None:
    truth = write_pictures(tmp_path / "client", 2)
    _run("nvflare", "nvflare_job.py", truth, tmp_path / "updates")
    (update,) = (tmp_path / "updates").glob("nvflare-*.safetensors")
    assert min(_audit(tmp_path, update, truth)["psnr"]) > 50


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_opacus_clips_and_its_noise_stops_the_attack(tmp_path: Path) -> None:
    truth = write_pictures(tmp_path / "client", 1)
    _run("opacus", "opacus_dpsgd.py", truth, tmp_path / "updates")
    clipped = _audit(tmp_path, tmp_path / "updates" / "opacus-0.safetensors", truth)
    assert clipped["psnr"][0] > 50
    assert "clipped" in _contradictions(clipped)
    noisy = _audit(tmp_path, tmp_path / "updates" / "opacus-1.safetensors", truth)
    assert noisy["outcome"] == "prior"
    assert noisy["psnr"][0] < noisy["mean_image_psnr"] + 10
