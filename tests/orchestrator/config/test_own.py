"""Classes of the user's own in a sweep file: how they are named, checked, addressed and shown."""

from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from attack_core.attacks.own import OwnAttack
from attack_core.matching.matching import Matching
from defenses.mechanism.own import OwnDefense
from fl_core.base.errors import InputError
from fl_core.base.types import Config
from orchestrator.config.own import reach, shown
from orchestrator.config.parse import load_sweep, suggested_attack
from orchestrator.config.plain import build, to_plain
from orchestrator.config.sweep import SweepConfig
from orchestrator.io.identity import content_hash
from tests.support.own import ATTACK, DEFENSE, PARTS, SWEEP, write_own

_BLUR = "code/my_defense.py:Blur"


def _load(folder: Path, *overrides: str) -> SweepConfig:
    return load_sweep(write_own(folder, Path("faces")), overrides)


def test_a_class_becomes_its_text_and_all_of_its_settings(tmp_path: Path) -> None:
    defense, prune = _load(tmp_path).cells[1].defense
    assert isinstance(defense, OwnDefense)
    assert (defense.label, defense.code.source) == ("my_defense.py:Blur", DEFENSE)
    assert defense.settings == {"sigma": 0.2, "offsets": [0.0]}, "those that were left out too"
    assert (defense.itself.sigma, defense.itself.offsets) == (0.2, (0.0,))
    assert (defense.stage, prune.stage) == ("noise", "compress")


def test_a_config_with_own_classes_goes_through_its_plain_form_and_to_workers(tmp_path: Path) -> None:
    sweep = _load(tmp_path)
    assert build(SweepConfig, to_plain(sweep), where="x") == sweep
    assert pickle.loads(pickle.dumps(sweep)) == sweep


def test_the_text_is_part_of_the_identity_and_the_folder_is_not(tmp_path: Path) -> None:
    here, there, edited = tmp_path / "here", tmp_path / "there", tmp_path / "edited"
    first = content_hash(_load(here).cells)
    assert content_hash(_load(there).cells) == first
    write_own(edited, Path("faces"))
    (edited / "code" / "my_defense.py").write_text(f"{DEFENSE}# changed\n")
    changed = load_sweep(edited / "sweep.yaml")
    assert content_hash(changed.cells) != first
    assert content_hash(changed.attackers) == content_hash(_load(here).attackers)


def test_a_whole_number_and_a_real_one_are_the_same_setting(tmp_path: Path) -> None:
    one, same = (_load(tmp_path, f"cells.1.defense.0.sigma={text}") for text in ("1", "1.0"))
    assert content_hash(one) == content_hash(same)


def test_overrides_reach_own_settings_and_name_files_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "other.py").write_text(ATTACK.replace("Mine", "Other"))
    monkeypatch.chdir(here)
    sweep = _load(tmp_path, "cells.1.defense.0.offsets=[1, 2]", "attackers.0.attack=other.py:Other")
    defense, attack = sweep.cells[1].defense[0], sweep.attackers[0].attack
    assert isinstance(defense, OwnDefense)
    assert isinstance(attack, OwnAttack)
    assert defense.settings["offsets"] == [1.0, 2.0]
    assert attack.code.place == "other.py:Other"


def test_a_scale_of_the_file_names_files_of_its_folder(tmp_path: Path) -> None:
    path = write_own(tmp_path, Path("faces"))
    with path.open("a") as file:
        file.write('scales: {other: {attackers.1.attack: {kind: "code/my_attack.py:Mine", steps: 4}}}\n')
    attack = load_sweep(path, ["scale=other", "attackers.1.search={}"]).attackers[1].attack
    assert isinstance(attack, OwnAttack)
    assert attack.settings["steps"] == 4


def test_installed_classes_have_no_text(tmp_path: Path) -> None:
    objective = '{kind: "attack_core.gradients.objectives:Both", l2_weight: 2}'
    attack = _load(tmp_path, f"attackers.1.attack.objective={objective}", "attackers.1.search={}").attackers[
        1
    ]
    assert isinstance(attack.attack, Matching)
    code = to_plain(attack.attack)["objective"]["code"]
    assert code == {"module": "attack_core.gradients.objectives", "name": "Both", "source": None}


