"""Whether an answer is supported by the signal: likelihood ratios, cross-validation on other layers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cross_validation": ["Residuals", "chosen", "evidence", "residuals_elsewhere"],
        "likelihood_ratio": [
            "explains_more",
            "prior_answer",
            "prior_instead",
            "says_nothing",
            "supported_or_prior",
            "too_weak",
        ],
    },
)
