"""Results of a folder for other tools: CSV files, a data set of Hugging Face, runs of MLflow."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "export": ["export_results"],
    },
)
