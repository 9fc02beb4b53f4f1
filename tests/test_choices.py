"""What `auto` means: the device and the faces that are there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fl_core.celeba import open_celeba
from fl_core.device import pick_device
from fl_core.errors import InputError
from orchestrator.config import DataConfig
from orchestrator.datasets import open_faces, resolve_kind


@pytest.mark.parametrize(
    ("cuda", "mps", "auto"),
    [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps"), (True, True, "mps")],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, auto: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto").type == auto
    assert pick_device("cpu").type == "cpu"
    for name, present in (("cuda", cuda), ("mps", mps)):
        if present:
            assert pick_device(name).type == name
        else:
            with pytest.raises(InputError, match=f"Device '{name}' is not available here"):
                pick_device(name)
    with pytest.raises(InputError, match=r"Unknown device 'cudaa'. Did you mean 'cuda'"):
        pick_device("cudaa")


def test_faces(tmp_path: Path, faces_root: Path) -> None:
    data = DataConfig(root=str(tmp_path), synthetic_images=16)
    assert resolve_kind(dataclasses.replace(data, root=str(faces_root))).kind == "celeba"
    synthetic = resolve_kind(data)
    assert synthetic.kind == "synthetic"
    said: list[str] = []
    first = open_faces(synthetic, image_size=16, progress=said.append)
    again = open_faces(synthetic, image_size=16, progress=said.append)
    assert len(said) == 1
    assert "writing 16 synthetic faces" in said[0]
    assert len(first) == len(again) == 16
    assert first.fingerprint == again.fingerprint
    assert resolve_kind(data).kind == "synthetic", "what was written is not taken for CelebA"
    assert (
        open_celeba(Path(synthetic.root) / "synthetic_faces" / "seed0_num16").fingerprint != first.fingerprint
    )


def test_real_faces_open_through_the_same_door(celeba_root: Path) -> None:
    data = resolve_kind(DataConfig(root=str(celeba_root)))
    assert data.kind == "celeba"
    dataset = open_faces(data, image_size=64, progress=lambda _: None)
    images, labels = dataset.batch(dataset.split("test")[:64])
    assert images.shape == (64, 3, 64, 64)
    assert set(labels.tolist()) == {0, 1}
