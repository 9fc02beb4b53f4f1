"""Slow encryption is asked about before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from defenses.he.encryption import Paillier
from fl_core.base.errors import InputError
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import open_celeba
from orchestrator.capture.store import CaptureStore
from orchestrator.config.parse import cell_settings
from orchestrator.config.sweep import CellConfig
from orchestrator.driver.consent import require_consent
from orchestrator.trial.cell import Cell
from tests.support.small import sweep

pytest.importorskip("phe")


def prepared(root: Path, folder: Path, model: str, size: int) -> Cell:
    config = sweep(root, model__kind=model, model__image_size=size)
    cell = CellConfig(name="paillier", defense=(Paillier(),))
    store = CaptureStore(folder, device=torch.device("cpu"), progress=lambda _: None)
    return Cell.prepare(cell_settings(config, cell), open_celeba(root, shape=ImageShape.square(size)), store)


def test_hours_of_paillier_need_a_yes_and_the_estimate_is_told(faces_root: Path, tmp_path: Path) -> None:
    cell = prepared(faces_root, tmp_path, "cnn64", 64)
    with pytest.raises(
        InputError, match=r"slow \(8,760,\d+ values of .* (min|h), .* MB of ciphertext.*--yes"
    ):
        require_consent([cell], allow_slow=False)
    require_consent([cell], allow_slow=True)


def test_a_small_network_is_not_asked_about(faces_root: Path, tmp_path: Path) -> None:
    require_consent([prepared(faces_root, tmp_path, "lenet", 16)], allow_slow=False)
