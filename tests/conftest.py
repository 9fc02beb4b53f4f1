"""Shared fixtures: small synthetic faces, small federations, and the real sample where it is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from fl_core.data.synthetic.faces import write_faces


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two cores are shared by everything; one thread each makes results and times steadier."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def faces_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety-six synthetic faces: 72 train, 12 valid, 12 test."""
    root = tmp_path_factory.mktemp("faces") / "set"
    write_faces(root, num=96, seed=1)
    return root


@pytest.fixture(scope="session")
def many_faces_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1344 synthetic faces, 1008 of them for training, painted once for all processes of a run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    root = folder / "many-faces"
    with FileLock(folder / "many-faces.lock"):
        if not root.exists():
            write_faces(root, num=1344, seed=2)
    return root


@pytest.fixture(scope="session")
def celeba_root() -> Path:
    """The real sample, where CELEBA_ROOT names it."""
    root = os.environ.get("CELEBA_ROOT")
    if not root:
        pytest.skip("CELEBA_ROOT is not set: the real sample is not checked")
    return Path(root)


@pytest.fixture
def faces(faces_root: Path) -> ImageDataset:
    return open_celeba(faces_root, shape=ImageShape.square(16))