@pytest.mark.parametrize(
    ("attack", "path"),
    [
        ("{name: auto, fallback: PARTS}", ("fallback",)),
        ("{name: auto, analytic: {fallback: PARTS}}", ("analytic", "fallback")),
        ("{name: analytic, fallback: PARTS}", ("fallback",)),
        ("{name: inverting_gradients, objective: {kind: 'code/my_parts.py:Huber', delta: 2}}", ()),
    ],
)
def test_objectives_and_priors_stand_wherever_matching_does(
    attack: str, path: tuple[str, ...], tmp_path: Path
) -> None:
    parts = (
        "{objective: {kind: 'code/my_parts.py:Huber', delta: 2}, priors: [{kind: 'code/my_parts.py:Smooth'}]}"
    )
    file = write_own(tmp_path, Path("faces"))
    text = file.read_text().replace('{kind: "code/my_attack.py:Mine"}', attack.replace("PARTS", parts))
    file.write_text(text.replace("search: {steps: {kind: int, low: 1, high: 5}}", "search: {}"))
    found: Any = load_sweep(file).attackers[0].attack
    for name in path:
        found = getattr(found, name)
    assert found.objective.itself.delta == 2.0


def test_an_own_attack_may_hold_matching_with_an_own_objective(tmp_path: Path) -> None:
    held = ATTACK.replace(
        "    steps: int = 2\n", "    steps: int = 2\n    fallback: Matching = Matching()\n"
    ).replace(
        "from fl_core.threat", "from attack_core.matching.matching import Matching\nfrom fl_core.threat", 1
    )
    path = write_own(tmp_path, Path("faces"))
    (tmp_path / "code" / "my_attack.py").write_text(held)
    text = path.read_text().replace(
        '"code/my_attack.py:Mine"',
        '"code/my_attack.py:Mine", fallback: {kind: matching, objective: {kind: "code/my_parts.py:Huber"}}',
    )
    path.write_text(text)
    attack = load_sweep(path).attackers[0].attack
    assert isinstance(attack, OwnAttack)
    fallback = attack.itself.fallback
    assert isinstance(fallback, Matching)
    assert fallback.objective.itself.delta == 0.1


def test_a_search_reaches_own_settings_by_both_spellings(tmp_path: Path) -> None:
    attacker = _load(tmp_path).attackers[0]
    for path in ("steps", "settings.steps"):
        found = suggested_attack(attacker, {path: 4})
        assert isinstance(found, OwnAttack)
        assert found.itself.steps == 4
    search = "{settings.steps: {kind: int, low: 1, high: 2}}"
    assert _load(tmp_path, f"attackers.0.search={search}").attackers[0].searches
    tree = to_plain(_load(tmp_path).attackers[1].attack)
    assert reach(tree, "objective.delta") == "objective.settings.delta"
    assert reach(tree, "priors.0.weight") == "priors.0.settings.weight"
    assert reach(tree, "lr") == "lr"


