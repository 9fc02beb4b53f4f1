"""From YAML text to a validated sweep, with errors that name the place and the nearest valid name."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from attack_core.families import NAMED, AnyAttack
from fl_core.errors import InputError, unknown_name
from orchestrator.config import AttackerConfig, CellConfig, Json, SweepConfig, ThresholdConfig
from orchestrator.space import FAMILY, Params, of_family

T = TypeVar("T")

_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
"""What pydantic knows of a type: some 10 ms to find out, and needed several times for every trial."""


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep in a YAML 1.2 file, after `key=value` overrides with dotted keys and YAML values.

    A file may hold smaller or larger forms of itself: `scales` maps a name to dotted keys and their values, and `scale`
    says which of them is put in, before the other overrides. The cells of its thresholds' grids are among its cells.
    Raises `InputError` for a missing file, bad YAML, unknown
    keys, wrong types, values out of range, and search spaces that do not fit their attack.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the sweep file {path}: {error}.") from error
    tree = _yaml(text, str(path))
    if not isinstance(tree, dict):
        raise InputError(f"{path}: a sweep file is a mapping of settings, not {type(tree).__name__}.")
    spell_out(tree, where=str(path))
    chosen = [_override(text) for text in overrides]
    _scale(tree, [value for key, value in chosen if key == "scale"], where=str(path))
    for key, value in chosen:
        if key != "scale":
            put(tree, key, value, where="--set")
    spell_out(tree, where="--set")
    sweep = with_thresholds(build(SweepConfig, tree, where=str(path)))
    for cell in sweep.cells:
        cell_settings(sweep, cell)
    for attacker in sweep.attackers:
        place = f"{path}: attackers.{attacker.name}"
        _check_search(attacker.attack, attacker.search, where=f"{place}.search")
        for name, family in attacker.families.items():
            _check_search(family.attack, family.search, where=f"{place}.families.{name}.search")
    return sweep


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--set {text!r}: must be key=value, such as study.suggestions=8.")
    return key, _yaml(value, f"--set {key}")


def _scale(tree: dict[str, Any], wanted: Sequence[Any], *, where: str) -> None:
    """Put the wanted scale's values in, the file's own where none is asked for; `scale` and `scales` are taken out."""
    scales, name = tree.pop("scales", None) or {}, tree.pop("scale", None)
    name = wanted[-1] if wanted else name
    if not isinstance(scales, dict) or not all(isinstance(values, dict) for values in scales.values()):
        raise InputError(f"{where}: scales must map each name to dotted keys and their values.")
    if name is None:
        return
    if name not in scales:
        raise InputError(f"{where}: {unknown_name('scale', str(name), [str(known) for known in scales])}")
    for key, value in scales[name].items():
        put(tree, str(key), copy.deepcopy(value), where=f"{where}: scales.{name}")


def spell_out(tree: dict[str, Any], *, where: str) -> None:
    """Replace every attack that is given by name by all of its settings, in place.

    An attack is `NAME`, or a mapping with `name: NAME` and the settings that differ from it, or one with a `kind`,
    which is `matching` where it is left out. Raises `InputError` for names that there are not; other mistakes
    are left to `build`.
    """
    attackers = tree.get("attackers")
    for i, attacker in enumerate(attackers if isinstance(attackers, list) else []):
        families = attacker.get("families") if isinstance(attacker, dict) else None
        owners = {f"attackers.{i}": attacker}
        for name, family in (families if isinstance(families, dict) else {}).items():
            owners[f"attackers.{i}.families.{name}"] = family
        for place, owner in owners.items():
            if isinstance(owner, dict) and "attack" in owner:
                owner["attack"] = _spelled(owner["attack"], where=f"{where}: {place}.attack")


def build(kind: type[T], tree: object, *, where: str) -> T:
    """`tree` (plain data) as a `kind`; raises `InputError` with the first thing that is wrong in it."""
    try:
        text = json.dumps(tree)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}.") from error
    try:
        built: T = _adapter(kind).validate_json(text)
        return built
    except ValidationError as error:
        raise InputError(f"{where}: {_explain(kind, tree, error)}") from error


def to_plain(config: object) -> Any:
    """A config dataclass as plain JSON data, such that `build` gives it back."""
    return json.loads(_adapter(type(config)).dump_json(config))


def put(tree: dict[str, Any], dotted: str, value: object, *, where: str) -> None:
    """Set `tree[a][b]` for the key `a.b`; numbers index lists; missing mappings are made."""
    *parents, last = dotted.split(".")
    node: Any = tree
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, dotted, where)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
    if isinstance(node, list):
        node[_index(node, last, dotted, where)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise InputError(f"{where} {dotted}: {'.'.join(parents)} is a value, not a group of settings.")


def cell_settings(sweep: SweepConfig, cell: CellConfig) -> SweepConfig:
    """The sweep as this one cell has it: its `differs` applied to the common settings."""
    if not cell.differs:
        return sweep
    tree = to_plain(sweep)
    for path, value in cell.differs.items():
        put(tree, path, copy.deepcopy(value), where=f"cells.{cell.name}.differs")
    return build(SweepConfig, tree, where=f"cells.{cell.name}.differs")


def with_thresholds(sweep: SweepConfig) -> SweepConfig:
    """The sweep with the cells of its thresholds' grids behind its own."""
    grids = [threshold_cells(threshold, threshold.strength.grid()) for threshold in sweep.thresholds]
    return dataclasses.replace(sweep, cells=(*sweep.cells, *(cell for grid in grids for cell in grid)))


