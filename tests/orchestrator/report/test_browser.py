"""The report in a real browser: rows, pictures, and no sideways scrolling on a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis.summary import summary_lines
from orchestrator.config.sweep import CellConfig, SweepConfig, VictimsConfig
from orchestrator.report.report import write_report
from tests.support.results_folder import failed_row, row, suggestion, trial, write_folder

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
)

# The page is measured in a frame, because a browser's own window cannot be made as narrow as a phone.
_PROBE = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  scroll: document.documentElement.scrollWidth, width: innerWidth,
  header: getComputedStyle(document.querySelector("thead")).position,
  paper: getComputedStyle(document.body).backgroundColor,
  pictures: [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width]),
  right: Math.max(...[...document.querySelectorAll("td > div, p, dd, li")].map(
    e => e.getBoundingClientRect().right)),
  shown: [...document.images].map(i => i.currentSrc.length),
}), "*"))</script>"""
_FRAME = """<!doctype html><pre id="found"></pre><script>
addEventListener("message", event => { document.getElementById("found").textContent = event.data; });
</script><iframe style="border: 0; width: WIDTHpx; height: 4000px" src="probed.html"></iframe>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it: long names, pictures, failures, footnotes, three figures."""
    cells = ("none", "dp-update-epsilon-8-with-a-rather-long-name", "late")
    tests = [
        trial(
            row(cell, victim, 12.0 + 3 * victim, suggestion=0, epsilon=8.0, epsilon_release=4.2),
            pictures=True,
        )
        for cell in cells
        for victim in (2, 3, 4)
    ]
    lost = trial(failed_row("late", victim=5, error="not_finite_" * 30, suggestion=0))
    searched = {"objective.weights.of.some.layer": 0.123, "init": "fourier"}
    told = [suggestion(0, 9.0, f"{cell}/generic", **searched) for cell in cells]
    config = SweepConfig(
        name="browser",
        cells=tuple(CellConfig(name=cell) for cell in cells),
        victims=VictimsConfig(tuning=2, test=3),
    )
    folder = write_folder(
        tmp_path_factory.mktemp("browser"),
        [*tests, lost],
        suggestions=told,
        config=config,
        utility={cell: {} for cell in cells},
    )
    return write_report(folder, summary_lines(folder))


def dump(target: Path, profile: Path, *flags: str) -> str:
    """The DOM that Chromium makes of a file."""
    command = [str(CHROMIUM), *_FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", target.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def probe(page: Path, folder: Path, width: int, *flags: str) -> dict[str, Any]:
    """What a frame of this width measures of the page."""
    text = page.read_text(encoding="utf-8")
    allowed = text.replace(
        "style-src 'unsafe-inline'", "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    assert allowed != text
    (folder / "probed.html").write_text(allowed.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(_FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    dom = dump(folder / "frame.html", folder / "profile", *flags)
    found = re.search(r'<pre id="found">(.+?)</pre>', dom, re.DOTALL)
    assert found, dom[:2000]
    measured: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert measured["width"] == width
    return measured


def test_the_dom_holds_every_row(page: Path, tmp_path: Path) -> None:
    dom = dump(page, tmp_path / "profile")
    body = re.search(r'<table class="stack summary".*?<tbody[^>]*>(.*?)</tbody>', dom, re.DOTALL)
    assert body
    assert re.findall(r'<th role="rowheader" scope="row">(\S+)', body[1]) == [
        "none",
        "dp-update-epsilon-8-with-a-rather-long-name",
        "late",
    ]
    # Nothing that the page says was moved out of its tables by the parser.
    assert body[1].count("<td ") == 3 * dom.count('scope="col"', 0, dom.index("</thead>")) - 3
    assert "not_finite_" in dom


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_pictures_load_and_nothing_scrolls_sideways(page: Path, tmp_path: Path, width: int) -> None:
    found = probe(page, tmp_path, width)
    assert len(found["pictures"]) == 3 + 3 * 3 * 2
    for complete, natural, shown in found["pictures"]:
        assert complete
        assert natural > 0
        assert 0 < shown < width
    assert found["scroll"] <= width
    # A wide table may scroll within its card on a desktop; on a phone its cells must fit.
    assert found["right"] <= width or width > 736
    assert (found["header"] == "absolute") == (width < 736), "rows become cards on narrow screens only"


def test_dark_scheme_has_its_own_colours_and_figures(page: Path, tmp_path: Path) -> None:
    light, dark = (
        probe(page, tmp_path, 390, f"--blink-settings=preferredColorScheme={scheme}") for scheme in (1, 0)
    )
    assert light["paper"] != dark["paper"]
    assert light["shown"][:3] != dark["shown"][:3]
    assert all(natural > 0 for _, natural, _ in dark["pictures"])
