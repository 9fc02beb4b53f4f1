"""How good a reconstruction is without the truth: simulated clients, what is seen of an answer, predictions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibrate": ["Calibration", "calibrate"],
        "pictures": ["PictureSet", "read_folder"],
        "prediction": ["Expected", "predict"],
        "seen": ["Seen", "seen_of"],
    },
)
