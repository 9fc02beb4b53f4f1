"""The attacks, what they are made of, and the published ones by name (`NAMED`)."""

from attack_core.attacks.analytic import Analytic as Analytic
from attack_core.attacks.auto import Auto as Auto
from attack_core.attacks.convolution_inversion import ConvolutionInversion as ConvolutionInversion
from attack_core.attacks.registry import NAMED as NAMED
from attack_core.attacks.token_inversion import TokenInversion as TokenInversion
from attack_core.base.types import Attack as Attack
from attack_core.base.types import Reconstruction as Reconstruction
from attack_core.gradients.objectives import L2 as L2
from attack_core.gradients.objectives import Both as Both
from attack_core.gradients.objectives import Cosine as Cosine
from attack_core.gradients.objectives import Signs as Signs
from attack_core.gradients.objectives import Similarity as Similarity
from attack_core.inversion.continuation import Continuation as Continuation
from attack_core.local_sgd.simulation import Averaged as Averaged
from attack_core.local_sgd.simulation import Simulated as Simulated
from attack_core.local_sgd.simulation import Surrogate as Surrogate
from attack_core.matching.candidates import EarlyStop as EarlyStop
from attack_core.matching.candidates import RestartHalving as RestartHalving
from attack_core.matching.matching import Matching as Matching
from attack_core.priors.priors import BatchNormStatistics as BatchNormStatistics
from attack_core.priors.priors import ColourVariation as ColourVariation
from attack_core.priors.priors import GroupConsistency as GroupConsistency
from attack_core.priors.priors import L2Norm as L2Norm
from attack_core.priors.priors import PatchSparsity as PatchSparsity
from attack_core.priors.priors import TotalVariation as TotalVariation
from attack_core.priors.priors import Wavelet as Wavelet
