"""Many studies at once: the same suggestions and the same trials whoever finishes when, and busy workers."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

import pytest

from orchestrator.config.space import FloatRange, IntRange, Params, Space
from orchestrator.config.sweep import StudyConfig
from orchestrator.study.schedule import Schedule
from orchestrator.study.search import Study
from orchestrator.study.suggestion_run import Evaluation, Outcome

SPACE = Space(
    {
        "lr": FloatRange(kind="float", low=0.01, high=1.0, log=True),
        "restarts": IntRange(kind="int", low=1, high=4),
    }
)
VICTIMS, TESTS = 4, 6


def psnr(params: Params, victim: int, name: str) -> float | None:
    """A victim's own level, the parameters' merit, and a little of both together; some attacks fail."""
    lr, restarts = float(params["lr"] or 0), int(params["restarts"] or 0)
    if lr > 0.93:
        return None
    level = random.Random(f"{name}{victim}").uniform(8, 20)
    best = 0.3 + 0.25 * (int(re.sub(r"\D", "", name)) % 3)
    return level - 12 * abs(lr - best) + restarts + random.Random(f"{lr}{victim}").uniform(-1, 1)


@dataclass
class Played:
    """What a simulated run did: suggestions by study, trials, and how busy its workers were."""

    asked: dict[str, list[Params]] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    trials: set[tuple[str, int, int]] = field(default_factory=set)
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    tested_while_tuning: int = 0


def simulate(config: StudyConfig, *, studies: int, workers: int, seed: int) -> Played:
    """Run studies on so many workers whose trials take random times; `steps` has (busy, waiting, unfinished)."""
    clock, played = random.Random(seed), Played()
    open_studies = {
        f"cell{i}/generic": Study(f"cell{i}/generic", SPACE, config, seed=3) for i in range(studies)
    }
    evaluations: dict[tuple[str, int], Evaluation] = {}
    waiting: Schedule[tuple[str, int, int]] = Schedule()
    running: list[tuple[float, tuple[str, int, int]]] = []
    tested: set[str] = set()
    now = 0.0
    while True:
        for name, study in open_studies.items():
            while (asked := study.next()) is not None:
                played.asked.setdefault(name, []).append(asked.params)
                evaluations[name, asked.number] = Evaluation(
                    VICTIMS, prune=config.prune, reference=asked.reference
                )
            for (owner, number), evaluation in evaluations.items():
                for victim in evaluation.ready() if owner == name else ():
                    waiting.add(name, (name, number, victim), urgent=True)
            if study.done and name not in tested:
                tested.add(name)
                for victim in range(TESTS):
                    waiting.add(name, (name, -1, victim), urgent=False)
        while len(running) < workers and (trial := waiting.take()) is not None:
            assert trial not in played.trials, "a trial is handed out once"
            played.trials.add(trial)
            played.tested_while_tuning += trial[1] < 0 and len(tested) < studies
            running.append((now + clock.expovariate(1.0) + 0.1, trial))
        if not running:
            break
        played.steps.append((len(running), len(waiting), studies - len(tested)))
        running.sort()
        now, (name, number, victim) = running.pop(0)
        if number < 0:
            continue
        evaluation = evaluations[name, number]
        evaluation.take(victim, psnr(open_studies[name].params(number), victim, name))
        outcome = evaluation.outcome()
        if outcome is not None:
            del evaluations[name, number]
            open_studies[name].record(number, outcome)
    assert not len(waiting)
    for name, study in open_studies.items():
        played.outcomes[name] = [study.outcome(number) for number in range(study.told)]
    return played


@pytest.mark.parametrize("prune", [None, 1.5])
def test_one_two_and_eight_workers_make_the_same_suggestions_and_the_same_trials(prune: float | None) -> None:
    config = StudyConfig(suggestions=16, lag=4, startup=5, prune=prune)
    serial = simulate(config, studies=3, workers=1, seed=0)
    assert all(len(params) == 16 for params in serial.asked.values())
    assert len({repr(params) for params in serial.asked.values()}) == 3, "every study learns from its own"
    assert len({repr(params[:4]) for params in serial.asked.values()}) == 1, "and begins as all others do"
    for workers, seed in ((2, 1), (8, 2), (8, 3), (50, 4)):
        other = simulate(config, studies=3, workers=workers, seed=seed)
        assert (other.asked, other.outcomes, other.trials) == (serial.asked, serial.outcomes, serial.trials)
    pruned = sum(outcome.state == "pruned" for found in serial.outcomes.values() for outcome in found)
    assert (pruned > 5) if prune else (pruned == 0)


@pytest.mark.parametrize("prune", [None, 1.5])
@pytest.mark.parametrize(("studies", "workers"), [(6, 2), (6, 6), (3, 8), (1, 8)])
def test_idle_workers_are_bounded_by_the_studies_that_are_left(
    studies: int, workers: int, prune: float | None
) -> None:
    """A worker idles only where nothing waits, and every unfinished study keeps at least one worker busy."""
    config = StudyConfig(suggestions=10, lag=3, startup=4, prune=prune)
    played = simulate(config, studies=studies, workers=workers, seed=7)
    for busy, waiting, unfinished in played.steps:
        if busy < workers:
            assert waiting == 0
            assert busy >= unfinished
    if workers <= studies:
        idle = [workers - busy for busy, _, unfinished in played.steps if unfinished >= workers]
        assert sum(idle) == 0


def test_test_trials_of_finished_studies_fill_the_gaps_of_others() -> None:
    played = simulate(StudyConfig(suggestions=8, lag=2, startup=4), studies=4, workers=20, seed=1)
    assert played.tested_while_tuning > 0


def test_owners_take_turns_and_keep_their_order() -> None:
    schedule: Schedule[str] = Schedule()
    for owner, count in (("a", 3), ("b", 1), ("c", 2)):
        for i in range(count):
            schedule.add(owner, f"{owner}{i}", urgent=True)
    schedule.add("b", "test", urgent=False)
    assert len(schedule) == 7
    assert schedule.take(lambda trial: trial != "a0") == "b0", "who may not start is passed over"
    assert [schedule.take() for _ in range(6)] == ["a0", "c0", "a1", "c1", "a2", "test"]
    assert schedule.take() is None


def test_without_a_reference_all_victims_start_at_once() -> None:
    for evaluation in (Evaluation(4), Evaluation(4, prune=1.0), Evaluation(4, reference=[1.0] * 4)):
        assert list(evaluation.ready()) == [0, 1, 2, 3]
        assert list(evaluation.ready()) == []
        for victim in (2, 0, 3):
            evaluation.take(victim, -50.0)
        assert evaluation.outcome() is None
        evaluation.take(1, -50.0)
        assert evaluation.outcome() == Outcome("ok", (-50.0,) * 4)


def test_pruning_compares_victim_by_victim_and_leaves_out_the_rest() -> None:
    reference = [20.0, 8.0, 15.0, 11.0]
    evaluation = Evaluation(4, prune=2.0, reference=reference)
    assert list(evaluation.ready()) == [0]
    assert list(evaluation.ready()) == [], "the next victim waits for this one"
    evaluation.take(0, 18.5, cost=2.0)
    assert evaluation.outcome() is None, "1.5 dB behind is not enough"
    assert list(evaluation.ready()) == [1]
    evaluation.take(1, 5.0, cost=1.0)
    assert list(evaluation.ready()) == [], "(1.5 + 3) / 2 = 2.25 dB behind"
    assert evaluation.outcome() == Outcome("pruned", (18.5, 5.0), 3.0)
    easy = Evaluation(4, prune=2.0, reference=reference)
    for victim, value in enumerate((19.0, 7.0, 14.0, 1.0)):
        assert list(easy.ready()) == [victim]
        easy.take(victim, value)
    assert easy.outcome() == Outcome("ok", (19.0, 7.0, 14.0, 1.0)), (
        "after the last victim nothing is left to prune"
    )
    assert easy.outcome().value == 41 / 4  # type: ignore[union-attr]


def test_a_failure_ends_a_suggestion_that_is_taken_victim_by_victim() -> None:
    evaluation = Evaluation(3, prune=5.0, reference=[10.0, 10.0, 10.0])
    evaluation.take(*evaluation.ready(), None, 0.5)
    assert list(evaluation.ready()) == []
    assert evaluation.outcome() == Outcome("failed", (None,), 0.5)


def test_pruning_saves_trials_and_keeps_the_winner_when_it_is_far_enough() -> None:
    config = StudyConfig(suggestions=24, lag=2, startup=6)
    for seed in range(3):
        plain = simulate(config, studies=2, workers=2, seed=seed)
        pruned = simulate(
            StudyConfig(suggestions=24, lag=2, startup=6, prune=3.0), studies=2, workers=2, seed=seed
        )
        assert len(pruned.trials) < 0.8 * len(plain.trials)
        for name, outcomes in pruned.outcomes.items():
            best = max(outcome.value for outcome in outcomes if outcome.value is not None)
            others = max(outcome.value for outcome in plain.outcomes[name] if outcome.value is not None)
            assert best > others - 1.5


def play_with_costs(config: StudyConfig, cost: float, recorded: dict[int, Params] | None = None) -> Study:
    study = Study("cell/generic", SPACE, config, seed=1, recorded=recorded)
    while not study.done:
        asked = [study.next() for _ in range(config.lag)]
        for suggestion in asked:
            if suggestion is not None:
                study.record(suggestion.number, Outcome("ok", (float(suggestion.number % 7),), cost))
    return study


@pytest.mark.parametrize("kind", ["seconds", "gpu_seconds"])
def test_a_budget_of_time_ends_a_study_and_a_larger_one_goes_on(kind: str) -> None:
    def config(budget: float) -> StudyConfig:
        return StudyConfig(lag=2, startup=3, **{kind: budget})  # type: ignore[arg-type]

    study = play_with_costs(config(10.0), cost=2.0)
    # Suggestion n is asked while the results up to n - 2 took less than 10 s: those from 0 to 5 are.
    assert study.told == study.expected == 6
    larger = play_with_costs(config(20.0), cost=2.0)
    assert larger.told == 11
    recorded = {number: study.params(number) for number in range(6)}
    resumed = play_with_costs(config(20.0), cost=2.0, recorded=recorded)
    assert [resumed.params(n) for n in range(11)] == [larger.params(n) for n in range(11)]


def test_under_a_budget_of_time_the_expected_number_is_estimated() -> None:
    study = Study("s", SPACE, StudyConfig(lag=1, seconds=30.0), seed=0)
    assert study.expected == 0
    for number in range(5):
        assert study.next() is not None
        study.record(number, Outcome("ok", (1.0,), 3.0))
    assert study.expected == 10


def test_a_study_in_which_everything_fails_at_once_ends_too() -> None:
    study = Study("s", SPACE, StudyConfig(lag=3, seconds=1e6, sampler="random"), seed=0)
    while not study.done:
        asked = study.next()
        assert asked is not None
        study.record(asked.number, Outcome("failed", (None,), 0.0))
    assert 100 <= study.told <= 103
    assert study.best() is None
