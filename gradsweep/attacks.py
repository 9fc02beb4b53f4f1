"""The attacks, what they are made of, and the published ones by name (`NAMED`)."""

from attack_core.attacks.analytic import Analytic as Analytic
from attack_core.attacks.auto import Auto as Auto
from attack_core.attacks.registry import NAMED as NAMED
from attack_core.base.types import Attack as Attack
from attack_core.base.types import Reconstruction as Reconstruction
from attack_core.gradients.objectives import L2 as L2
from attack_core.gradients.objectives import Both as Both
from attack_core.gradients.objectives import Cosine as Cosine
from attack_core.gradients.objectives import Signs as Signs
from attack_core.gradients.objectives import Similarity as Similarity
from attack_core.matching.matching import Matching as Matching
from attack_core.priors.priors import BatchNormStatistics as BatchNormStatistics
from attack_core.priors.priors import ColourVariation as ColourVariation
from attack_core.priors.priors import GroupConsistency as GroupConsistency
from attack_core.priors.priors import L2Norm as L2Norm
from attack_core.priors.priors import PatchSparsity as PatchSparsity
from attack_core.priors.priors import TotalVariation as TotalVariation
from attack_core.priors.priors import Wavelet as Wavelet
