"""Results for other tools: CSV files, a data set of Hugging Face, runs of MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv

from orchestrator.exports.hugging_face import write_data_set
from orchestrator.exports.mlflow_files import write_runs
from orchestrator.exports.tables import Tables
from orchestrator.io.whole import appearing, check_new
from orchestrator.results.store import read_images

Form = Literal["csv", "hf", "mlflow"]


def export_results(folder: Path, form: Form, out: Path, *, pictures: bool = False) -> None:
    """Write the results of a folder into the new folder `out`, which appears whole or not at all.

    `pictures` go into a data set of Hugging Face where that is asked for. Raises `InputError` where the folder holds no
    results, or `out` something.
    """
    check_new(out, "export")
    tables = Tables.of(folder)
    with appearing(out) as scratch:
        match form:
            case "csv":
                _write_csv(scratch, tables)
            case "hf":
                write_data_set(scratch, tables, read_images(folder) if pictures else None)
            case "mlflow":
                write_runs(scratch, tables, place=out)


def _write_csv(out: Path, tables: Tables) -> None:
    """`trials.csv`, `studies.csv`, `summary.csv`; lists are JSON, what is null is empty."""
    for name, table in (
        ("trials", tables.trials),
        ("studies", tables.studies),
        ("summary", tables.summary),
    ):
        pyarrow.csv.write_csv(_plain(table), out / f"{name}.csv")


def _plain(table: pa.Table) -> pa.Table:
    """The table with its lists as JSON, which CSV has none of."""
    for position, column in enumerate(table.schema):
        if pa.types.is_list(column.type):
            values = [
                None if value is None else json.dumps(value) for value in table[column.name].to_pylist()
            ]
            table = table.set_column(position, column.name, pa.array(values, pa.string()))
    return table
