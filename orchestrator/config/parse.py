"""From YAML text to a validated sweep, with errors that name the place and the nearest valid name."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from attack_core.attacks.registry import NAMED, AnyAttack
from defenses.chain import Chain
from fl_core.base.errors import InputError, hint, listed, natural, unknown_name
from orchestrator.axes.expand import expand
from orchestrator.axes.paths import put
from orchestrator.axes.values import GROUPS, put_axis, same, slots
from orchestrator.config.explain import UnknownKey, setting_paths
from orchestrator.config.own import anchor_own, code_in, reach, settings_of, settle_own, shown, spell_own
from orchestrator.config.plain import build, to_plain
from orchestrator.config.plain_yaml import read_override, read_sweep_text
from orchestrator.config.space import FAMILY, Params, of_family
from orchestrator.config.spelling import (
    anchor_files,
    file_in,
    own_name,
    spell_files,
    spell_inputs,
    spell_names,
)
from orchestrator.config.sweep import AttackerConfig, CellConfig, Json, SweepConfig, ThresholdConfig


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep in a YAML 1.2 file, after `key=value` overrides with dotted keys and YAML values.

    A file may hold smaller or larger forms of itself: `scales` maps a name to dotted keys and their values, and `scale`
    says which of them is put in, before the other overrides. The cells of its `axes` and of its thresholds' grids are
    among its cells.
    Relative paths to code and weights are in the file's folder, those of overrides in the current one.
    Raises `InputError` for a missing file, bad YAML, unknown keys, wrong types, values out of range, and search spaces
    that do not fit their attack.
    """
    sweep = with_thresholds(build(SweepConfig, sweep_tree(path, overrides), where=str(path)))
    for cell in sweep.cells:
        cell_settings(sweep, cell)
        Chain(defenses=cell.defense)
    for attacker in sweep.attackers:
        place = f"{path}: attackers.{attacker.name}"
        _check_search(attacker.attack, attacker.search, where=f"{place}.search")
        for name, family in attacker.families.items():
            _check_search(family.attack, family.search, where=f"{place}.families.{name}.search")
    return sweep


