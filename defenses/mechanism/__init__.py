"""What a defense is, and the two operations that many are made of: clipping and noise."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["Adversary", "Mechanism", "Privacy", "STAGES", "Stage", "Unit"],
        "clipping": ["bounded"],
        "draws": ["Distribution", "add_noise", "draw_noise", "perturb"],
        "noise": ["ClipOnly", "NoiseOnly"],
        "own": ["OwnDefense"],
    },
)
