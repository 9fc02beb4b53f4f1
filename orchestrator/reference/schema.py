"""The JSON schema (draft 2020-12) of sweep files as they are written, short forms too."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from attack_core.attacks.registry import NAMED
from orchestrator.axes.values import GROUPS
from orchestrator.config.explain import setting_paths
from orchestrator.config.spelling import SECOND_NAMES
from orchestrator.config.sweep import SweepConfig
from orchestrator.reference.keys import kinds_of, meanings

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_OWN = {
    "type": "object",
    "description": "A class of your own, FILE.py:CLASS, with its fields.",
    "required": ["kind"],
    "properties": {"kind": {"type": "string", "pattern": "^.+:[A-Za-z_]\\w*$"}},
}
_SHAPE = {"type": "integer", "minimum": 1}


def sweep_schema() -> dict[str, Any]:
    """The schema, as plain data. What it accepts may still be refused: it knows keys and types, not every rule."""
    schema: dict[str, Any] = TypeAdapter(SweepConfig).json_schema()
    kinds = {kind.__name__: kind for kind in kinds_of(SweepConfig)}
    parts: dict[str, Any] = schema["$defs"]
    for name, part in [("SweepConfig", schema), *parts.items()]:
        for key, text in meanings(kinds[name]).items() if name in kinds else ():
            if key in part.get("properties", {}):
                part["properties"][key]["description"] = text
    for name in ("OwnDefense", "OwnAttack", "OwnObjective", "OwnPrior"):
        parts[name] = _OWN
    for owner, group in (("StudyConfig", "study"), ("AttackerConfig", "attackers")):
        known = parts[owner]["properties"]
        known |= {second: known[name] for second, name in SECOND_NAMES[group].items()}
    _spell_attacks(parts)
    _spell_network(parts)
    _spell_paths(schema, parts)
    return {"$schema": DIALECT, "title": "gradsweep sweep file", **schema}


def _spell_attacks(parts: dict[str, Any]) -> None:
    """An attack may be a name, or a mapping with a name and what differs from it."""
    by_kind: dict[str, list[str]] = {}
    for name, attack in NAMED.items():
        by_kind.setdefault(type(attack).__name__, []).append(name)
    for kind, names in by_kind.items():
        parts[kind]["properties"]["name"] = {
            "enum": sorted(names),
            "description": "A named attack to start from.",
        }
    short = {"type": "string", "anyOf": [{"enum": sorted(NAMED)}, {"pattern": ":"}]}
    for owner in ("AttackerConfig", "FamilyConfig"):
        field = parts[owner]["properties"]["attack"]
        field["anyOf"] = [short, *field["anyOf"]]
        field.pop("default", None)


def _spell_network(parts: dict[str, Any]) -> None:
    """Code and weights are named by their files, and `input` stands for several settings."""
    model = parts["ModelConfig"]["properties"]
    for key in ("factory", "weights"):
        model[key]["anyOf"] = [{"type": "string"}, *model[key]["anyOf"]]
    numbers = {"type": "array", "items": {"type": "number"}}
    model["input"] = {
        "type": "object",
        "description": "Size and normalisation of pictures together.",
        "additionalProperties": False,
        "required": ["height", "width"],
        "properties": {
            "channels": {"enum": [1, 3]},
            "height": _SHAPE,
            "width": _SHAPE,
            "mean": numbers,
            "std": numbers,
        },
    }


def _spell_paths(schema: dict[str, Any], parts: dict[str, Any]) -> None:
    """Dotted paths are those that there are; `axes`, `scales` and `scale` stand in files alone."""
    paths = [path for path in setting_paths(SweepConfig) if path.partition(".")[0] in GROUPS]
    known = {"enum": [*paths, "model.input"]}
    for owner in ("CellConfig", "ThresholdConfig"):
        parts[owner]["properties"]["differs"]["propertyNames"] = known
    entries = {"type": "array", "items": {"type": "object"}}
    schema["properties"] |= {
        "axes": {
            "type": ["object", "null"],
            "description": "Values of settings, of which every combination becomes a cell.",
            "propertyNames": {"anyOf": [known, {"pattern": "^defense\\.[0-9]+\\."}, {"pattern": "^[^.]+$"}]},
            "properties": {"include": entries, "exclude": entries},
            "additionalProperties": {"type": ["array", "object", "null"], "minItems": 1, "minProperties": 1},
        },
        "scales": {
            "type": "object",
            "description": "Smaller or larger forms of the sweep: dotted keys and their values.",
            "additionalProperties": {"type": "object"},
        },
        "scale": {"type": ["string", "integer", "null"], "description": "The scale that is put in."},
    }
    schema["properties"]["cells"].pop("default", None)
