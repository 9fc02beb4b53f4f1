"""Files and identities: whole writes, retries, content hashes, provenance."""

from __future__ import annotations

from orchestrator.io.files import (
    CHECKSUM,
    RESTORE,
    Damaged,
    append_line,
    clearly,
    persistently,
    read_bytes,
    read_json,
    sealed,
    typed,
    unsealed,
    write_atomically,
    write_json,
)
from orchestrator.io.guard import refuse_links
from orchestrator.io.identity import canonical, content_hash, tensor_hash
from orchestrator.io.parquet import parquet_bytes, read_parquet
from orchestrator.io.provenance import provenance
from orchestrator.io.retries import TRIES, patiently

__all__ = [
    "append_line",
    "canonical",
    "CHECKSUM",
    "clearly",
    "content_hash",
    "Damaged",
    "parquet_bytes",
    "patiently",
    "persistently",
    "provenance",
    "read_bytes",
    "read_json",
    "read_parquet",
    "refuse_links",
    "RESTORE",
    "sealed",
    "tensor_hash",
    "TRIES",
    "typed",
    "unsealed",
    "write_atomically",
    "write_json",
]
