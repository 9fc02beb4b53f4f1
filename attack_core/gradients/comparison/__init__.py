"""What is compared: parameters and their weights, targets, and candidates' inner products with them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "layers": ["LayerMode", "choose", "layer_weights"],
        "losses": ["loss_at", "residuals_at", "squared_distance", "squared_distance_of", "terms_of"],
        "matched": ["Matched"],
        "terms": ["Terms"],
    },
)
