"""What images look like: penalties and parametrisations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "colour_tv": ["colour_axes", "colour_variation"],
        "deep_prior": ["DeepPrior"],
        "mixture_training": ["train_patches"],
        "patch_mixture": ["PatchMixture"],
        "penalties": ["cosine_matrix", "total_variation"],
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
        ],
        "training": ["PatchTraining"],
    },
)
