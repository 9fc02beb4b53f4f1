"""Parquet files with checksums: one of every page, and one of the whole file in its metadata."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fl_core.base.errors import first_line
from orchestrator.io.files import CHECKSUM, Damaged, read_bytes

_BLANK = b"0" * 64
"""What stands in the place of the checksum while it is computed."""


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file. The pages' checksums are for every reader, that of the file for `read_parquet`."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({CHECKSUM: _BLANK.decode()})
    content = sink.getvalue().to_pybytes()
    return _with(content, _BLANK, hashlib.sha256(content).hexdigest().encode())


def read_parquet(path: Path, *, remedy: str) -> pa.Table:
    """The table in a Parquet file, all of it checked; files of earlier versions have no checksums to check.

    Raises `Damaged`, with the `remedy`, where it holds something else than was written, `FileNotFoundError` where it
    is missing.
    """
    content = read_bytes(path)
    try:
        found = (pq.read_metadata(pa.BufferReader(content)).metadata or {}).get(CHECKSUM.encode())
        if found is not None and hashlib.sha256(_with(content, found, _BLANK)).hexdigest().encode() != found:
            raise ValueError("its checksum differs")
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{path} is not a readable Parquet file ({first_line(error)}); {remedy}.") from error
    return table


def _with(content: bytes, old: bytes, new: bytes) -> bytes:
    """The content with the last `old`, which lies in the footer, replaced."""
    before, _, after = content.rpartition(old)
    return before + new + after
