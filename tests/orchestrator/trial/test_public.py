"""Controls of batches: what anybody can answer without a signal, assigned to the truth as an attack's answers are."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from attack_core.metrics.metrics import assign, psnr
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import open_celeba
from orchestrator.trial.public import public_answers
from tests.support.benchmarks import benchmark
from tests.support.small import run_quietly, sweep


@pytest.mark.parametrize("count", [2, 5, 12, 30])
def test_there_are_as_many_answers_as_images(count: int) -> None:
    public = torch.rand(12, 3, 8, 8, generator=generator("test"))
    found = public_answers(public, count, generator("draw"))
    assert found.images.shape == found.groups.shape == (count, 3, 8, 8)
    used = [int((public == image).flatten(1).all(1).nonzero()[0, 0]) for image in found.images]
    assert max(used.count(each) for each in used) == -(-count // 12), "none twice before each was drawn"
    again = public_answers(public, count, generator("draw"))
    assert torch.equal(found.images, again.images)
    assert torch.equal(found.groups, again.groups)


def test_groups_are_the_means_of_images_that_are_alike() -> None:
    dark, bright = -0.9 * torch.ones(6, 3, 4, 4), 0.5 * torch.ones(6, 3, 4, 4)
    noise = 0.1 * torch.rand(12, 3, 4, 4, generator=generator("test"))
    public = torch.cat([dark, bright]) + noise
    found = public_answers(public, 2, generator("draw")).groups
    expected = torch.stack([public[:6].mean(0), public[6:].mean(0)])
    assert torch.allclose(found[found.flatten(1).mean(1).argsort()], expected, atol=1e-6)


def test_public_images_that_are_all_the_same_are_their_own_groups() -> None:
    public = torch.zeros(3, 3, 4, 4)
    assert torch.equal(public_answers(public, 2, generator("draw")).groups, torch.zeros(2, 3, 4, 4))


def batches(faces_root: Path, out: Path, size: int) -> pd.DataFrame:
    config = sweep(
        faces_root,
        federation__local__batch_size=size,
        victims={"tuning": 0, "test": 2},
        attackers__0__search={},
        attackers__0__attack={"kind": "matching", "iterations": 2},
    )
    return run_quietly(config, out)


def test_rows_of_a_batch_hold_what_anybody_could_answer(faces_root: Path, tmp_path: Path) -> None:
    rows = batches(faces_root, tmp_path, 3)
    dataset = open_celeba(faces_root, shape=ImageShape.square(16))
    public = dataset.batch(dataset.split("test")[:8])[0]
    answers = public_answers(public, 3, generator("public", 5, 1))
    for _, mine in rows[rows["victim"] == 1].groupby("cell"):
        truth = dataset.batch([list(dataset.names).index(name) for name in mine["image_id"]])[0]
        for column, images in (("psnr_public", answers.images), ("psnr_groups", answers.groups)):
            chosen = [j for j in assign(images, truth) if j is not None]
            assert mine[column].tolist() == pytest.approx(psnr(images[chosen], truth).tolist(), abs=1e-4)
    cells = rows.pivot_table(index="image_id", columns="cell", values=["psnr_public", "psnr_groups"])
    assert (cells.xs("none", axis=1, level=1) == cells.xs("dp", axis=1, level=1)).all(axis=None), "paired"


def test_a_single_image_is_compared_with_the_mean_image_alone(faces_root: Path, tmp_path: Path) -> None:
    rows = batches(faces_root, tmp_path, 1)
    assert rows["psnr_mean_image"].notna().all()
    assert rows[["psnr_public", "psnr_groups"]].isna().all(axis=None)


def test_the_benchmark_of_controls_prints_lines(faces_root: Path) -> None:
    tiny = ("--batches", "2", "--victims", "6", "--image-size", "16")
    done = benchmark("controls", str(faces_root), "--json", *tiny)
    assert done.returncode == 0
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    names = [
        f"batches of 2: {name} over the mean image" for name in ("images, not assigned", "images", "groups")
    ]
    assert list(lines) == names
    assert lines[names[0]]["value"] <= lines[names[1]]["value"], "the assignment can only help"
    assert all(line["low"] < line["value"] < line["high"] for line in lines.values())
