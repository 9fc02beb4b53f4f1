"""Convolutions' inputs by linear algebra, from the gradients of their weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batch_space": ["in_front", "in_order", "patch_pairs"],
        "calls": ["ConvolutionCall", "convolution_calls"],
        "masks": ["MASK_LIMITS", "DecodedInput", "MaskLimits", "decoded_input"],
        "patch_space": ["PATCH_LIMITS", "ConvolutionInput", "convolution_inputs", "input_from_rows"],
    },
)
