"""`gradsweep audit`: a real signal of one client, without a sweep."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from fl_core.data.places import expanded
from orchestrator.runtime.terminal import console as terminal

Numbers = Annotated[str | None, typer.Option(help="Numbers with commas, one for each channel.")]


def audit(
    model: Annotated[
        str, typer.Option(help="FILE.py:FUNCTION or package.module:FUNCTION that returns the network.")
    ],
    image: Annotated[str, typer.Option(help="The images that it takes, such as 3x32x32.")],
    classes: Annotated[int, typer.Option(help="How many classes it tells apart.", min=2)],
    out: Annotated[Path, typer.Option(help="Folder for the page and the images.")],
    model_args: Annotated[str | None, typer.Option(help="Arguments of the function, as JSON.")] = None,
    before: Annotated[Path | None, typer.Option(help="Weights before the client trained.")] = None,
    after: Annotated[Path | None, typer.Option(help="Weights after it trained.")] = None,
    update: Annotated[Path | None, typer.Option(help="A file of gradsweep.save_update.")] = None,
    gradients: Annotated[Path | None, typer.Option(help="A gradient, taken at the weights --before.")] = None,
    mean: Numbers = None,
    std: Numbers = None,
    lr: Annotated[float | None, typer.Option(help="The client's learning rate.")] = None,
    momentum: Annotated[float, typer.Option(help="Its momentum.")] = 0.0,
    steps: Annotated[int | None, typer.Option(help="Its local steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in one step.")] = None,
    examples: Annotated[int | None, typer.Option(help="Its images.")] = None,
    defended: Annotated[
        list[str] | None,
        typer.Option(
            help="A defense in force, as a sweep file spells it: 'prune ratio=0.9'. Repeat it for several, in order."
        ),
    ] = None,
    public: Annotated[Path | None, typer.Option(help="Folder of public images of the same kind.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Folder of the images behind the signal, to compare.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="A defense to try: prune, noise, dp_update, quantise, sign.")
    ] = None,
    attack: Annotated[str, typer.Option(help="The attack, by name.")] = "auto",
    clients: Annotated[int, typer.Option(help="Simulated clients behind the prediction.", min=2)] = 19,
    effort: Annotated[
        float, typer.Option(help="The share of the attack's iterations that each of its runs takes.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Fixes everything random.")] = 0,
) -> None:
    """Say what a client's update or gradient gives away, and what would stop it; needs no truth."""
    arguments = _arguments(locals())
    from orchestrator.audit.against import check_tried
    from orchestrator.cli.auditing import inputs
    from orchestrator.io.places import made_for
    from orchestrator.library.chains import shortened_attack
    from orchestrator.library.known import Known

    console = terminal()
    with made_for(expanded(out)) as folder:
        spec = inputs.image_spec(image, mean, std)
        code = inputs.code(model, model_args)
        inputs.check_signal(before=before, after=after, update=update, gradients=gradients)
        known = Known(
            lr=lr,
            momentum=momentum,
            steps=steps,
            batch_size=batch_size,
            examples=examples,
            defenses=inputs.defended(defended or ()),
        )
        shortened_attack(attack, effort)
        tried = tuple(name for entry in against or () for name in entry.replace(",", " ").split())
        check_tried(tried)
        inputs.check_pictures(public, where="--public")
        inputs.check_pictures(truth, where="--truth")
        # With torch, for which a refusal does not wait.
        from orchestrator.audit.audit import Question, run_audit
        from orchestrator.audit.page import lines, write_page
        from orchestrator.calibration.pictures import read_folder

        network = inputs.network(*code)
        sent = inputs.sent(network, before=before, after=after, update=update, gradients=gradients)
        question = Question(
            model=network,
            sent=sent,
            image=spec,
            classes=classes,
            known=known,
            public=inputs.public(public, spec, clients),
            truth=None if truth is None else read_folder(expanded(truth), spec, where="--truth").images,
            against=tried,
            attack=attack,
            clients=clients,
            effort=effort,
            seed=seed,
        )
        answer = run_audit(question, lambda text: console.print(text, soft_wrap=True, markup=False))
        command = shlex.join(["gradsweep", "audit", *arguments])
        page = write_page(folder, answer, title=f"{model}, {image}", command=command)
    for text in lines(answer):
        console.print(text, soft_wrap=True, markup=False)
    console.print(f"Page: {page}", soft_wrap=True, markup=False)


def _arguments(values: dict[str, Any]) -> list[str]:
    """The command line's own flags, as they would be typed."""
    typed: list[str] = []
    for name in inspect.signature(audit).parameters:
        value = values[name]
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                typed += [f"--{name.replace('_', '-')}", str(each)]
    return typed