def test_a_person_reads_the_class_and_its_settings(tmp_path: Path) -> None:
    loop = shown(_load(tmp_path).attackers[1].attack)
    assert loop["objective"] == {"kind": "my_parts.py:Huber", "delta": 1.0}
    assert loop["priors"] == [{"kind": "my_parts.py:Smooth", "weight": 0.01}]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "cells.1.defense.0.sgima=1",
            r"defense\.0 \(my_defense\.py:Blur\): unknown key 'sgima'. Did you mean 'sigma'",
        ),
        ("cells.1.defense.0.sigma=high", 'sigma = "high": must be a number'),
        ("cells.1.defense.0.offsets=3", "offsets = 3: must be a list"),
        ("cells.1.defense.0.sigma=11", "Blur.sigma = 11.0: must be more than 0 and less than 10"),
        ("cells.1.defense.0.kind=math:nothing", "Unknown name in math 'nothing'"),
        ("attackers.0.attack.kind=no_such_module:Mine", "Module 'no_such_module' is not installed"),
    ],
)
def test_mistakes_are_one_sentence(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _load(tmp_path, override)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("my_defense.py:Blur", "my_defense.py:Blurr", "Did you mean 'Blur'? Known: Blur."),
        (
            '[{{kind: "code/my_defense.py:Blur", sigma: 0.2}}, {{kind: prune, ratio: 0.5}}]',
            '{{kind: "code/my_defense.py:Blur"}}',
            'cells.1.defense = {"kind": "my_defense.py:Blur", "sigma": 0.5, "offsets": [0.0]}: must be a list',
        ),
    ],
)
def test_messages_name_what_a_file_makes_and_show_no_text_of_it(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in SWEEP
    path = write_own(tmp_path, tmp_path, sweep=SWEEP.replace(old, new))
    with pytest.raises(InputError, match=re.escape(message)):
        load_sweep(path)


def _changed(folder: Path, file: str, text: str, old: str, new: str) -> Path:
    path = write_own(folder, Path("faces"))
    assert old in text
    (folder / "code" / file).write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@dataclass(frozen=True, kw_only=True)", "", "must be a frozen dataclass"),
        ("class Blur(Mechanism)", "class Blur", r"must derive from Mechanism \(defenses\.mechanism\.base\)"),
        (
            '    stage: ClassVar[Stage] = "noise"\n',
            "",
            "stage is missing: must be one of model, batch, gradient",
        ),
        ('Stage] = "noise"', 'Stage] = "nose"', "stage is 'nose': must be one of"),
        ('Stage] = "noise"', 'Stage] = "sum"', "stage is 'sum': must be one of model, .*compress"),
        ("def on_update(", "def on_updat(", "has on_updat, which is no hook. Did you mean 'on_update'"),
        (
            "update: ClientUpdate, random: Random, plan: FederationConfig",
            "update: ClientUpdate",
            r"on_update must take what it is given: on_update\(self, update, random, plan\)",
        ),
        ("def facts(", "def on_sum(", "how updates are added is not open to own code"),
        ("sigma: float = 0.5", "sigma: torch.Tensor = 0.5", "NameError: name 'torch' is not defined"),
        ("sigma: float = 0.5", "sigma: Random = 0.5", "a field is no setting: it must be numbers, texts"),
        ("require(0 <", "requir(0 <", r"with the settings .*NameError.*\(my_defense\.py, line \d+\)"),
        ("from defenses.mechanism.draws", "from nowhere", r"failed on import.*\(my_defense\.py, line 8\)"),
        ("class Blur", "class Blur:(", "not valid Python"),
    ],
)
def test_what_is_no_defense_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = _changed(tmp_path, "my_defense.py", DEFENSE, old, new)
    with pytest.raises(InputError, match=message):
        load_sweep(path)


