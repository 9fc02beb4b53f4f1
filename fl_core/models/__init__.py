"""The clients' networks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bottleneck": [
            "Bottleneck",
            "code_of",
            "divergence",
            "draw_code_noise",
            "encoded",
            "find_bottleneck",
            "with_noise",
        ],
        "zoo": [
            "ModelConfig",
            "ModelName",
            "build_model",
            "check_batch",
            "initial_state",
            "layer_input",
            "predict",
        ],
    },
)
