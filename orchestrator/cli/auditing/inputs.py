"""What the flags of `gradsweep audit` name: the network, the signal, the pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from defenses.chain import AnyDefense
from fl_core.base.errors import InputError, first_line
from fl_core.base.own_code import OwnCode
from fl_core.base.shape import ImageShape
from fl_core.data.places import expanded
from orchestrator.config.own import anchor_own, spell_own
from orchestrator.config.plain import build
from orchestrator.config.plain_yaml import read_yaml
from orchestrator.io.places import check_images_there
from orchestrator.library.chains import check_defenses
from orchestrator.library.images import ImageSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from orchestrator.calibration.pictures import PictureSet
    from orchestrator.library.updates import Update

MOST_PUBLIC = 512
"""So many public images are used at most."""


def image_spec(image: str, mean: str | None, std: str | None) -> ImageSpec:
    """The images of `--image`, `--mean` and `--std`; raises `InputError` for what is malformed."""
    shape = ImageShape.parse(image)
    return ImageSpec(
        channels=shape.channels,
        height=shape.height,
        width=shape.width,
        mean=_floats("--mean", mean),
        std=_floats("--std", std),
    )


def _floats(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{flag} {text!r}: must be numbers with commas, such as 0.5,0.5,0.5.") from error


def code(spec: str, args: str | None) -> tuple[OwnCode, dict[str, Any]]:
    """The code of `--model` and what `--model-args` calls it with; raises `InputError` for what cannot be read."""
    found = OwnCode.read(spec, Path.cwd(), where="--model")
    try:
        settings = json.loads(args) if args else {}
    except ValueError as error:
        raise InputError(f"--model-args {args!r}: not valid JSON: {first_line(error)}.") from error
    if not isinstance(settings, dict):
        raise InputError(f"--model-args {args!r}: must be a mapping, such as '{{\"classes\": 10}}'.")
    return found, settings


def network(made: OwnCode, args: dict[str, Any]) -> nn.Module:
    """The network that the code makes, in evaluation mode; raises `InputError` where it fails."""
    from fl_core.models.own import made_by

    return made_by(made, args, where="--model-args").eval()


def check_signal(
    *, before: Path | None, after: Path | None, update: Path | None, gradients: Path | None
) -> None:
    """Raise `InputError` where not exactly one signal is named, or it needs weights that are not."""
    if sum(way is not None for way in (after, update, gradients)) != 1:
        raise InputError(
            "Give one of --after (with --before), --update and --gradients: what the client sent."
        )
    if update is None and before is None:
        raise InputError("--before is missing: the weights that the client started from.")


def sent(
    model: nn.Module,
    *,
    before: Path | None,
    after: Path | None,
    update: Path | None,
    gradients: Path | None,
) -> Update | dict[str, torch.Tensor]:
    """The signal that the flags name: an update, or gradients by name at the weights `before`, now in `model`.

    Raises `InputError` as `check_signal` does, and where a file does not fit the network.
    """
    from orchestrator.library.files import load_gradient, load_update, load_weights

    check_signal(before=before, after=after, update=update, gradients=gradients)
    if before is None or update is not None:
        return load_update(None if update is None else expanded(update))
    if gradients is not None:
        load_weights(expanded(before), model)
        return load_gradient(expanded(gradients), model=model)
    return load_update(before=expanded(before), after=expanded(after or before), model=model)


def check_pictures(folder: Path | None, *, where: str) -> None:
    """Raise `InputError` where a folder of images is named that is none."""
    if folder is not None:
        check_images_there(expanded(folder), where=where)


def public(folder: Path | None, spec: ImageSpec, clients: int) -> PictureSet:
    """The pictures of `--public`, at most `MOST_PUBLIC`; synthetic ones, enough for all clients, if None."""
    from orchestrator.calibration.pictures import read_folder, synthetic_pictures

    if folder is None:
        return synthetic_pictures(spec, max(64, 4 * clients))
    return read_folder(expanded(folder), spec, most=MOST_PUBLIC, where="--public")


def defended(texts: Sequence[str]) -> tuple[AnyDefense, ...]:
    """The defenses of `--defended`, each `KIND SETTING=VALUE ...` with the names and values of a sweep file.

    Raises `InputError` for a kind or setting that there is not, a value out of range, and a defense that one client
    cannot be simulated under.
    """
    found = tuple(_defense(text) for text in texts)
    check_defenses(found)
    return found


def _defense(text: str) -> AnyDefense:
    where = f"--defended {text!r}"
    tree = {"defense": _spelled_defense(text)}
    anchor_own(tree, Path.cwd())
    spell_own(tree, where=where)
    return build(cast("type[AnyDefense]", AnyDefense), tree["defense"], where=where)


def _spelled_defense(text: str) -> dict[str, Any]:
    kind, *settings = text.split() or [""]
    if not kind or "=" in kind:
        raise InputError(
            f"--defended {text!r}: must be a defense and its settings, such as 'prune ratio=0.9'."
        )
    spelled: dict[str, Any] = {"kind": kind}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name or not value:
            raise InputError(f"--defended {text!r}: {setting!r} must be SETTING=VALUE, such as ratio=0.9.")
        spelled[name] = read_yaml(value, where=f"--defended {name}")
    return spelled
