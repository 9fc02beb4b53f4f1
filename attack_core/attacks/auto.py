"""The attack that chooses by the observation: linear equations where those apply, matching elsewhere.

What decides: the network's patch embedding and fully connected end, the number of images, the signal and its steps,
and the noise that the threat model lets the attacker know of. The reason is a note of the answer. Where the known
error of the signal drowns what the images could say, the answer is the mean public image (`attack_core.evidence`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import nn

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.batch_inputs import BatchInputs, batch_inputs
from attack_core.attacks.convolution_inversion import (
    DEEP_LIMITS,
    ConvolutionInversion,
    DeepInputs,
    deep_inputs,
)
from attack_core.attacks.falls_back import FallsBack, with_cost_of
from attack_core.attacks.token_inversion import (
    TokenInversion,
    batch_tokens,
    sends_nothing_down,
    solvable_tokens,
    solve_tokens,
)
from attack_core.base.search import Search, alone
from attack_core.base.types import PriorUse, Progress, Reconstruction
from attack_core.convolutions.calls import convolution_calls
from attack_core.evidence.likelihood_ratio import (
    EVIDENCE_LIMITS,
    EvidenceLimits,
    explains_more,
    prior_answer,
    prior_instead,
    says_nothing,
    supported_or_prior,
    too_weak,
)
from attack_core.fc.cone import rectified_inputs
from attack_core.fc.head import solvable_head
from attack_core.fc.layer_inputs import magnitude
from attack_core.fc.peeling import PEELING_LIMITS, can_peel
from attack_core.gradients.batchnorm import SeenStatistics
from attack_core.gradients.objectives import Signs
from attack_core.gradients.targets import check_observation, gradient_estimate, sees_images_again
from attack_core.input_inversion.inversion import invert_inputs
from attack_core.local_sgd.simulation import Averaged, Simulated
from attack_core.matching.loop.features import FeatureTarget
from attack_core.matching.matching import Matching, at_the_mean
from attack_core.matching.presets import soft_matching
from attack_core.separation.inputs import follows_from_damaged
from attack_core.signal.choices import Init
from attack_core.signal.labels import resolve_labels
from attack_core.signal.signal_model import (
    cut_columns,
    knows_errors,
    mixes_labels,
    rounds_fairly,
    sends_signs,
    vib_of_images,
    withholds,
)
from attack_core.tokens.batches import BatchTokens
from fl_core.base.errors import InputError
from fl_core.base.types import LATER, require
from fl_core.models.finetuning.trainable import frozen_parameters
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class AutoLimits:
    """Where the analytic attack is not tried."""

    most_images: int = 16
    """Larger batches behind one hidden layer go to matching: separating them takes minutes and mostly fails.

    Chosen on faces, cnn64. With two hidden layers `attack_core.fc.peeling` takes any number for which there are units.
    """
    least_features: float = 1 / 5
    """Networks with fewer features than this share of the pixels go to matching.

    Between resnet18 at 32 pixels (512 features, a sixth: 11.9 dB from features alone, 17 to 19 by matching,
    docs/attacks.md) and lenet at 32 pixels (768, a quarter: 35.2 dB). Not measured in between.
    """
    least_uncut: float = 1 / 2
    """The same where features were cut and the gradients of the layers in front, which matching uses, were not.

    Not measured against other values.
    """
    most_features: float = 1.5
    """Networks with fewer features than so many for each number of the picture are tried by `convolutions` first.

    cnn64 at 32 pixels has 1.33: 60.7 dB and 2.5 CPU-seconds, where `analytic` has 50.5 and 3.6 from its features (eight
    faces of CelebA's training split). Not measured above.
    """
    unexplained: float = 0.03
    """The relative squared distance from the gradient above which `convolutions` has failed, and `analytic` runs too.

    Behind two smooth convolutions answers that had failed, at 10 to 13 dB, leave 0.2 to 0.4, and those at 50 dB and
    more 3e-6 at most. Behind convnet local minima at 24 and 13 dB leave 1e-3 and 3e-3; there `analytic` gained
    nothing in more than 100 CPU-seconds (docs/decisions, 0093).
    """


AUTO_LIMITS = AutoLimits()
"""The limits in force."""

_NO_BETTER = "auto: what matching found explains the signal no better than a fit to the known error would"
"""Why an answer is the prior after all."""


@dataclass(frozen=True, kw_only=True)
class Auto(FallsBack):
    """A transformer's equations or `tokens`, `convolutions`, or `analytic` where that is possible, else `fallback`.

    `convolutions` runs for one image with few features for its pixels, or behind a bottleneck, unless it reads the last
    one's input alone and `analytic` decodes that; and for a batch whose BatchNorm statistics are seen. `tokens` runs
    for a transformer's batch. `fallback` takes the place of theirs and of `analytic.fallback`. For one image it also
    matches the known features, with `feature_weight`, and where statistics are seen those too, with
    `statistics_weight`; it simulates the local steps where the signal has several of one client and its own `local` is
    the plain one.
    """

    kind: Literal["auto"] = "auto"
    analytic: Analytic = field(default_factory=Analytic)
    convolutions: ConvolutionInversion = field(default_factory=ConvolutionInversion, metadata=LATER)
    fallback: Matching = field(default_factory=soft_matching)
    feature_weight: float = 0.1
    statistics_weight: float = field(default=0.1, metadata=LATER)
    tokens: TokenInversion = field(default_factory=TokenInversion, metadata=LATER)

    def __post_init__(self) -> None:
        require(self.feature_weight >= 0, self, "feature_weight", "at least 0")
        require(self.statistics_weight >= 0, self, "statistics_weight", "at least 0")

    def cost(self, images: int) -> float:
        """See `Attack.cost`; that `analytic` runs is assumed."""
        return self.analytic.cost(images)

    @property
    def prior_use(self) -> PriorUse:
        """See `Attack.prior_use`; it takes the place of smoothness in the inversion of features."""
        return "needed" if super().prior_use == "needed" else "optional"

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`."""
        return replace(
            super().shortened(share),
            analytic=self.analytic.shortened(share),
            convolutions=self.convolutions.shortened(share),
            tokens=self.tokens.shortened(share),
        )

    def uncertified(self) -> Self:
        """See `Attack.uncertified`."""
        return replace(
            self, analytic=self.analytic.uncertified(), convolutions=self.convolutions.uncertified()
        )

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.base.types.Attack`. Raises what the chosen attack raises."""
        return alone(self.search(observation, model, generator, progress=progress))

    def search(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Search[Reconstruction]:
        """See `Attack.search`: matching that `auto` chooses itself goes together with others'."""
        found = yield from self._trained_on(observation, model, generator, progress)
        return found if found.outcome == "prior" else invert_inputs(found, observation)

    def _trained_on(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> Search[Reconstruction]:
        """The images that the client trained on, whatever a defense had made of those that it holds."""
        check_observation(observation)
        nothing = (
            says_nothing(observation)
            or sends_nothing_down(observation, model)
            or says_few_features(observation, model)
        )
        solved = by_tokens(observation, model) if nothing is None else None
        if solved is not None:
            return solved
        several = tokens_of_batch(observation, model) if nothing is None else None
        if several is not None:
            return self.tokens.invert_batch(*several, observation, model, generator, progress)
        batch = batch_by_statistics(observation, model) if nothing is None else None
        if batch is not None:
            return self.convolutions.invert_batch(batch, observation, model, generator, progress)
        obstacle = obstacle_to_analytic(observation, model) if nothing is None else None
        deep = deeper_than_features(observation, model) if nothing is None else None
        if deep is not None:
            last = convolution_calls(model, observation.state, observation.model.shape)[-1].name
            # Where that is the last one alone, decoding tells the same, and images are searched under a weaker prior.
            if obstacle is None and deep.layers == (last,):
                decoded = self.analytic.by_decoding(observation, model, generator, progress=progress)
                if decoded is not None:
                    return decoded
            found = self.convolutions.invert(deep, observation, model, generator, progress)
            return self._or_features(found, observation, model, generator, progress)
        if nothing is None and obstacle is not None and observation.examples == 1:
            # Features that are few, or that a defense cut, are no hindrance to what lies in front of them.
            decoded = self.analytic.by_decoding(observation, model, generator, progress=progress)
            if decoded is not None:
                return decoded
        if (obstacle is not None or observation.examples > 1) and too_weak(observation):
            nothing = "the known error drowns what the images could say"
        if nothing is not None:
            labels = resolve_labels("auto", observation, model, observation.examples, generator)
            return prior_answer(observation, labels, f"auto: {nothing}")
        fallback = self._fallback(observation, model)
        if obstacle is None:
            attack = replace(self.analytic, fallback=fallback)
            found = attack(observation, model, generator, progress=progress)
            return self._weighed(found, fallback, observation, model, generator)
        found = yield from fallback.search(observation, model, generator, progress=progress)
        found = replace(found, notes=(f"auto: matching, because {obstacle}", *found.notes))
        if len(found.images) != observation.examples:
            return found
        if not knows_errors(observation):
            return self._weighed(found, fallback, observation, model, generator)
        return supported_or_prior(found, observation, model, _NO_BETTER)

    def _or_features(
        self,
        found: Reconstruction,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
        limits: AutoLimits = AUTO_LIMITS,
    ) -> Reconstruction:
        """What `convolutions` found, or the answer from the features where it explains the gradient better."""
        drawn = vib_of_images(observation) is not None
        if drawn or found.loss <= limits.unexplained or obstacle_to_analytic(observation, model) is not None:
            return found
        attack = replace(self.analytic, fallback=self._fallback(observation, model))
        other = attack(observation, model, generator, progress=progress)
        if other.outcome != "analytic" or not other.loss < found.loss:
            return with_cost_of(found, other)
        note = (
            "auto: features, which explain the gradient better than the inputs of convolutions do: relative squared "
            f"distance {magnitude(other.loss)}, not {magnitude(found.loss)}"
        )
        return replace(with_cost_of(other, found), notes=(note, *other.notes))

    def _weighed(
        self,
        found: Reconstruction,
        fallback: Matching,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
    ) -> Reconstruction:
        """What matching found where it explains a defended signal more than a fit to nothing would, else the prior.

        Who knows of no defense takes the signal as it is.
        """
        if found.outcome != "matching" or not observation.facts or observation.public_mean is None:
            return found
        if observation.examples > 1 and knows_errors(observation):
            return supported_or_prior(found, observation, model, _NO_BETTER)
        of_mean = float(at_the_mean(fallback)(observation, model, generator).history[0, 0])
        if explains_more(found.loss, of_mean, observation):
            return found
        reason = "auto: what matching found explains the signal hardly better than the mean public image does"
        return prior_instead(found, observation, reason)

    def _fallback(self, observation: Observation, model: nn.Module) -> Matching:
        several = observation.steps > 1 and observation.clients == 1
        plain = self.fallback.local == Averaged() and self.fallback.images in (None, observation.examples)
        # A simulation knows nothing of draws; the mean gradient is taken at draws that are optimised.
        drawn = vib_of_images(observation) is not None
        local = Simulated() if several and plain and not drawn else self.fallback.local
        known = observation.examples == 1 and knows_features(observation, model)
        weight = self.feature_weight if known else self.fallback.feature_weight
        seen = SeenStatistics.of(observation, model) is not None
        statistics = self.statistics_weight if seen else self.fallback.statistics_weight
        fallback = replace(self.fallback, statistics_weight=statistics)
        # What a known error, a draw, a mixture, withheld numbers or frozen parameters leave open, the prior decides:
        # the search starts from it.
        open_ends = knows_errors(observation) or drawn or mixes_labels(observation)
        withheld = any(withholds(observation, name) for name in observation.state.parameters)
        lossy = open_ends or withheld or bool(frozen_parameters(model))
        pixels = self.fallback.parametrisation == "pixels"
        prior = lossy and observation.public_mean is not None and pixels
        init: Init = "mean" if prior else self.fallback.init
        if sends_signs(observation):
            # Features are read off sizes, which signs have none of.
            return replace(fallback, local=local, objective=Signs(), init=init, feature_weight=0.0)
        return replace(fallback, local=local, feature_weight=weight, init=init)


def says_few_features(
    observation: Observation, model: nn.Module, limits: EvidenceLimits = EVIDENCE_LIMITS
) -> str | None:
    """Why the answer is the prior where clients train a fully connected end alone; None where it sees enough."""
    if not frozen_parameters(model):
        return None
    try:
        head = solvable_head(model, observation)
    except InputError:
        return None
    features = observation.state.parameters[f"{head.first}.weight"].shape[1]
    pixels = observation.model.shape.numbers
    if head.in_front(observation.state.parameters) or features >= limits.least_numbers * pixels:
        return None
    alone = f"clients train nothing in front of layer {head.first}"
    return f"{alone}, whose {features} features hardly limit {pixels} pixels"


def by_tokens(observation: Observation, model: nn.Module) -> Reconstruction | None:
    """One image by a transformer's linear equations; None where they do not determine it (`solvable_tokens`)."""
    try:
        return solve_tokens(solvable_tokens(observation, model), observation, model)
    except InputError:
        return None


def tokens_of_batch(observation: Observation, model: nn.Module) -> tuple[BatchTokens, str] | None:
    """What a transformer's tokens tell of the images of a batch (`batch_tokens`); None where it is not enough."""
    if observation.examples == 1:
        return None
    try:
        return batch_tokens(observation, model)
    except InputError:
        return None


def batch_by_statistics(observation: Observation, model: nn.Module) -> BatchInputs | None:
    """What convolutions saw of each image of a batch whose statistics are seen; None where that does not follow."""
    if observation.examples == 1 or not observation.statistics:
        return None
    try:
        return batch_inputs(observation, model, enough=DEEP_LIMITS.of_batch)
    except InputError:
        return None


def deeper_than_features(
    observation: Observation, model: nn.Module, limits: AutoLimits = AUTO_LIMITS
) -> DeepInputs | None:
    """What convolutions see of the image, where the features are few for its pixels; None elsewhere."""
    if observation.examples > 1:
        return None
    try:
        first = solvable_head(model, observation).first
    except InputError:
        first = None
    if first is not None:
        features = observation.state.parameters[f"{first}.weight"].shape[1]
        enough = features >= limits.most_features * observation.model.shape.numbers
        if enough and vib_of_images(observation) is None:
            return None  # Whoever knows of a bottleneck sees no less than who does not, whose features are its code.
    try:
        return deep_inputs(observation, model)
    except InputError:
        return None


def knows_features(observation: Observation, model: nn.Module) -> bool:
    """Whether the network has a fully connected end whose gradients determine one image's features."""
    try:
        solvable_head(model, observation)
        FeatureTarget.of(1.0, observation, model, gradient_estimate(observation))
    except InputError:
        return False
    return True


def obstacle_to_analytic(
    observation: Observation, model: nn.Module, limits: AutoLimits = AUTO_LIMITS
) -> str | None:
    """Why the analytic attack would not do well on this observation; None where it should."""
    pixels, images = observation.model.shape.numbers, observation.examples
    try:
        head = solvable_head(model, observation)
    except InputError as reason:
        return str(reason).removesuffix(".")
    if sends_signs(observation) and not rounds_fairly(observation):
        return "signs of numbers tell nothing of their sizes"
    features = observation.state.parameters[f"{head.first}.weight"].shape[1]
    if features < limits.least_features * pixels:
        return f"layer {head.first} has {features} features for {pixels} pixels"
    cut = cut_columns(observation, f"{head.first}.weight")
    if cut and features - cut < limits.least_uncut * pixels:
        return f"{features - cut} features of layer {head.first} are left for {pixels} pixels"
    if images == 1:
        return None
    if mixes_labels(observation) and observation.steps > 1:
        return f"labels were mixed, which hides how the weights moved between {images} images"
    if head.random and observation.steps > 1:
        return f"the bottleneck's noise hides how the weights moved between {images} images"
    if follows_from_damaged(observation, head):
        return None  # Noise, numbers withheld and steps are no obstacle there.
    unmixed = rectified_inputs(model, observation.state, head, observation.model.shape)
    alone = unmixed and images < observation.model.outputs and features >= limits.most_features * pixels
    if not (head.rectified or alone):
        return f"no ReLU between fully connected layers tells {images} images apart"
    single = observation.steps == 1 and can_peel(head)
    units = len(observation.state.parameters[f"{head.first}.bias"])
    if (
        images > limits.most_images
        and not unmixed
        and not (single and units >= PEELING_LIMITS.least_units * images)
    ):
        narrow = f" by {units} units of layer {head.first}" if single else ""
        return f"{images} images are too many to tell apart{narrow}"
    if withholds(observation, f"{head.first}.weight"):
        return f"numbers were withheld, so {images} images do not come apart"
    if knows_errors(observation):
        return f"the known noise hides which units {images} images leave off"
    if sees_images_again(observation) and not unmixed:
        return f"{observation.steps} local steps see each of {images} images more than once"
    return None
