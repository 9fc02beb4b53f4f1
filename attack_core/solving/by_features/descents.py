"""The descents of the analytic attack: to images with given features, along local steps, and to earlier gradients."""

from __future__ import annotations

from torch import Tensor

from attack_core.base.evaluations import reporter
from attack_core.base.types import Reconstruction
from attack_core.evidence.cross_validation import Residuals
from attack_core.fc.inversion import input_estimate
from attack_core.fc.step_order import Order
from attack_core.inversion.descent.given import Mismatch
from attack_core.inversion.descent.limits import CONTINUATION_LIMITS, NOTHING_CARRIED
from attack_core.inversion.features import FeatureInverter, along_path
from attack_core.inversion.refinement import NextLayer, equations_mismatch
from attack_core.signal.signal_model import sent_numbers
from attack_core.solving.by_features.problem import Problem


def inverter_of(problem: Problem, evaluations: int) -> FeatureInverter:
    """The inversion of each image's features, at so many evaluations each."""
    manner, refined = problem.manner, problem.refined
    planned = evaluations * problem.count + (manner.refinement.evaluations if refined else 0)
    shares = problem.read.shares
    return FeatureInverter(
        model=problem.model,
        layer=problem.read.head.first,
        targets=shares.inputs,
        descent=manner.inversion,
        # Fewer equations than unknowns: the prior has to decide more.
        stiffness=max(1.0, problem.pixels / problem.read.known) ** 2,
        generator=problem.generator,
        report=reporter(problem.seen, planned, problem.progress),
        unknown=shares.unknown,
        ceiling=shares.ceiling,
        following=_following(problem),
        validation=_validation(problem),
        rounds=problem.rounds if len(problem.rounds) > 1 else None,
        limits=NOTHING_CARRIED if refined else CONTINUATION_LIMITS,
        prior=problem.penalty,
    )


def images_along(problem: Problem, order: Order) -> Reconstruction:
    """One client's images of several steps, with the weights that each was seen at."""
    manner, start = problem.manner, problem.start_of_one()
    note = f"one epoch of {len(order.batches)} steps, in an order that the errors tell"
    inverter = inverter_of(problem, manner.inversion.evaluations * manner.passes)
    labels = problem.read.shares.labels
    images, missed = along_path(inverter, problem.observation, order, labels, start, manner.passes)
    notes = [problem.read.note(), note]
    return problem.result("analytic: features along the steps", images, notes, missed)


def refine(problem: Problem, inverter: FeatureInverter, images: Tensor, notes: list[str]) -> Reconstruction:
    """Images that explain the earlier layers' gradients besides the features."""
    read, manner = problem.read, problem.manner
    if problem.scarce:
        few = f"{read.known} features for {problem.pixels} pixels"
        notes = [*notes, f"{few}: refined by the earlier layers' gradients"]
    mismatch: Mismatch = equations_mismatch(
        problem.model,
        problem.observation.state,
        read.head,
        read.gradients,
        inverter.known(read.shares.inputs),
        read.shares.errors,
    )
    planned = manner.inversion.evaluations * problem.count + manner.refinement.evaluations
    images = manner.refinement.minimise(
        mismatch,
        images,
        stiffness=inverter.stiffness,
        prior=problem.penalty,
        report=reporter(problem.seen, planned, problem.progress, each=len(images)),
        limits=inverter.limits,
    )
    return problem.result("analytic: features, refined", images, notes)


def _validation(problem: Problem) -> Residuals | None:
    """How a single noisy image is judged: by all numbers but those that its features were read from."""
    read = problem.read
    if not read.error or problem.count > 1:
        return None
    return problem.rounds.residuals(problem.model, read.own, read.shares.labels)


def _following(problem: Problem) -> NextLayer | None:
    """What the second layer's gradients say of the first one's outputs, where some of its inputs are unknown."""
    read = problem.read
    if read.shares.unknown is None or not read.head.rectified:
        return None
    first, second = read.head.layers[:2]
    weight, bias = (f"{second}.{kind}" for kind in ("weight", "bias"))
    if sent_numbers(problem.observation).keys() & {weight, bias} or not bool(read.gradients[bias].any()):
        return None
    parameters = problem.observation.state.parameters
    outputs = input_estimate(read.gradients[weight], read.gradients[bias], "weighted")
    return NextLayer(parameters[f"{first}.weight"], parameters[f"{first}.bias"], outputs)
