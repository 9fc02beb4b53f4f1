"""What images look like: penalties and parametrisations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "colour_tv": ["colour_axes", "colour_variation"],
        "deep_prior": ["DeepPrior"],
        "patch_mixture": ["PatchMixture"],
        "priors": [
            "BatchNormStatistics",
            "GroupConsistency",
            "L2Norm",
            "OwnPrior",
            "Prior",
            "Scene",
            "TotalVariation",
            "Trained",
            "check_priors",
            "check_trained",
            "cosine_matrix",
            "total_variation",
        ],
        "training": ["PatchTraining", "train_patches"],
    },
)
