"""YAML becomes plain data of its own, or one line that says where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl_core.base.errors import LONGEST, InputError
from orchestrator.config.parse import load_sweep
from orchestrator.config.plain_yaml import MOST_CHARACTERS, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-2", {"a": 0.01}),
        ("a: 2026-11-28", {"a": "2026-11-28"}),
        ("a: 2024-13-45", {"a": "2024-13-45"}),
        ("a: yes\nb: ~\nc: 0o17\nd: 1_000", {"a": "yes", "b": None, "c": 15, "d": 1000}),
        ("1: 2\ntrue: 3", {"1": 2, "true": 3}),
        ("a: &x {s: 1}\nb: {<<: *x, t: 2}\nc: {<<: [*x, {s: 5, z: 0}], s: 3}", None),
        ("", None),
        ("# nothing", None),
    ],
)
def test_text_becomes_what_json_can_hold(text: str, value: Any) -> None:
    found = read_yaml(text, where="here")
    if "<<" in text:
        value = {"a": {"s": 1}, "b": {"s": 1, "t": 2}, "c": {"s": 3, "z": 0}}
    assert found == value


def test_an_anchor_may_be_used_again(recwarn: pytest.WarningsRecorder) -> None:
    found = read_yaml("a: &x 1\nb: *x\nc: &x 2\nd: *x", where="here")
    assert found == {"a": 1, "b": 1, "c": 2, "d": 2}
    assert not recwarn.list


def test_aliases_and_merge_keys_are_copies() -> None:
    found = read_yaml("a: &x {list: [1], map: {k: 1}}\nb: *x\nc: {<<: *x}", where="here")
    found["a"]["list"][0] = found["a"]["map"]["k"] = 9
    assert found["b"] == found["c"] == {"list": [1], "map": {"k": 1}}


@pytest.mark.parametrize("strong", ["*d", "[{<<: *m}]"])
def test_what_is_set_for_one_cell_leaves_its_twin_alone(tmp_path: Path, strong: str) -> None:
    path = tmp_path / "twins.yaml"
    path.write_text(
        "name: twins\ncells:\n  - {name: weak, defense: &d [&m {kind: noise, sigma: 0.1}]}\n"
        f"  - {{name: strong, defense: {strong}}}\nscales: {{loud: {{cells.1.defense.0.sigma: 0.9}}}}\n"
    )
    for override in ("cells.1.defense.0.sigma=0.9", "scale=loud"):
        weak, loud = load_sweep(path, [override]).cells
        assert (weak.defense[0].sigma, loud.defense[0].sigma) == (0.1, 0.9)  # type: ignore[union-attr]


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "a0: &a0 {}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a:\n  b: " + "9" * 5000, ("line 2, column 6: a.b:", "too many digits")),
        ("a: 0x" + "f" * 5000, ("a: ", "too many digits")),
        ("a: 0x_", ("line 1, column 4: a: '0x_' is no int",)),
        ("a: !!bool maybe", ("a: 'maybe' is no bool",)),
        ("a: !!int abc", ("a: 'abc' is no int",)),
        ("a: !!float abc", ("a: 'abc' is no float",)),
        ("a: [1, !!set {x}]", ("a.1: the tag 'tag:yaml.org,2002:set' has no meaning here",)),
        ("a: !!binary x", ("a: the tag",)),
        ("a: !!python/object/apply:os.system [echo]", ("a: the tag",)),
        ('a: "\\UFFFFFFFF"', ("not valid YAML",)),
        ('a: "\\uD800"', ("a: ", "half of a character pair")),
        ("a: \x00", ("not valid YAML", "#x0000")),
        ("a: 1\na: 2", ("line 2, column 1: the key 'a' comes twice",)),
        ("? [a]\n: 3", ("a key must be a word",)),
        ("a: b: c", ("line 1, column 5: not valid YAML",)),
        ("a: *x", ("undefined alias 'x'",)),
        ("a: 1\n---\nb: 2", ("another document",)),
        ("<<: 3", ("must be a mapping, or a list of them",)),
        ("a: &a [*a]", ("nested deeper",)),
        ("a: &a {<<: *a}", ("nested deeper",)),
        ("[" * 200, ("nested deeper",)),
        (BOMB, ("more than 100,000 values",)),
        (MERGES, ("more than 100,000 values",)),
        ("a: " + "x" * MOST_CHARACTERS, ("500,003 characters",)),
    ],
)
def test_what_is_no_plain_data_is_one_line_with_its_place(text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        read_yaml(text, where="file.yaml")
    message = str(caught.value)
    assert message.startswith("file.yaml")
    assert len(message) <= LONGEST
    for part in parts:
        assert part in message
