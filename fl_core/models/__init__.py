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
        "build": ["build_model", "check_batch", "initial_state"],
        "config": ["ModelConfig", "ModelName", "TransformerConfig"],
        "forward": ["changes_statistics", "layer_input", "predict"],
        "tensor_files": ["stored_tensors"],
        "tensor_names": ["named_as"],
        "weights": ["WeightsFile"],
    },
)