def threshold_cell(threshold: ThresholdConfig, value: float) -> CellConfig:
    """The cell of one strength; raises `InputError` where the path leads nowhere or the value is refused."""
    where, path = f"thresholds.{threshold.name}", threshold.strength.path
    number: Json = int(value) if threshold.strength.integer else value
    name = threshold.cell_name(value)
    tree = to_plain(CellConfig(name=name, defense=threshold.defense, differs=threshold.differs))
    first, _, rest = path.partition(".")
    if first != "defense":
        tree["differs"] = {**tree["differs"], path: number}
        return build(CellConfig, tree, where=where)
    index, _, field = rest.partition(".")
    known = index.isdigit() and int(index) < len(threshold.defense)
    if not known or field not in tree["defense"][int(index)]:
        raise InputError(
            f"{where}.strength.path = {path!r}: must lead to a number of one of the {len(threshold.defense)} "
            "defenses, such as defense.0.sigma."
        )
    put(tree, path, number, where=where)
    return build(CellConfig, tree, where=where)


def threshold_value(threshold: ThresholdConfig, cell: CellConfig) -> float | None:
    """The strength of a cell of this threshold; None for any other cell."""
    first, _, rest = threshold.strength.path.partition(".")
    if not cell.name.startswith(f"{threshold.name}_"):
        return None
    if first == "defense":
        index, _, field = rest.partition(".")
        defenses = to_plain(cell)["defense"]
        value = defenses[int(index)].get(field) if int(index) < len(defenses) else None
    else:
        value = cell.differs.get(threshold.strength.path)
    number = float(value) if isinstance(value, int | float) else None
    return number if number is not None and threshold.cell_name(number) == cell.name else None


def threshold_cells(threshold: ThresholdConfig, values: Iterable[float]) -> list[CellConfig]:
    """The cells of several strengths, weakest first."""
    return [threshold_cell(threshold, value) for value in sorted(values, key=threshold.strength.position)]


def with_params(attack: AnyAttack, params: Params) -> AnyAttack:
    """The attack with these parameters put in at their dotted paths."""
    if not params:
        return attack
    tree = to_plain(attack)
    for path, value in params.items():
        put(tree, path, value, where="search")
    return build(type(attack), tree, where="search")


def suggested_attack(attacker: AttackerConfig, params: Params) -> AnyAttack:
    """The attack that one suggestion of the attacker's study stands for."""
    if not attacker.families:
        return with_params(attacker.attack, params)
    return with_params(attacker.families[str(params[FAMILY])].attack, of_family(params))


