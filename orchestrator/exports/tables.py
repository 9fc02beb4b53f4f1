"""The tables of a results folder as other tools take them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from orchestrator.analysis.lines import Line, frame
from orchestrator.analysis.summary import summary_lines
from orchestrator.io.places import check_folder_there
from orchestrator.report.reader import Results
from orchestrator.results.store import read_rows, read_studies


@dataclass(frozen=True)
class Tables:
    """What a folder holds: rows of trials, suggestions, lines of the summary."""

    results: Results
    lines: tuple[Line, ...]
    trials: pa.Table
    studies: pa.Table

    @classmethod
    def of(cls, folder: Path) -> Tables:
        """Read a folder; raises `InputError` where it holds no results."""
        check_folder_there(folder)
        lines = summary_lines(folder)
        return cls(Results(folder, lines), lines, read_rows(folder), read_studies(folder))

    @property
    def summary(self) -> pa.Table:
        """The summary, as `summary.parquet` has it."""
        return pa.Table.from_pandas(frame(self.lines), preserve_index=False).replace_schema_metadata(None)
