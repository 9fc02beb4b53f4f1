"""Attackers that train a prior: what it is learned from, what is kept of it, and what a table says of it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from orchestrator.capture import priors as priors_module
from orchestrator.capture.datasets import open_data
from orchestrator.capture.priors import Priors
from orchestrator.config.parse import cell_settings
from orchestrator.config.plain import build
from orchestrator.config.sweep import AttackerConfig, DataConfig, PriorConfig, SweepConfig
from orchestrator.driver.sweep import run_sweep
from orchestrator.io.identity import canonical
from orchestrator.living.replay import replay_trial
from orchestrator.runtime.progress import Silent
from tests.support.pictures import class_folders
from tests.support.ray_cluster import ray_cluster
from tests.support.small import comparable, run_quietly, sweep

SMALL = {"patch": 4, "components": 3, "directions": 8, "patches": 300, "passes": 2}
ANALYTIC = {"kind": "analytic", "inversion": {"evaluations": 20}}
NOISE = [{"name": "noise", "defense": [{"kind": "noise", "sigma": 0.02}]}]


def attackers(other: dict[str, Any]) -> list[dict[str, Any]]:
    """The same attack without a prior, with one of its own domain, and with one of other data."""
    return [
        {"name": "smooth", "attack": ANALYTIC},
        {"name": "own", "attack": ANALYTIC, "prior": SMALL},
        {"name": "other", "attack": ANALYTIC, "prior": {**SMALL, "data": other}},
    ]


def config(faces_root: Path, other: dict[str, Any], **changes: Any) -> SweepConfig:
    return sweep(
        faces_root,
        **{"cells": NOISE, "attackers": attackers(other), "victims__tuning": 0, "victims__test": 2} | changes,
    )


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = class_folders(tmp_path_factory.mktemp("other") / "set")
    return data | {"public": 6, "split": {"train": 0.4, "valid": 0.2}}


@pytest.fixture(scope="module")
def finished(
    faces_root: Path, other_data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("trained")
    return out, run_quietly(config(faces_root, other_data), out)


def test_rows_say_which_prior_each_attacker_had(finished: tuple[Path, pd.DataFrame]) -> None:
    out, rows = finished
    assert set(rows["status"]) == {"ok"}
    assert rows[rows["attacker"] == "smooth"]["prior"].isna().all()
    by_attacker = {name: set(group["prior"]) for name, group in rows.groupby("attacker")}
    (own,), (other,) = by_attacker["own"], by_attacker["other"]
    assert own.startswith("celeba:")
    assert other.startswith("folder:")
    assert own.split()[0].endswith(":8")
    assert other.split()[0].endswith(":6")
    files = {path.stem for path in (out / "captures" / "priors").iterdir()}
    assert files == {text.split()[1].partition("-")[0] for text in (own, other)}
    assert all("with a prior trained on 8 public pictures of celeba:" in text for text in notes(rows, "own"))
    assert all(
        "with a prior trained on 6 public pictures of folder:" in text for text in notes(rows, "other")
    )
    assert not any("prior trained" in text for text in notes(rows, "smooth"))
    # Each is scored beside its own answer to noise: what is gained over that is of the signal.
    assert rows["psnr_prior"].notna().all()


def test_a_sweep_goes_on_with_the_prior_that_is_there(
    finished: tuple[Path, pd.DataFrame],
    faces_root: Path,
    other_data: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "copy")
    monkeypatch.setattr(priors_module, "train_patches", None)
    again = config(faces_root, other_data, victims__test=3)
    outcome = run_sweep(again, out, address="serial", reporter=Silent())
    assert (outcome.trials, outcome.fresh) == (9, 3)


def test_a_trial_can_be_replayed(
    finished: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rows = finished
    trial = rows[rows["attacker"] == "own"]["trial_id"].iloc[0]
    monkeypatch.setattr(priors_module, "train_patches", None)
    assert replay_trial(out, trial).same


def test_a_damaged_prior_is_trained_again_and_another_one_is_refused(
    finished: tuple[Path, pd.DataFrame],
    faces_root: Path,
    other_data: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "copy")
    for path in (out / "captures" / "priors").iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    same = config(faces_root, other_data)
    assert run_sweep(same, out, address="serial", reporter=Silent()).fresh == 0
    shutil.rmtree(out / "captures" / "priors")
    train = priors_module.train_patches

    def elsewhere(*arguments: Any) -> Any:
        found = train(*arguments)
        return dataclasses.replace(found, rest=found.rest * 1.0001)

    monkeypatch.setattr(priors_module, "train_patches", elsewhere)
    with pytest.raises(
        InputError, match=r"cells.noise: the prior learned now .* is not the one that finished"
    ):
        run_sweep(same, out, address="serial", reporter=Silent())


@pytest.mark.slow
def test_serial_and_on_ray_the_rows_are_the_same(
    finished: tuple[Path, pd.DataFrame], faces_root: Path, other_data: dict[str, Any], tmp_path: Path
) -> None:
    with ray_cluster(cpus=2) as address:
        run_sweep(config(faces_root, other_data), tmp_path, address=address, reporter=Silent())
    pd.testing.assert_frame_equal(comparable(tmp_path), comparable(finished[0]))


def learned(
    folder: Path, settings: SweepConfig, dataset: ImageDataset, wanted: PriorConfig
) -> priors_module.Learned:
    def opened(data: DataConfig, shape: ImageShape) -> ImageDataset:
        return open_data(data, shape, progress=lambda _: None)

    return Priors(folder, opened=opened, progress=lambda _: None).of(settings, dataset, wanted)


def test_no_picture_that_a_client_holds_is_learned_from(
    faces_root: Path, faces: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = alone(faces_root)
    seen: list[int] = []
    image = ImageDataset.image

    def watched(self: ImageDataset, index: int, **named: Any) -> Any:
        seen.append(index)
        return image(self, index, **named)

    monkeypatch.setattr(ImageDataset, "image", watched)
    own = learned(tmp_path / "own", settings, faces, PriorConfig(**SMALL))
    assert seen == faces.split("test", settings.data.public)

    # Other data that hold copies of clients' pictures under other names, among others.
    private = faces.split("train", settings.data.train)
    strangers = [index for index in faces.split("train") if index not in private]
    data = copied(tmp_path / "copies", faces, [*private[:3], *strangers[:2]], others=strangers[2:8])
    seen.clear()
    other = learned(tmp_path / "other", settings, faces, PriorConfig(**SMALL, data=data))
    assert len(seen) == 2
    assert other.source.endswith(":2")
    assert other.identity != own.identity


def test_data_that_are_the_clients_own_are_refused(
    faces_root: Path, faces: ImageDataset, tmp_path: Path
) -> None:
    settings, train = alone(faces_root), faces.split("train")
    data = copied(tmp_path / "copies", faces, train[:1], others=train[1:7])
    with pytest.raises(InputError, match=r"cells.none: all 1 public pictures of .* are clients' own"):
        learned(tmp_path, settings, faces, PriorConfig(**SMALL, data=data))


def copied(root: Path, faces: ImageDataset, public: Sequence[int], *, others: Sequence[int]) -> DataConfig:
    """Class folders whose public split holds copies of these pictures."""
    for split, indices in (("test", public), ("train", others[:3]), ("valid", others[3:])):
        for number, index in enumerate(indices):
            place = root / split / f"class{number % 2}" / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(faces.source.content(index))
    return DataConfig(kind="folder", root=str(root), public=None)


def test_the_identity_is_of_pictures_settings_seed_and_content(
    faces_root: Path, faces: ImageDataset, tmp_path: Path
) -> None:
    settings, wanted = alone(faces_root), PriorConfig(**SMALL)
    first = learned(tmp_path / "1", settings, faces, wanted)
    assert learned(tmp_path / "2", settings, faces, wanted).column == first.column
    fewer = dataclasses.replace(settings, data=dataclasses.replace(settings.data, public=7))
    copy = shutil.copytree(faces_root, tmp_path / "faces")
    changed = open_celeba(copy, shape=faces.shape)
    name = changed.source.where(changed.split("test")[0])
    Image.new("RGB", (178, 218), (255, 0, 0)).save(name)
    others = (
        (dataclasses.replace(settings, seed=6), faces, wanted),
        (settings, faces, dataclasses.replace(wanted, passes=3)),
        (fewer, faces, wanted),
        (settings, changed, wanted),
    )
    for number, (own, dataset, prior) in enumerate(others):
        found = learned(tmp_path / f"other{number}", own, dataset, prior)
        assert found.identity.partition("-")[0] != first.identity.partition("-")[0]
        assert found.identity.partition("-")[2] != first.identity.partition("-")[2]


def test_a_prior_that_nothing_uses_and_one_that_is_missing_are_refused() -> None:
    trained = {"kind": "matching", "priors": [{"kind": "trained", "weight": 0.001}]}
    with pytest.raises(InputError, match=r"prior = None: must be given with the prior 'trained'"):
        build(AttackerConfig, {"attack": trained}, where="test")
    with pytest.raises(InputError, match=r"must be left out: this attack uses none"):
        build(AttackerConfig, {"attack": {"kind": "matching"}, "prior": {}}, where="test")
    build(AttackerConfig, {"attack": trained, "prior": {}}, where="test")
    families = {"loop": {"attack": {"kind": "matching"}}, "prior": {"attack": trained}}
    build(AttackerConfig, {"families": families, "prior": {}}, where="test")
    with pytest.raises(InputError, match=r"prior = None: must be given with the prior 'trained'"):
        build(AttackerConfig, {"families": families}, where="test")


def test_attackers_without_a_prior_are_what_they_were() -> None:
    assert '"prior":' not in canonical(AttackerConfig())


def notes(rows: pd.DataFrame, attacker: str) -> list[str]:
    return list(rows[rows["attacker"] == attacker]["notes"])


def alone(faces_root: Path) -> SweepConfig:
    """The small sweep's first cell, by itself."""
    whole = sweep(faces_root)
    return cell_settings(whole, whole.cells[0])