@pytest.mark.parametrize(
    ("file", "text", "old", "new", "message"),
    [
        ("my_parts.py", PARTS, "@dataclass(frozen=True)", "@dataclass", "must be a frozen dataclass"),
        ("my_attack.py", ATTACK, "(Attack)", "", "must derive from Attack"),
        ("my_attack.py", ATTACK, "def cost", "def price", "must have cost, as every Attack has"),
        (
            "my_attack.py",
            ATTACK,
            "        *,\n        progress: Progress | None = None,\n",
            "",
            r"__call__ must take what it is given: __call__\(self, observation, model, generator, \*, progress\)",
        ),
        (
            "my_parts.py",
            PARTS,
            "loss(self, terms: Terms)",
            "loss(self)",
            r"loss must take what it is given: loss\(self, terms\)",
        ),
        ("my_parts.py", PARTS, "def loss", "def los", r"must have a method loss\(self, terms\)"),
        ("my_parts.py", PARTS, "def penalty", "def p", r"must have a method penalty\(self, images, scene\)"),
    ],
)
def test_what_lacks_a_method_is_refused(
    file: str, text: str, old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = _changed(tmp_path, file, text, old, new)
    with pytest.raises(InputError, match=message):
        load_sweep(path)


def test_own_defenses_keep_the_order_of_a_chain(tmp_path: Path) -> None:
    for override, message in (
        ("cells.1.defense.1={kind: clip}", "has my_defense.py:Blur before clip: clipping rescales"),
        ("cells.1.defense.1={kind: noise}", "one source of noise is allowed"),
    ):
        with pytest.raises(InputError, match=message):
            _load(tmp_path, override)


def test_a_class_may_name_our_types_where_nothing_is_set(tmp_path: Path) -> None:
    fields = """sigma: float = 0.5
    seen: ClassVar[Random | None] = None
    order: "typing.Literal['Random', 'Batch']" = "Random\""""
    path = _changed(tmp_path, "my_defense.py", DEFENSE, "sigma: float = 0.5", fields)
    (tmp_path / "code" / "my_defense.py").write_text(
        (tmp_path / "code" / "my_defense.py")
        .read_text()
        .replace("from typing", "import typing\nfrom typing", 1)
    )
    defense = load_sweep(path).cells[-1].defense[0]
    assert isinstance(defense, OwnDefense)
    assert to_plain(defense)["settings"]["order"] == "Random"


def test_fields_that_plain_data_cannot_say_are_refused(tmp_path: Path) -> None:
    path = _changed(
        tmp_path, "my_parts.py", PARTS, "delta: float = 0.1", "delta: float = 0.1\n    near: Path = Path('x')"
    )
    (tmp_path / "code" / "my_parts.py").write_text(
        (tmp_path / "code" / "my_parts.py")
        .read_text()
        .replace("from torch import", "from pathlib import Path\n\nfrom torch import", 1)
    )
    with pytest.raises(InputError, match="its fields must be numbers, texts, truth values"):
        load_sweep(path)


def test_thresholds_reach_own_settings_by_both_spellings(tmp_path: Path) -> None:
    for path in ("defense.0.sigma", "defense.0.settings.sigma"):
        strength = f"{{path: {path}, weak: 0.1, strong: 1.0, points: 2}}"
        defense = f"[{{kind: '{tmp_path}/{_BLUR}'}}]"
        threshold = f"[{{name: t, defense: {defense}, strength: {strength}}}]"
        sweep = _load(tmp_path, f"thresholds={threshold}")
        assert [cell.name for cell in sweep.cells[2:]] == ["t_0.1", "t_1"]
        weak = sweep.cells[2].defense[0]
        assert isinstance(weak, OwnDefense)
        assert weak.settings["sigma"] == 0.1
    too_strong = threshold.replace("strong: 1.0", "strong: 20.0")
    with pytest.raises(InputError, match="more than 0 and less than 10"):
        _load(tmp_path, f"thresholds={too_strong}")
    with pytest.raises(InputError, match=r"must lead to a number of one of the 1 defenses"):
        _load(tmp_path, f"thresholds={threshold.replace('settings.sigma', 'sgima')}")


def test_a_setting_that_the_class_refuses_later_is_the_trials_end(tmp_path: Path) -> None:
    attack = _load(tmp_path).attackers[0].attack
    assert isinstance(attack, OwnAttack)
    odd = dataclasses.replace(attack, settings={"steps": 2, "nothing": 1})
    assert (odd.restarts, odd.together) == (1, 1)
    with pytest.raises(InputError, match=r"my_attack\.py:Mine failed with the settings"):
        odd.cost(1)


def test_a_field_of_a_type_that_cannot_be_found_leaves_the_others_checked() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Odd(Config):
        near: Nowhere | None = None  # type: ignore[name-defined]  # noqa: F821
        sigma: float = 1.0

    with pytest.raises(InputError, match=r"Odd\.sigma = 'x': must be a number"):
        Odd(sigma="x")  # type: ignore[arg-type]
    assert Odd(near=3, sigma=2.0).near == 3
