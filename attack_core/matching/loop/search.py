"""The search of the matching loop: restarts from their starting points to the answer, iteration by iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from attack_core.base.search import Search
from attack_core.base.types import Progress, Reconstruction
from attack_core.local_sgd.problems import merge_copies
from attack_core.matching.loop.evaluation import Recorder
from attack_core.matching.loop.optimizers import make_stepper
from attack_core.matching.loop.problem import Problem, problem_of
from attack_core.matching.loop.restarts import Candidates, Canvas, Pixels
from attack_core.matching.schedules import rate_factor
from attack_core.matching.settings import MatchingSettings
from attack_core.priors.deep_prior import DeepPrior
from attack_core.signal.inits import initial_images
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class LoopLimits:
    """How often the loop reads from the device; the figures do not depend on it."""

    look: int = 16
    """On a GPU: after so many iterations it is read which restarts have ended, and progress is told.

    A GPU stands still while a number is read from it. On the CPU that costs nothing, and every iteration looks.
    """


LOOP_LIMITS = LoopLimits()
"""The limits in force."""


def looks_every(device: torch.device) -> int:
    """After how many iterations the loop reads from `device` which restarts have ended."""
    return 1 if device.type == "cpu" else LOOP_LIMITS.look


def searched(
    attack: MatchingSettings,
    observation: Observation,
    model: nn.Module,
    generator: torch.Generator,
    *,
    progress: Progress | None = None,
) -> Search[Reconstruction]:
    """What `attack` finds on `observation`; see `attack_core.base.types.Attack.search`."""
    problem = problem_of(attack, observation, model, generator)
    candidates = start(attack, problem, observation, generator)
    stepper = make_stepper(attack.optimizer, candidates.parameters(), attack.each(attack.lr), attack.sign)
    history = torch.full((attack.iterations, attack.restarts), math.nan, device=candidates.device)
    look = looks_every(candidates.device)
    done, work, active = 0, 0, candidates.look()
    for iteration in range(attack.iterations):
        if not active:
            break
        seen = Recorder(problem, candidates, attack.prior_factor(iteration), attack.together)
        factor = rate_factor(attack.schedule, iteration, attack.iterations)
        yield from stepper.step(active, factor, seen)
        for scores in seen.first:
            moving = candidates.settle(scores, iteration, attack.early_stop)
            history[iteration, scores.which] = torch.where(moving, scores.match, math.nan)
        candidates.clamp(problem.clamp)
        done, work = iteration + 1, work + seen.images
        halved = attack.halving is not None and done == attack.halving.begins(attack.iterations)
        if attack.halving is not None and halved:
            candidates.keep_best(attack.halving.kept(attack.restarts))
        if halved or done % look == 0:
            active = candidates.look()
        if progress is not None and (done % look == 0 or done == attack.iterations or not active):
            progress(done, attack.iterations, candidates.least())
    last = Recorder(problem, candidates, attack.prior_factor(done), attack.together)
    if active := candidates.look():
        yield from last(active)
    for scores in last.first:
        candidates.settle(scores, done, None)
    found = replace(
        candidates.result(history[:done], done),
        work=float(work + last.images),
        rounds=len(observation.rounds),
    )
    return merge_copies(found, problem.local.copies)


def start(
    attack: MatchingSettings, problem: Problem, observation: Observation, generator: torch.Generator
) -> Candidates:
    """Random images and, where labels are optimised, random label logits, on the targets' device."""
    device = problem.matched.squares.device
    picture, count = observation.model.shape.size, problem.images
    canvases: list[Canvas]
    if attack.parametrisation == "deep_prior":
        canvases = [
            DeepPrior(count, observation.model.shape, generator, device) for _ in range(attack.restarts)
        ]
    else:
        shape = (attack.restarts, count, *picture)
        images = initial_images(
            attack.init, shape, std=attack.init_std, generator=generator, mean=observation.public_mean
        )
        canvases = [Pixels(image.to(device)) for image in images]
    extra = [problem.leaves(i) for i in range(attack.restarts)]
    if problem.labels is not None:
        return Candidates(canvases, problem.labels, keep_last=attack.annealed, extra=extra)
    logits = torch.randn((attack.restarts, count, observation.model.outputs), generator=generator)
    soft = [logit.to(device).requires_grad_(True) for logit in logits]
    return Candidates(canvases, soft, keep_last=attack.annealed, extra=extra)
