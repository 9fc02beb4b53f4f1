"""Sweeps on class folders and arrays, with grey and non-square pictures, from the file to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fl_core.base.errors import InputError
from orchestrator.analysis.summary import summary_lines
from orchestrator.config.plain import build
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.plan import check_plan
from orchestrator.report.report import write_report
from tests.support.command import gradsweep, refused
from tests.support.pictures import class_folders, smooth_picture
from tests.support.small import run_quietly

CLASSES = 3


def grey_arrays(root: Path) -> dict[str, Any]:
    root.mkdir()
    images = np.stack([smooth_picture(index, 28, 28, 1) for index in range(60)])
    np.savez(root / "digits.npz", images=images, labels=np.arange(60) % CLASSES)
    return {"kind": "arrays", "root": str(root / "digits.npz"), "split": {"train": 0.6, "valid": 0.2}}


def tree(data: dict[str, Any], model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "own",
        "data": {**data, "train": 24, "valid": 6, "public": 6},
        "model": {"classes": CLASSES, **model},
        "federation": {"clients": 4, "rounds": 1, "local": {"lr": 0.05, "batch_size": 1}},
        "victims": {"tuning": 0, "test": 1},
        "execution": {"device": "cpu", "images": "all"},
        "cells": [{"name": "none"}, {"name": "prune", "defense": [{"kind": "prune", "ratio": 0.5}]}],
        "attackers": [
            {"name": "loop", "attack": {"kind": "matching", "iterations": 8}},
            {
                "name": "looks",
                "attack": {
                    "kind": "auto",
                    "analytic": {"inversion": {"evaluations": 40}},
                    "fallback": {"iterations": 8},
                },
            },
        ],
        **changes,
    }


def config(*arguments: Any, **changes: Any) -> SweepConfig:
    return build(SweepConfig, tree(*arguments, **changes), where="test")


@pytest.mark.parametrize(
    ("data", "model", "shape"),
    [
        pytest.param(
            class_folders, {"kind": "cnn64", "image_size": [48, 32]}, (48, 32), marks=pytest.mark.slow
        ),
        (class_folders, {"kind": "mlp", "image_size": [16, 24]}, (16, 24)),
        pytest.param(
            grey_arrays,
            {"kind": "cnn64", "image_size": 28, "channels": 1},
            (28, 28),
            marks=pytest.mark.slow,
        ),
        (grey_arrays, {"kind": "lenet", "image_size": 28, "channels": 1}, (28, 28)),
    ],
)
def test_pictures_of_any_shape_go_from_the_file_to_the_report(
    data: Any, model: dict[str, Any], shape: tuple[int, int], tmp_path: Path
) -> None:
    own = config(data(tmp_path / "set"), model)
    rows = run_quietly(own, tmp_path / "out")
    assert set(rows["status"]) == {"ok"}, rows["error"].dropna().unique()
    by_attack = rows[rows["cell"] == "none"].groupby("attacker")["psnr"].mean()
    mean = rows["psnr_mean_image"].mean()
    if model["kind"] in ("cnn64", "mlp"):
        assert by_attack["looks"] > mean + 6
    pictures = pd.read_parquet(tmp_path / "out" / "images")
    assert len(pictures)
    page = write_report(tmp_path / "out", summary_lines(tmp_path / "out"))
    assert page.is_file()
    assert run_quietly(own, tmp_path / "out").equals(rows)


@pytest.mark.slow
def test_a_deep_network_takes_grey_pictures(tmp_path: Path) -> None:
    model, loop = {"kind": "resnet18", "image_size": 28, "channels": 1}, {"kind": "matching", "iterations": 2}
    few = {"evaluations": 4}
    looks = {"kind": "auto", "analytic": {"inversion": few, "refinement": few}, "fallback": loop}
    looks["convolutions"] = {"inversion": few | {"stages": 2}, "fallback": loop}
    attackers = [{"name": "loop", "attack": loop}, {"name": "looks", "attack": looks}]
    own = config(grey_arrays(tmp_path / "set"), model, cells=[{"name": "none"}], attackers=attackers)
    rows = run_quietly(own, tmp_path / "out")
    assert set(rows["status"]) == {"ok"}, rows["error"].dropna().unique()
    assert len(pd.read_parquet(tmp_path / "out" / "images"))
    assert write_report(tmp_path / "out", summary_lines(tmp_path / "out")).is_file()
    assert run_quietly(own, tmp_path / "out").equals(rows)


def test_another_picture_in_the_place_of_one_is_refused(tmp_path: Path) -> None:
    own = config(class_folders(tmp_path / "set"), {"kind": "mlp", "image_size": 16})
    run_quietly(own, tmp_path / "out")
    for path in (tmp_path / "set").rglob("*.png"):
        Image.fromarray(smooth_picture(1000, 40, 32, 3)).save(path)
    with pytest.raises(InputError, match="holds a sweep on other pictures"):
        run_quietly(own, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": {"kind": "mlp", "classes": 2, "image_size": 16}}, "must be at least 3"),
        ({"data": {"kind": "folder", "root": "nowhere"}}, "no such data folder"),
        ({"data": {"kind": "folder", "root": "x", "name": "CIFAR10"}}, "it is for torchvision"),
        ({"data": {"kind": "torchvision", "root": "x"}}, r"a set of torchvision\.datasets"),
        ({"data": {"kind": "fodler"}}, "Did you mean 'folder'"),
        ({"data": {"kind": "folder", "root": "x", "split": {"train": 1.5}}}, "less than 1"),
        ({"model": {"kind": "mlp", "image_size": [16, 4]}}, r"\[height, width\]"),
        ({"model": {"kind": "mlp", "channels": 2}}, "channels"),
    ],
)
def test_contradictions_are_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "set")
    with pytest.raises(InputError, match=says) as caught:
        own = tree(data, {"kind": "mlp", "image_size": 16}) | change
        check_plan(build(SweepConfig, own, where="test"), ["*"])
    assert "\n" not in str(caught.value)


def test_ats_wants_squares(tmp_path: Path) -> None:
    cells = [{"name": "ats", "defense": [{"kind": "ats"}]}]
    own = config(class_folders(tmp_path / "set"), {"kind": "mlp", "image_size": [16, 24]}, cells=cells)
    with pytest.raises(InputError, match="ats turns and moves square pictures"):
        check_plan(own, ["*"])


def test_data_check_says_what_a_set_holds_or_what_is_wrong(tmp_path: Path) -> None:
    class_folders(tmp_path / "set")
    done = gradsweep("data", "check", tmp_path / "set", "--kind", "folder", "--size", "3x16x16")
    assert done.returncode == 0, done.stderr
    assert "60 pictures, 3 classes: class0, class1, class2" in done.stdout
    (tmp_path / "set" / "class1" / "1.png").write_bytes(b"broken")
    done = gradsweep("data", "check", tmp_path / "set", "--kind", "folder")
    assert done.returncode == 2
    assert "1.png: not a readable image" in done.stdout
    refused(gradsweep("data", "check", tmp_path / "set", "--kind", "fodler"), "Did you mean 'folder'")
    refused(gradsweep("data", "check", tmp_path / "set", "--kind", "arrays", "--size", "3"), "is no size")


def test_data_check_works_for_faces_of_each_kind(faces_root: Path, tmp_path: Path) -> None:
    for kind in ("celeba", "auto"):
        done = gradsweep("data", "check", faces_root, "--kind", kind, "--size", "3x32x32")
        assert done.returncode == 0, done.stderr
        assert "attributes: " in done.stdout
        assert " train, " in done.stdout
    refused(gradsweep("data", "check", tmp_path, "--kind", "synthetic"), "no synthetic faces yet")
    assert list(tmp_path.iterdir()) == []
