"""The public library of gradsweep: gradient inversion of your own network, images and updates.

    import gradsweep as gs

    picture = gs.ImageSpec(channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    found = gs.invert(model, gradients, image=picture, classes=10)

Every name here is stable: it changes with a major version alone. What other packages hold is not.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules={"attacks", "defenses"},
    submod_attrs={
        "calls": [
            "AttackFailed",
            "Found",
            "ImageSpec",
            "InputError",
            "Known",
            "LocalTraining",
            "Update",
            "defend",
            "invert",
            "observe",
        ],
        # By itself, so that whoever only saves an update loads little more than torch.
        "files": ["load_gradient", "load_update", "save_update"],
        "sweeps": ["read_results", "run_sweep"],
    },
)
