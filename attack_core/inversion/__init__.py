"""Feature inversion: images from layer inputs, by continuation with a preconditioner."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "continuation": ["Continuation"],
        "feature_fit": ["FeatureFit"],
        "features": ["FeatureInverter", "along_path", "drift_errors"],
        "gradient_fit": ["GradientFit", "is_smooth"],
        "joint": ["JointInputs"],
        "refinement": ["NextLayer", "equations_mismatch"],
    },
)
