"""What would fail whatever the data is refused by name, before anything is computed or written."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import open_celeba
from fl_core.models.build import check_batch
from fl_core.models.config import ModelConfig
from orchestrator.analysis.summary import summarize
from orchestrator.capture.store import CaptureStore
from orchestrator.config.parse import cell_settings
from orchestrator.driver.plan import check_plan
from orchestrator.driver.sweep import run_sweep
from orchestrator.runtime.progress import Silent
from orchestrator.trial.cell import Cell
from tests.support.command import gradsweep, refused
from tests.support.small import sweep

NORMALISED = {"kind": "resnet18", "image_size": 16, "batch_norm": "train"}
PLAIN = {"kind": "matching", "iterations": 2}


def run(root: Path, out: Path, address: str = "serial", **changes: Any) -> None:
    """One cell and one fixed attacker, with these changes."""
    common = {"victims": {"tuning": 0, "test": 2}, "cells": [{"name": "none"}]}
    attackers = [{"name": "plain", "attack": {**PLAIN, **changes.pop("attack", {})}}]
    run_sweep(sweep(root, attackers=attackers, **common, **changes), out, address=address, reporter=Silent())


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({"layer_names": ["nolayer"]}, "attackers.plain.attack: Unknown layer name 'nolayer'"),
        ({"layers": [0, 77]}, "Layer index 77 is out of range"),
        ({"layers": [0], "layer_names": ["fc3"]}, "leaves no parameter to match"),
        ({"layer_weights": [1.0, 2.0]}, "layer_weights has 2 numbers: must be 6"),
        ({"priors": [{"kind": "batch_norm"}]}, "needs a model with BatchNorm layers"),
        ({"images": 2}, "Matching.images = 2, but the signal holds 1 images"),
    ],
)
def test_an_attack_that_fits_no_cell_is_refused_before_anything_is_written(
    faces_root: Path, tmp_path: Path, attack: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(faces_root, tmp_path / "out", attack=attack)
    assert not (tmp_path / "out").exists()
    config = sweep(faces_root, attackers=[{"name": "plain", "attack": PLAIN | attack}])
    with pytest.raises(InputError, match=message):
        check_plan(config, ["*"])


def test_an_attack_that_fits_one_cell_of_two_runs_and_fails_in_the_other(
    faces_root: Path, tmp_path: Path
) -> None:
    cells = [{"name": "mlp"}, {"name": "lenet", "differs": {"model.kind": "lenet"}}]
    attackers = [{"name": "conv", "attack": PLAIN | {"layer_names": ["conv1"]}}]
    config = sweep(faces_root, victims={"tuning": 0, "test": 1}, cells=cells, attackers=attackers)
    assert run_sweep(config, tmp_path, address="serial", reporter=Silent()).failed == 1
    rows = pd.read_parquet(tmp_path / "trials").set_index("cell")
    assert rows["status"].to_dict() == {"mlp": "failed", "lenet": "ok"}
    assert "Unknown layer name 'conv1'" in rows.loc["mlp", "error"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": NORMALISED},
        # Four clients hold 6 images each: batches of 5 leave a single one over.
        {"model": NORMALISED, "federation__local__batch_size": 5, "capture": {"signal": "local_update"}},
        {"model": NORMALISED, "federation__local__batch_size": 5, "capture": {"round": 1}},
    ],
)
def test_a_batch_that_batch_norm_cannot_normalise_is_refused_before_the_training(
    faces_root: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = sweep(
        faces_root,
        victims={"tuning": 0, "test": 1},
        attackers=[{"name": "plain", "attack": PLAIN}],
        **({"cells": [{"name": "none"}]} | changes),
    )
    with pytest.raises(InputError, match=r"model.batch_norm = 'train': a batch of 1 image of 16 pixels"):
        run_sweep(config, tmp_path / "out", address="serial", reporter=Silent())
    assert not (tmp_path / "out" / "captures").exists()


def test_what_batch_norm_can_normalise_is_taken() -> None:
    for config, images in (
        (ModelConfig(kind="resnet18", image_size=16, batch_norm="train"), 2),
        (ModelConfig(kind="resnet18", image_size=64, batch_norm="train"), 1),
        (ModelConfig(kind="resnet18", image_size=16), 1),
        (ModelConfig(kind="mlp", image_size=16, batch_norm="train"), 1),
    ):
        check_batch(config, images)


def test_labels_that_the_network_has_no_output_for_are_refused(faces_root: Path, tmp_path: Path) -> None:
    config = sweep(faces_root)
    faces = open_celeba(faces_root, shape=ImageShape.square(16))
    faces = dataclasses.replace(faces, labels=faces.labels + 2)
    store = CaptureStore(tmp_path, device=torch.device("cpu"), progress=print)
    with pytest.raises(InputError, match=r"model.classes = 2: .* has labels from 0 to 3; must be at least 4"):
        Cell.prepare(cell_settings(config, config.cells[0]), faces, store)


def test_images_that_the_window_of_ssim_does_not_fit_into_have_none_and_say_so(
    faces_root: Path, tmp_path: Path
) -> None:
    run(faces_root, tmp_path, model={"kind": "mlp", "image_size": 8})
    rows = pd.read_parquet(tmp_path / "trials")
    assert set(rows["status"]) == {"ok"}
    assert rows["psnr"].notna().all()
    assert rows["ssim"].isna().all()
    assert rows["notes"].str.contains("no SSIM: its window of 11 pixels does not fit into images of 8").all()
    assert summarize(tmp_path)["ssim"].isna().all()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("serail", "Unknown --address 'serail'. Did you mean 'serial'"),
        ("", "Unknown --address ''"),
        ("127.0.0.1:9", "No Ray cluster answers at '127.0.0.1:9'"),
        ("127.0.0.1:99999", "must be HOST:PORT"),
        ("127.0.0.1:²", "must be HOST:PORT"),
        ("ray://127.0.0.1:9", "No Ray cluster answers"),
        (":9", "must be HOST:PORT"),
    ],
)
def test_an_address_is_looked_at_before_anything_is_written(
    faces_root: Path, tmp_path: Path, address: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(faces_root, tmp_path / "out", address)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["http://h:99999", "http://[", "http://h:x", "h", "file:///x"])
def test_a_dashboard_s_address_is_one(address: str) -> None:
    refused(
        gradsweep("jobs", "status", "x", "--address", address, "--no-token"), "must be a dashboard's address"
    )


@pytest.mark.parametrize(
    ("module", "defense", "remedy"),
    [
        ("gmpy2", {"kind": "paillier"}, "pip install gmpy2 phe"),
        ("phe", {"kind": "paillier"}, "pip install gmpy2 phe"),
        ("tenseal", {"kind": "ckks"}, "pip install tenseal"),
        ("Crypto", {"kind": "masking"}, "pip install pycryptodome"),
    ],
)
def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(
    faces_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    defense: dict[str, Any],
    remedy: str,
) -> None:
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=remedy):
        run_sweep(
            sweep(faces_root, cells=[{"name": "summed", "defense": [defense]}]),
            tmp_path / "out",
            address="serial",
            reporter=Silent(),
        )
    assert not (tmp_path / "out").exists()


def test_help_shows_what_is_taken_where_an_option_is_left_out() -> None:
    assert "[default: (results/NAME)]" in gradsweep("sweep", "--help").stdout
    script = gradsweep("slurm", "render", "--help").stdout
    assert "[default: (this one)]" in script
    assert "[default: (the terminal)]" in script
