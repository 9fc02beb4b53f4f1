"""The variables of the original's scripts, as settings of a sweep."""

from __future__ import annotations

import pytest

from fl_core.base.errors import InputError
from orchestrator.config.parse import load_sweep
from orchestrator.config.sweep import SweepConfig
from orchestrator.suites.catalog import suite_of, sweep_file
from orchestrator.suites.variables import Variables


def settings(name: str, **given: int | str) -> SweepConfig:
    """A suite's first sweep with these variables."""
    suite = suite_of(name)
    return load_sweep(sweep_file(suite.parts[0]), Variables(**given).overrides(suite))  # type: ignore[arg-type]


def test_each_variable_sets_what_it_says() -> None:
    found = settings("benchmark", device="cpu", seed=7, data_subset=52, num_clients=4, capture_client=2)
    assert (found.execution.device, found.seed, found.federation.clients) == ("cpu", 7, 4)
    assert (found.data.train, found.data.valid) == (42, 10)
    assert found.capture.client == 2


def test_without_variables_nothing_changes() -> None:
    assert settings("benchmark") == load_sweep(sweep_file("original/benchmark"))


def test_target_client_is_another_name_of_capture_client() -> None:
    assert settings("showcase", target_client=3) == settings("showcase", capture_client=3)
    with pytest.raises(InputError, match="CAPTURE_CLIENT = 1 and TARGET_CLIENT = 2"):
        settings("showcase", capture_client=1, target_client=2)


@pytest.mark.parametrize(("name", "cells"), [("multi_client", "bmk_c"), ("ablation", "c")])
def test_suites_of_several_clients_attack_the_first_so_many(name: str, cells: str) -> None:
    found = settings(name, num_attack_clients=3)
    assert [cell.name for cell in found.cells] == [f"{cells}{client}" for client in range(3)]
    # The first is the common setting, and so marked as differing in nothing.
    assert [cell.differs.get("capture.client", found.capture.client) for cell in found.cells] == [0, 1, 2]


def test_variables_without_a_use_are_named() -> None:
    everything = Variables(num_attack_clients=3, capture_client=1, target_client=1)
    assert everything.unused(suite_of("multi_client")) == ["CAPTURE_CLIENT", "TARGET_CLIENT"]
    assert everything.unused(suite_of("showcase")) == ["NUM_ATTACK_CLIENTS"]
    assert Variables(seed=1).unused(suite_of("showcase")) == []


def test_too_few_images_or_clients_are_refused() -> None:
    with pytest.raises(InputError, match="DATA_SUBSET = 4: must be at least 5"):
        settings("showcase", data_subset=4)
    with pytest.raises(InputError, match="NUM_ATTACK_CLIENTS = 0: must be at least 1"):
        settings("multi_client", num_attack_clients=0)