def sweep_tree(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The sweep in a file as plain data that needs no other file of code: nothing in it is given in short.

    Raises `InputError` as `load_sweep` does, as far as the file is read for this.
    """
    tree = read_sweep_text(path)
    spell_names(tree, where=str(path))
    spell_out(tree, where=str(path))
    chosen = [read_override(text) for text in overrides]
    _scale(tree, [value for key, value in chosen if key == "scale"], where=str(path))
    spell_out(tree, where=str(path))
    _anchor(tree, path.parent)
    for key, value in chosen:
        if key != "scale":
            _put(tree, key, value, where="--set")
    spell_names(tree, where="--set")
    spell_out(tree, where="--set")
    _anchor(tree, Path.cwd())
    products = _expand_axes(tree, where=str(path))
    spell_files(tree, where=str(path))
    spell_inputs(tree, where=str(path))
    spell_own(tree, where=str(path))
    _settle_products(tree, products, where=str(path))
    return tree


def _put(tree: dict[str, Any], key: str, value: Any, *, where: str) -> None:
    """`put`, which also takes the dotted name of an axis behind `axes.`; a setting that is an axis has no one value."""
    axes, key = tree.get("axes"), own_name(key)
    if isinstance(axes, dict) and axes.get(key) is not None:
        raise InputError(f"{where} {key}: is an axis of this sweep; give its values with axes.{key}=[...].")
    if not put_axis(tree, key, value):
        put(tree, key, value, where=where)


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    """Let relative paths of code and weights lie in `folder`, in place."""
    anchor_files(tree, folder)
    anchor_own(tree, folder)
    for holder, key, path in slots(tree.get("axes")):
        given = holder[key]
        if path == "model.factory" and isinstance(given, str):
            holder[key] = code_in(given, folder)
        elif path == "model.weights" and isinstance(given, str):
            holder[key] = file_in(given, folder)
        elif path == "defense":
            anchor_own({path: given}, folder)


def _expand_axes(tree: dict[str, Any], *, where: str) -> int:
    """Put the cells that `axes` stand for behind those of the file; how many they are. `axes` is taken out."""
    axes, cells = tree.pop("axes", None), tree.get("cells")
    if axes is None:
        return 0
    products = expand(axes, _differing(), where=where)
    if cells is not None and not isinstance(cells, list):
        return 0  # No list of cells: `build` says so.
    tree["cells"] = [*(cells or []), *products]
    return len(products)


def _settle_products(tree: dict[str, Any], products: int, *, where: str) -> None:
    """Take out of the last `products` cells' differences, in place, what the common settings say too.

    So a cell of the product is marked as differing exactly where it does, as one written by hand. Raises `InputError`
    with the cell's name, which its position would not tell, for defenses that are not as they must be.
    """
    for cell in tree["cells"][-products:] if products else ():
        build(CellConfig, cell, where=f"{where}: cells.{cell['name']}")
        differs = cell["differs"]
        for path in [path for path, value in differs.items() if same(value, _common(tree, path))]:
            # A group that another path leads into is put together from both.
            if not any(other.startswith(f"{path}.") or path.startswith(f"{other}.") for other in differs):
                del differs[path]


def _common(tree: dict[str, Any], path: str) -> object:
    """What holds for a setting where a cell says nothing: the file's value, else the default."""
    nowhere = object()
    for root in (tree, _defaults()):
        node: Any = root
        for part in path.split("."):
            node = node.get(part, nowhere) if isinstance(node, dict) else nowhere
        if node is not nowhere:
            return node
    return nowhere


@cache
def _defaults() -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(SweepConfig(name="default"))
    return plain


@cache
def _differing() -> tuple[str, ...]:
    """The dotted paths in which cells may differ."""
    paths = [path for path in setting_paths(SweepConfig) if path.partition(".")[0] in GROUPS]
    return (*paths, "model.input")


def _scale(tree: dict[str, Any], wanted: Sequence[Any], *, where: str) -> None:
    """Put the wanted scale's values in, the file's own where none is asked for; `scale` and `scales` are taken out."""
    scales, name = tree.pop("scales", None) or {}, tree.pop("scale", None)
    name = wanted[-1] if wanted else name
    if not isinstance(scales, dict) or not all(isinstance(values, dict) for values in scales.values()):
        raise InputError(f"{where}: scales must map each name to dotted keys and their values.")
    if name is None:
        return
    if not isinstance(name, str | int):
        raise InputError(f"{where}: scale must be the name of one of the file's scales.")
    if not scales:
        raise InputError(
            f"{where}: scale = {str(name)!r}: this file has no scales to choose from; leave it out."
        )
    if str(name) not in scales:
        raise InputError(f"{where}: {unknown_name('scale', str(name), scales)}")
    for key, value in scales[str(name)].items():
        _put(tree, key, copy.deepcopy(value), where=f"{where}: scales.{name}")


def spell_out(tree: dict[str, Any], *, where: str) -> None:
    """Replace every attack that is given by name by all of its settings, in place.

    An attack is `NAME`, or a mapping with `name: NAME` and the settings that differ from it, or one with a `kind`,
    which is `matching` where it is left out. Raises `InputError` for names that there are not; other mistakes
    are left to `build`.
    """
    attackers = tree.get("attackers")
    for i, attacker in enumerate(attackers if isinstance(attackers, list) else []):
        if isinstance(attacker, str):
            shape = "{name: NAME, attack: ATTACK}"
            shape = f"{{name: {attacker}, attack: {attacker}}}" if attacker in NAMED else shape
            raise InputError(f"{where}: attackers.{i} = {attacker!r}: must be a mapping, such as {shape}.")
        families = attacker.get("families") if isinstance(attacker, dict) else None
        owners = {f"attackers.{i}": attacker}
        for name, family in (families if isinstance(families, dict) else {}).items():
            owners[f"attackers.{i}.families.{name}"] = family
        for place, owner in owners.items():
            if isinstance(owner, dict) and "attack" in owner:
                owner["attack"] = _spelled(owner["attack"], where=f"{where}: {place}.attack")


def cell_settings(sweep: SweepConfig, cell: CellConfig) -> SweepConfig:
    """The sweep with this cell alone, and as it has it: its `differs` applied to the common settings."""
    alone = dataclasses.replace(sweep, cells=(cell,), thresholds=())
    if not cell.differs:
        return alone
    tree = to_plain(alone)
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
    at = natural(index)
    settings = settings_of(tree["defense"][at]) if at is not None and at < len(threshold.defense) else {}
    field = _plain_field(field, settings)
    if field not in settings:
        raise InputError(
            f"{where}.strength.path = {path!r}: must lead to a number of one of the {len(threshold.defense)} "
            "defenses, such as defense.0.sigma."
        )
    settings[field] = number
    settle_own(tree, where=where)
    return build(CellConfig, tree, where=where)


def threshold_value(threshold: ThresholdConfig, cell: CellConfig) -> float | None:
    """The strength of a cell of this threshold; None for any other cell."""
    first, _, rest = threshold.strength.path.partition(".")
    if not cell.name.startswith(f"{threshold.name}_"):
        return None
    if first == "defense":
        index, _, field = rest.partition(".")
        defenses = to_plain(cell)["defense"]
        settings = settings_of(defenses[int(index)]) if int(index) < len(defenses) else {}
        value = settings.get(_plain_field(field, settings))
    else:
        value = cell.differs.get(threshold.strength.path)
    number = float(value) if isinstance(value, int | float) else None
    return number if number is not None and threshold.cell_name(number) == cell.name else None


def threshold_cells(threshold: ThresholdConfig, values: Iterable[float]) -> list[CellConfig]:
    """The cells of several strengths, weakest first."""
    return [threshold_cell(threshold, value) for value in sorted(values, key=threshold.strength.position)]


def with_params(attack: AnyAttack, params: Params) -> AnyAttack:
    """The attack with these parameters put in at their dotted paths.

    What the class of an own attack says to them is known when it runs.
    """
    if not params:
        return attack
    tree = to_plain(attack)
    for path, value in params.items():
        put(tree, reach(tree, path), value, where="search")
    return build(type(attack), tree, where="search")


def suggested_attack(attacker: AttackerConfig, params: Params) -> AnyAttack:
    """The attack that one suggestion of the attacker's study stands for."""
    if not attacker.families:
        return with_params(attacker.attack, params)
    return with_params(attacker.families[str(params[FAMILY])].attack, of_family(params))


def _spelled(attack: object, *, where: str) -> object:
    if isinstance(attack, str):
        attack = {"kind" if ":" in attack else "name": attack}
    if not isinstance(attack, dict):
        return attack
    # A class of the user's own may have a setting that is called `name`.
    if "name" not in attack or ":" in str(attack.get("kind")):
        return {"kind": "matching"} | attack
    own = {key: value for key, value in attack.items() if key != "name"}
    name = str(attack["name"])
    if name not in NAMED:
        raise InputError(f"{where}: {unknown_name('attack', name, NAMED)}")
    if "kind" in own:
        raise InputError(f"{where}: must have a name or a kind, not both; {name!r} says the kind.")
    return _merged(to_plain(NAMED[name]), own)


def _plain_field(field: str, settings: Mapping[str, Any]) -> str:
    """The name of a defense's setting; `settings.` in front of an own one may be left out."""
    return field if field in settings else field.removeprefix("settings.")


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
                settle_own({"attack": to_plain(with_params(attack, base | {name: value}))}, where="search")
            except InputError as error:
                known = [path for path in _settings(shown(attack)) if path != "kind"]
                if isinstance(error, UnknownKey) and error.key not in known:
                    # Own settings are checked by themselves, and told by the end of their path.
                    key = name if name.endswith(f".{error.key}") else error.key
                    raise InputError(
                        f"{where}: unknown key {key!r}.{hint(key, known)} This attack has {listed(known)}."
                    ) from error
                raise InputError(f"{where}.{name} = {value!r} does not fit the attack: {error}") from error


def _settings(node: object, path: str = "") -> list[str]:
    """The dotted paths to every single value in plain data."""
    if not isinstance(node, dict | list):
        return [path]
    entries = node.items() if isinstance(node, dict) else enumerate(node)
    return [
        found for key, value in entries for found in _settings(value, f"{path}.{key}" if path else str(key))
    ]