def _spelled(attack: object, *, where: str) -> object:
    if isinstance(attack, str):
        attack = {"name": attack}
    if not isinstance(attack, dict):
        return attack
    if "name" not in attack:
        return {"kind": "matching"} | attack
    own = {key: value for key, value in attack.items() if key != "name"}
    name = str(attack["name"])
    if name not in NAMED:
        raise InputError(f"{where}: {unknown_name('attack', name, NAMED)}")
    if "kind" in own:
        raise InputError(f"{where}: must have a name or a kind, not both; {name!r} says the kind.")
    return _merged(to_plain(NAMED[name]), own)


def _merged(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `own` put over it, level by level; a mapping of another kind replaces the one that was there."""
    merged = dict(base)
    for key, value in own.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("kind") in (None, old.get("kind")):
            value = _merged(old, value)
        merged[key] = value
    return merged


def _check_search(attack: AnyAttack, space: Mapping[str, Any], *, where: str) -> None:
    base: Params = {name: parameter.examples()[0] for name, parameter in space.items()}
    for name, parameter in space.items():
        for value in parameter.examples():
            try:
                with_params(attack, base | {name: value})
            except InputError as error:
                raise InputError(f"{where}.{name} = {value!r} does not fit the attack: {error}") from error


def _yaml(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        line = " ".join(str(error).split())
        raise InputError(f"{where}: not valid YAML: {line}") from error


def _index(items: list[Any], part: str, dotted: str, where: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise InputError(f"{where} {dotted}: {part!r} must be a list position from 0 to {len(items) - 1}.")


def _explain(kind: type[Any], tree: object, error: ValidationError) -> str:
    """One sentence on the first error that concerns the union member that was meant."""
    errors = error.errors(include_url=False)
    meant, wrong_kind = _meant(errors)
    # An unknown key says more than the missing ones beside it, and a rule of ours more than a type.
    rank = {"unexpected_keyword_argument": 0, "value_error": 1}
    first = min(meant or wrong_kind, key=lambda e: rank.get(e["type"], 2))
    place = ".".join(str(part) for part in _clean(first["loc"], tree))
    if first["type"] == "unexpected_keyword_argument":
        key = str(first["loc"][-1])
        near = difflib.get_close_matches(key, _known_keys(kind), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near and near[0] != key else ""
        return f"unknown key {place!r}.{hint}"
    if first["type"] == "value_error":
        return f"{place}: {first['msg'].removeprefix('Value error, ')}" if place else first["msg"]
    message = first["msg"][0].lower() + first["msg"][1:]
    if not meant:
        message = f"must be one of {', '.join(sorted({e['ctx']['expected'] for e in wrong_kind}))}"
    value = "" if first["type"] == "missing" else f" = {json.dumps(first['input'], default=str)[:80]}"
    return f"{place}{value}: {message}."


def _meant(errors: list[ErrorDetails]) -> tuple[list[ErrorDetails], list[ErrorDetails]]:
    """Of the errors of all members of unions: those of members whose kind is right, and kinds that no member has."""
    wrong = [e for e in errors if e["type"] == "literal_error" and e["loc"][-1] == "kind"]
    members = {e["loc"][:-1] for e in wrong}
    meant = [e for e in errors if not any(e["loc"][: len(m)] == m for m in members)]

    def unknown(e: ErrorDetails) -> bool:
        own, union = e["loc"][:-1], e["loc"][:-2]
        nested = any(own != m and own[: len(m)] == m for m in members)
        # Another member was meant where it has an error of its own, deeper down.
        beside = [o["loc"][: len(own)] for o in errors if o["loc"][: len(union)] == union]
        return not nested and all(place in members for place in beside)

    return meant, [e for e in wrong if unknown(e)] or wrong


def _clean(loc: Sequence[str | int], tree: object) -> list[str | int]:
    """The location without the union member names that pydantic puts in."""
    kept: list[str | int] = []
    node: Any = tree
    for i, part in enumerate(loc):
        if isinstance(node, dict) and (part in node or i == len(loc) - 1):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            continue
        kept.append(part)
    return kept


def _known_keys(kind: type[Any]) -> list[str]:
    found: set[str] = set()

    def visit(node: object) -> None:
        if isinstance(node, dict):
            found.update(str(key) for key in node.get("properties", {}))
            for value in node.values():
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    visit(_adapter(kind).json_schema())
    return sorted(found | {f.name for f in dataclasses.fields(kind)})
