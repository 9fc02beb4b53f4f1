"""The columns of the results: explicit Parquet schemas with a version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from fl_core.errors import InputError
from orchestrator.space import Choice, FloatRange, IntRange, Parameter

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


def hp_column(name: str) -> str:
    """The column of the searched hyperparameter at dotted path `name`."""
    return f"hp_{name.replace('.', '_')}"


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
    return pa.schema([*BASE, *sorted(searched.items())], metadata={"gradsweep": VERSION})


def _arrow_type(parameter: Parameter) -> pa.DataType:
    match parameter:
        case FloatRange():
            return _F
        case IntRange():
            return _I
        case Choice(choices=choices):
            kinds = {type(choice) for choice in choices}
            return {frozenset({bool}): _B, frozenset({int}): _I, frozenset({float}): _F}.get(
                frozenset(kinds), _F if kinds == {int, float} else _S
            )
