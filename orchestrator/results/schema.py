"""The columns of the results: explicit Parquet schemas with a version."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from fl_core.base.errors import InputError
from orchestrator.config.space import Choice, FloatRange, IntRange, Parameter, Scalar

VERSION = "4"
"""Of the results folder; written into every file's metadata."""

_S, _F, _I, _B = pa.string(), pa.float64(), pa.int64(), pa.bool_()

BASE: tuple[tuple[str, pa.DataType], ...] = (
    ("trial_id", _S),
    ("image_id", _S),
    ("sweep", _S),
    ("cell", _S),
    ("study", _S),
    ("attacker", _S),
    ("phase", _S),
    ("suggestion", _I),
    ("victim", _I),
    ("status", _S),
    ("error", _S),
    ("data", _S),
    ("model", _S),
    ("weights", _S),
    ("defense", _S),
    ("defense_params", _S),
    ("differs", _S),
    ("threat", _S),
    ("view", _S),
    ("signal", _S),
    ("batch_size", _I),
    ("round", _I),
    ("weights_accuracy", _F),
    ("client", _I),
    ("epsilon", _F),
    ("epsilon_release", _F),
    ("delta", _F),
    ("dp_unit", _S),
    ("dp_against", _S),
    ("adjacency", _S),
    ("rounds", _I),
    ("sampling_rate", _F),
    ("clip_factor", _F),
    ("noise_to_signal_db", _F),
    ("bytes_up", _I),
    ("rounding_error", _F),
    ("setup_seconds", _F),
    ("protect_seconds", _F),
    ("add_seconds", _F),
    ("reveal_seconds", _F),
    ("attack", _S),
    ("attack_params", _S),
    ("method", _S),
    ("notes", _S),
    ("seed", _I),
    ("preselected", _B),
    ("psnr", _F),
    ("psnr_oracle", _F),
    ("psnr_prior", _F),
    ("psnr_mean_image", _F),
    ("psnr_public", _F),
    ("psnr_groups", _F),
    ("psnr_range4", _F),
    ("ssim", _F),
    ("lpips", _F),
    ("mse", _F),
    ("label_match", _B),
    ("label_accuracy", _F),
    ("match_loss", _F),
    ("iterations", _I),
    ("restarts", _I),
    ("packing", _I),
    ("candidates_failed", _I),
    ("seconds", _F),
    ("cpu_seconds", _F),
    ("gpu_seconds", _F),
    ("device", _S),
    ("peak_memory_mb", _F),
    ("accuracy", _F),
    ("host", _S),
    ("git_commit", _S),
    ("versions", _S),
    ("started_at", pa.timestamp("us", tz="UTC")),
)

SUM_COSTS = ("rounding_error", "setup_seconds", "protect_seconds", "add_seconds", "reveal_seconds")
"""What rows say of a secure sum beside its bytes; null where there is none."""

STUDIES = pa.schema(
    [
        ("study", _S),
        ("suggestion", _I),
        ("params", _S),
        ("state", _S),
        ("value", _F),
        ("trial_ids", pa.list_(_S)),
    ],
    metadata={"gradsweep": VERSION},
)

_PICTURE = pa.struct([("bytes", pa.binary()), ("path", _S)])

IMAGES = pa.schema(
    [("trial_id", _S), ("image_id", _S), ("original", _PICTURE), ("reconstruction", _PICTURE)],
    metadata={"gradsweep": VERSION},
)


TRIALS_BASE = pa.schema(BASE)

_SEARCHED = "hp_"
_KEYS = {
    "trials": ("trial_id",),
    "images": ("trial_id",),
    "studies": ("study", "suggestion", "params", "state"),
}
"""By kind of file, the columns that are never null."""
_JSON = {"differs": dict, "threat": dict, "versions": dict, "notes": list}
"""Columns of trials that hold JSON, and of which shape."""


def hp_column(name: str) -> str:
    """The column of the searched hyperparameter at dotted path `name`."""
    return f"{_SEARCHED}{name.replace('.', '_')}"


def trials_schema(spaces: Iterable[Mapping[str, Parameter]]) -> pa.Schema:
    """Base columns, then one for each hyperparameter of any of the search spaces.

    Raises `InputError` where two spaces give one name different types.
    """
    searched: dict[str, pa.DataType] = {}
    for space in spaces:
        for name, parameter in space.items():
            kind = _arrow_type(parameter)
            column = hp_column(name)
            if searched.setdefault(column, kind) != kind:
                raise InputError(
                    f"The searched parameter {name!r} is {searched[column]} in one attacker and {kind} in another; "
                    "give both the same type."
                )
    return _with_searched(searched)


def schema_of(rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """The schema of rows whose search spaces are not at hand: searched columns have the type of their values."""
    values: dict[str, list[Scalar]] = {}
    for row in rows:
        for name in row.keys() - set(TRIALS_BASE.names):
            values.setdefault(name, []).append(row[name])
    return _with_searched({name: column_type(found) for name, found in values.items()})


def column_type(values: Iterable[Scalar]) -> pa.DataType:
    """The type of a searched column that holds these values: numbers or truth values where all others are null."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return _F
    return {frozenset({bool}): _B, frozenset({int}): _I, frozenset({float}): _F}.get(frozenset(kinds), _S)


def trials_table(rows: Iterable[Mapping[str, Any]], columns: pa.Schema) -> pa.Table:
    """Rows as a table. A value in a searched column of text is text itself, or else its JSON: `true`, `2.0`."""
    searched = {field.name: field.type for field in columns if field.name.startswith(_SEARCHED)}
    plain = [
        {**row, **{name: _as_column(row[name], kind) for name, kind in searched.items() if name in row}}
        for row in rows
    ]
    return pa.Table.from_pylist(plain, schema=columns)


def misfit(kind: str, table: pa.Table) -> str | None:
    """What in a file of `trials`, `images` or `studies` was never written; columns of later versions may be missing."""
    wanted = {"trials": TRIALS_BASE, "images": IMAGES, "studies": STUDIES}[kind]
    for field in table.schema:
        if field.name in wanted.names:
            if field.type != wanted.field(field.name).type:
                return f"column {field.name!r} is {field.type}, not {wanted.field(field.name).type}"
        elif kind != "trials" or not field.name.startswith(_SEARCHED):
            return f"column {field.name!r} is unknown"
    for name in _KEYS[kind]:
        if name not in table.column_names or table.column(name).null_count:
            return f"column {name!r} has gaps"
    for name, shape in _JSON.items() if kind == "trials" else ():
        values = table.column(name).unique().drop_null().to_pylist() if name in table.column_names else []
        if not all(_is_json(value, shape) for value in values):
            return f"column {name!r} is not JSON"
    return None


def _is_json(text: str, shape: type) -> bool:
    try:
        return isinstance(json.loads(text), shape)
    except ValueError:
        return False


def _with_searched(searched: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema([*BASE, *sorted(searched.items())], metadata={"gradsweep": VERSION})


def _arrow_type(parameter: Parameter) -> pa.DataType:
    match parameter:
        case FloatRange():
            return _F
        case IntRange():
            return _I
        case Choice(choices=choices):
            return column_type(choices)


def _as_column(value: Scalar, kind: pa.DataType) -> Scalar:
    if kind == _F and isinstance(value, int):
        return float(value)
    return json.dumps(value) if kind == _S and not isinstance(value, str | None) else value
