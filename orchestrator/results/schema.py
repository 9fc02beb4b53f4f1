"""The declared columns as Parquet schemas with a version."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from fl_core.base.errors import InputError
from orchestrator.config.space import Choice, FloatRange, IntRange, Parameter, Scalar
from orchestrator.results import columns
from orchestrator.results.columns import Column

VERSION = "4"
"""Of the results folder; written into every file's metadata."""

_S, _F, _I, _B = pa.string(), pa.float64(), pa.int64(), pa.bool_()
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", _S)])
_ARROW = {str(kind): kind for kind in (_S, _F, _I, _B, _PICTURE, pa.timestamp("us", tz="UTC"))}
_ARROW["list<string>"] = pa.list_(_S)


def _schema(columns: Sequence[Column], metadata: dict[str, str] | None = None) -> pa.Schema:
    return pa.schema([(column.name, _ARROW[column.type]) for column in columns], metadata=metadata)


SUM_COSTS = ("rounding_error", "setup_seconds", "protect_seconds", "add_seconds", "reveal_seconds")
"""What rows say of a secure sum beside its bytes; null where there is none."""

TRIALS_BASE = _schema(columns.TRIALS)
STUDIES = _schema(columns.STUDIES, {"gradsweep": VERSION})
IMAGES = _schema(columns.IMAGES, {"gradsweep": VERSION})

_DECLARED = {"trials": TRIALS_BASE, "images": IMAGES, "studies": STUDIES}
_SEARCHED = "hp_"
_KEYS = {
    "trials": ("trial_id",),
    "images": ("trial_id",),
    "studies": ("study", "suggestion", "params", "state"),
}
"""By kind of file, the columns that are never null."""
_JSON = {"differs": dict, "threat": dict, "versions": dict, "notes": list, "convergence": list}
"""Columns of trials that hold JSON, and of which shape."""


def study_name(cell: str, attacker: str, *, seed: int, first: int) -> str:
    """The name of a study: `CELL/ATTACKER` at the sweep's `first` seed, `CELL/ATTACKER/SEED` at a further one."""
    return f"{cell}/{attacker}" if seed == first else f"{cell}/{attacker}/{seed}"


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


def unknown_column(kind: str, table: pa.Table) -> str | None:
    """A column in a file of `trials`, `images` or `studies` that is not declared here: a later version's, it seems."""
    searched = _SEARCHED if kind == "trials" else None
    names = (name for name in table.column_names if searched is None or not name.startswith(searched))
    return next((name for name in names if name not in _DECLARED[kind].names), None)


def misfit(kind: str, table: pa.Table) -> str | None:
    """What in a file of `trials`, `images` or `studies` was never written; columns that were added may be missing."""
    wanted = _DECLARED[kind]
    for field in table.schema:
        if field.name in wanted.names and field.type != wanted.field(field.name).type:
            return f"column {field.name!r} is {field.type}, not {wanted.field(field.name).type}"
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
    return pa.schema([*TRIALS_BASE, *sorted(searched.items())], metadata={"gradsweep": VERSION})


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
