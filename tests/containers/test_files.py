"""What goes into an image: every package that pyproject.toml installs."""

from __future__ import annotations

import tomllib

from tests.support.paths import ROOT


def test_every_package_goes_into_the_image() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in settings["tool"]["setuptools"]["packages"]["find"]["include"]}
    copied = {
        line.split()[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert packages <= copied
    assert packages <= let_in
