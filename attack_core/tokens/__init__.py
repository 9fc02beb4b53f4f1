"""A transformer's patch embedding in closed form: where it is, the patches from its gradients, a batch too."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batches": ["BatchTokens"],
        "class_token": ["ClassToken", "Separated", "separate"],
        "embedding": ["PatchEmbedding", "PatchLayout", "find_embedding", "find_layout"],
        "equations": ["TokenEquations"],
        "spanned": ["solve_spanned"],
        "spanning_layer": ["SpanningLayer", "find_spanning"],
    },
)
