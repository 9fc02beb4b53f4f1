"""Captures: the data sets that they are made of, and their store."""

from __future__ import annotations

from orchestrator.capture.datasets import check_data, data_line, open_faces, planned_faces, resolve_kind
from orchestrator.capture.store import (
    Capture,
    CaptureSource,
    CaptureStore,
    captured_federation,
    check_batches,
    check_round,
    victims_of,
)
from orchestrator.capture.used_data import DataCheck, refuse_mixed, united

__all__ = [
    "Capture",
    "captured_federation",
    "CaptureSource",
    "CaptureStore",
    "check_batches",
    "check_data",
    "check_round",
    "data_line",
    "DataCheck",
    "open_faces",
    "planned_faces",
    "refuse_mixed",
    "resolve_kind",
    "united",
    "victims_of",
]
