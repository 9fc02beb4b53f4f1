"""The page of keys: current, and with every key."""

from __future__ import annotations

from orchestrator.config.explain import setting_paths
from orchestrator.config.sweep import StudyConfig, SweepConfig
from orchestrator.reference.keys import keys_of, kinds_of, meanings, units_of
from orchestrator.reference.page import page
from tests.support.paths import ROOT


def test_the_page_is_current() -> None:
    stale = "run python scripts/sweep_reference.py"
    assert (ROOT / "docs" / "sweep-file.md").read_text(encoding="utf-8") == page(), stale


def test_every_key_is_on_the_page() -> None:
    text = page()
    assert "dirichlet" in text
    for kind in kinds_of(SweepConfig):
        if kind.__name__.startswith("Own") or kind.__name__ == "WeightsFile":
            continue
        for key in keys_of(kind):
            assert f"`{key.name}`" in text or f".{key.name}`" in text, f"{kind.__name__}.{key.name}"


def test_sweep_settings_say_what_they_mean() -> None:
    for kind in kinds_of(SweepConfig):
        if kind.__module__.startswith("orchestrator.config"):
            assert [key.name for key in keys_of(kind) if not key.meaning] == [], kind.__name__
            assert meanings(kind).keys() >= {key.name for key in keys_of(kind)}


def test_types_and_defaults_are_those_of_the_class() -> None:
    found = {key.name: (key.type, key.default) for key in keys_of(SweepConfig)}
    assert found["seed"] == ("whole number", "`42`")
    assert found["utility"] == ("settings or null", "`null`")
    assert found["name"] == ("text", "required")
    assert "federation.partition.alpha" in setting_paths(SweepConfig)


def test_units_are_those_of_the_class() -> None:
    assert units_of(StudyConfig)["seconds"] == "s"
    assert units_of(StudyConfig)["prune"] == "dB"
    assert "sampler" not in units_of(StudyConfig)
    assert {key.name: key.unit for key in keys_of(StudyConfig)}["sampler"] == ""
    assert "| `seconds` | number or null | s | `null` |" in page()


def test_a_unit_changes_no_type() -> None:
    assert {key.name: key.type for key in keys_of(StudyConfig)}["seconds"] == "number or null"
