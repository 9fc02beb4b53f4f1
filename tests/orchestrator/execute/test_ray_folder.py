"""Ray's sockets have short paths, whatever the folder for temporary files is called."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fl_core.base.errors import InputError
from orchestrator.execute import ray_folder
from orchestrator.execute.ray_folder import BELOW, MOST_BYTES, scratch_folder

MOST = MOST_BYTES - BELOW


@pytest.mark.parametrize("environment", [{}, {"TMPDIR": "/tmp"}, {"TMPDIR": "/" + "t" * (MOST - 1) + "/"}])
def test_a_short_folder_is_used_as_it_is(environment: dict[str, str]) -> None:
    assert scratch_folder(environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        {"TMPDIR": "/" + "t" * MOST},
        {"TMPDIR": "/tmp/größe"},
        {"TMPDIR": "/tmp/一時"},
        {"TMPDIR": "/tmp", "RAY_TMPDIR": "/scratch/" + "x" * 200},
    ],
)
def test_another_one_is_replaced_with_a_line(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert scratch_folder(environment) == "/tmp/ray"
    (said,) = caplog.messages
    assert f"may have {MOST_BYTES} bytes" in said
    assert said.endswith("Ray uses /tmp/ray instead")


def test_without_a_short_folder_the_limit_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_folder, "SHORT", tmp_path / "absent")
    with pytest.raises(InputError, match=r"107 bytes.*set RAY_TMPDIR to a shorter folder"):
        scratch_folder({"TMPDIR": "/" + "t" * 200})
