"""A data set in the layout of Hugging Face: Parquet files, and a README whose header names them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from orchestrator.exports.tables import Tables
from orchestrator.io.files import write_atomically
from orchestrator.io.parquet import parquet_bytes
from orchestrator.report.terminal import interval, number
from orchestrator.results.columns import IMAGES

_FEATURES = {
    column.name: {"_type": "Image"}
    if column.type.startswith("struct")
    else {"dtype": "string", "_type": "Value"}
    for column in IMAGES
}
"""What `datasets` reads of a file of pictures: which columns hold images."""


def write_data_set(out: Path, tables: Tables, pictures: pa.Table | None) -> None:
    """Write `trials`, `studies`, `summary` and, where there are any, `pictures` as Parquet, and the README.

    A data set is there to be shared: names of machines and places of data are left out.
    """
    parts = {
        "trials": tables.trials.drop_columns(["host"]),
        "studies": tables.studies,
        "summary": tables.summary,
    }
    if pictures is not None and len(pictures):
        said = {"huggingface": json.dumps({"info": {"features": _FEATURES}})}
        parts["pictures"] = pictures.replace_schema_metadata(said)
    # An empty table, of suggestions where nothing was searched, is no part of a data set.
    parts = {name: table for name, table in parts.items() if len(table)}
    for name, table in parts.items():
        write_atomically(out / f"{name}.parquet", parquet_bytes(table))
    write_atomically(out / "README.md", _card(tables, list(parts)).encode())


def _card(tables: Tables, parts: list[str]) -> str:
    name = tables.results.name
    data = ", ".join(sorted(set(tables.results.rows["data"])))
    configs = "\n".join(
        f"- config_name: {part}\n  data_files: {part}.parquet"
        + ("\n  default: true" if part == "trials" else "")
        for part in parts
    )
    lines = "\n".join(
        f"| {line.cell} | {line.attacker} | {line.n} | {interval(line.psnr)} | {number(line.psnr_control)} | "
        f"{interval(line.gain)} |"
        for line in tables.lines
    )
    return f"""---
pretty_name: {json.dumps(f"gradsweep: {name}")}
configs:
{configs}
---

# {name}

Results of a gradsweep sweep: gradient inversion against defenses of federated learning. Data:
{data}.
`trials` has one row for each true image of each trial, `studies` the tuning, `summary` one line for each defense
setting (cell) and attacker. gradsweep's docs/results.md explains every column.

| cell | attacker | n | PSNR dB | control dB | gain dB |
|---|---|---|---|---|---|
{lines}

n counts test victims. Brackets are 95% intervals over them. The control is the PSNR that anybody reaches without a
signal, and a gain is the PSNR above that.
"""
