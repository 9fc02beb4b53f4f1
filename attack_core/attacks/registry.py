"""The attacks by kind, and the published ones by name."""

from __future__ import annotations

from dataclasses import replace

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.attacks.convolution_inversion import ConvolutionInversion
from attack_core.attacks.own import OwnAttack
from attack_core.attacks.token_inversion import TokenInversion
from attack_core.gradients.objectives import Cosine
from attack_core.matching.matching import Matching
from attack_core.matching.presets import inverting_gradients, soft_matching
from attack_core.priors.priors import BatchNormStatistics, GroupConsistency, L2Norm, TotalVariation

_DLG = Matching(
    iterations=300,
    optimizer="lbfgs",
    lr=1.0,
    tv_weight=0.0,
    clamp=None,
    init_std=0.3,
    labels="optimize",
)

AnyAttack = Matching | Analytic | TokenInversion | ConvolutionInversion | Auto | OwnAttack
"""Every attack that a sweep file can spell; the union is the registry."""


NAMED: dict[str, AnyAttack] = {
    # Whichever of the following suits the observation.
    "auto": Auto(),
    # The original project's: L2 on all layers, Adam, total variation.
    "matching": Matching(),
    # Zhu et al. 2019, arXiv:1906.08935: image and label together by L-BFGS, no prior; for smooth activations. The
    # start is nearer to grey than there: larger noise saturates the sigmoids.
    "dlg": _DLG,
    # Zhao et al. 2020, arXiv:2001.02610: the same with the label read off the last layer; one image.
    "idlg": replace(_DLG, labels="idlg"),
    # Geiping et al. 2020, arXiv:2003.14053.
    "inverting_gradients": inverting_gradients(),
    # The same idea with softer signs and one image's known features matched too (see `soft_matching`).
    "features": soft_matching(feature_weight=0.1),
    # Yin et al. 2021, arXiv:2104.07586: BatchNorm statistics, a group of restarts, L2 and total variation; labels
    # by counts and no registration here. 20,000 iterations there. Needs a model with BatchNorm.
    "gradinversion": Matching(
        restarts=4,
        schedule="cosine",
        tv_weight=0.0,
        priors=(
            TotalVariation(weight=1e-4),
            L2Norm(weight=1e-6),
            BatchNormStatistics(weight=1e-3),
            GroupConsistency(weight=1e-3),
        ),
        init_std=1.0,
    ),
    # Layer inputs by linear algebra, images from features; see `attack_core.attacks.analytic` for the papers.
    "analytic": Analytic(),
    # One image's patches by least squares, for transformers; see `attack_core.tokens.equations` for the paper.
    "tokens": TokenInversion(),
    # One image from the inputs of deep convolutions; see `attack_core.convolutions.patch_space` for the papers.
    "convolutions": ConvolutionInversion(),
    # Ulyanov et al. 2018, arXiv:1711.10925, as the image's parametrisation: the network is the prior.
    "deep_prior": Matching(
        objective=Cosine(), schedule="cosine", lr=0.01, tv_weight=0.0, parametrisation="deep_prior"
    ),
}
"""Attacks by the name that `--attack` takes; every one is a starting point whose fields can be overridden."""
