"""The report in a real browser: the answer first, nothing cut off at any width, rows, pictures, and the script."""

from __future__ import annotations

import base64
import hashlib
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
_MEASURE = """addEventListener("load", () => {
const answer = document.querySelector(".answer").getBoundingClientRect().bottom;
const figure = document.querySelector(".figures figure").getBoundingClientRect().top;
document.querySelectorAll("details").forEach(each => { each.open = true; });
parent.postMessage(JSON.stringify({
  answer, figure,
  cut: [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText),
  scroll: document.documentElement.scrollWidth, width: innerWidth,
  header: getComputedStyle(document.querySelector("thead")).position,
  paper: getComputedStyle(document.body).backgroundColor,
  pictures: [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width]),
  right: Math.max(...[...document.querySelectorAll("td > div, p, dd, li")].map(
    e => e.getBoundingClientRect().right)),
  shown: [...document.images].map(i => i.currentSrc.length),
}), "*");
});"""

_USE = """addEventListener("load", () => {
const table = document.querySelector("table.summary");
const rows = () => [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].innerText.split(" ")[0]);
const head = [...table.tHead.rows[0].cells].find(h => h.innerText.startsWith("PSNR"));
const found = { width: innerWidth, before: rows() };
head.querySelector("button").click();
found.first = [head.getAttribute("aria-sort"), rows()];
head.querySelector("button").click();
found.second = [head.getAttribute("aria-sort"), rows()];
head.querySelector("button").click();
found.third = [head.getAttribute("aria-sort"), rows()];
const filter = document.querySelector(".tools input[type=search]");
filter.value = "LATE"; filter.dispatchEvent(new Event("input"));
found.filtered = [rows(), document.querySelector(".tools [role=status]").innerText];
filter.value = ""; filter.dispatchEvent(new Event("input"));
found.all = rows();
const box = document.querySelector(".columns input");
box.click();
found.hidden = [...table.rows].map(r => r.cells[1].hidden);
document.querySelector("button.enlarge").click();
const dialog = document.querySelector("dialog");
found.large = [dialog.open, dialog.querySelector("img").alt];
dialog.querySelector("button").click();
found.closed = !dialog.open;
parent.postMessage(JSON.stringify(found), "*");
});"""
_FRAME = """<!doctype html><pre id="found"></pre><script>
addEventListener("message", event => { document.getElementById("found").textContent = event.data; });
</script><iframe style="border: 0; width: WIDTHpx; height: 4000px" src="probed.html"></iframe>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it: long names, pictures, failures, footnotes, three figures."""
    cells = ("none", "dp-update-epsilon-8-with-a-rather-long-name", "late")
    tests = [
        trial(
            row(
                cell,
                victim,
                12.0 + 3 * victim + cells.index(cell),
                suggestion=0,
                epsilon=8.0,
                epsilon_release=4.2,
            ),
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


def probe(page: Path, folder: Path, width: int, *flags: str, script: str = _MEASURE) -> dict[str, Any]:
    """What a script finds in a frame of this width; the page's policy allows it beside the page's own."""
    text = page.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = text.replace("script-src ", f"script-src 'sha256-{digest}' ")
    assert allowed != text
    probed = allowed.replace("</body>", f"<script>{script}</script></body>")
    (folder / "probed.html").write_text(probed, encoding="utf-8")
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
    # Figures, three pairs of each cell with their error maps, and one victim across the cells.
    assert len(found["pictures"]) == 3 + 3 * 3 * 3 + 1 + 3
    for complete, natural, shown in found["pictures"]:
        assert complete
        assert natural > 0
        assert 0 < shown < width
    assert found["scroll"] <= width
    assert not found["cut"], "a table is wider than its card"
    assert found["right"] <= width
    assert (found["header"] == "absolute") == (width < 736), "rows become cards on narrow screens only"


def test_dark_scheme_has_its_own_colours_and_figures(page: Path, tmp_path: Path) -> None:
    light, dark = (
        probe(page, tmp_path, 390, f"--blink-settings=preferredColorScheme={scheme}") for scheme in (1, 0)
    )
    assert light["paper"] != dark["paper"]
    assert light["shown"][:2] != dark["shown"][:2]
    assert all(natural > 0 for _, natural, _ in dark["pictures"])


def test_the_answer_stands_on_the_first_screen_and_a_figure_soon_after(page: Path, tmp_path: Path) -> None:
    found = probe(page, tmp_path, 1280)
    assert found["answer"] < 800
    assert found["figure"] < 1200


def test_the_script_sorts_filters_hides_and_enlarges(page: Path, tmp_path: Path) -> None:
    found = probe(page, tmp_path, 1280, script=_USE)
    before = found["before"]
    assert before == ["none", "dp-update-epsilon-8-with-a-rather-long-name", "late"]
    assert found["first"][0] == "descending"
    assert found["second"][0] == "ascending"
    assert found["second"][1][0] == "none", "the least PSNR"
    assert found["first"][1][0] == "late", "the greatest PSNR"
    assert found["third"] == [None, before]
    assert found["filtered"] == [["late"], "1 of 3 rows"]
    assert found["all"] == before
    assert found["hidden"] == [True] * 4
    assert found["large"][0]
    assert found["large"][1].startswith("Original")
    assert found["closed"]


def test_the_page_is_whole_without_its_script(page: Path, tmp_path: Path) -> None:
    blocked = page.read_text(encoding="utf-8").replace("script-src 'sha256-", "script-src 'sha256-0")
    (tmp_path / "blocked.html").write_text(blocked, encoding="utf-8")
    dom = dump(tmp_path / "blocked.html", tmp_path / "profile")
    # What the script makes is missing; rows and figures are all there.
    assert 'class="tools"' not in dom
    assert "<button" not in dom
    assert dom.count('<th role="rowheader"') >= 3
    assert 'class="tools"' in dump(page, tmp_path / "profile")
