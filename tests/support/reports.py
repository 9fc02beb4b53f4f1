"""Reports that are written and parsed."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from orchestrator.analysis.summary import summary_lines
from orchestrator.report.report import write_report


class Page(HTMLParser):
    """The page's elements and texts; closing tags must match opening ones, ids must be unique."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.rows: list[dict[str, str]] = []
        self._label: str | None = None
        self.feed(html)
        self.close()
        assert not self.open
        ids = [found["id"] for _, found in self.elements if "id" in found]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs)
        self.elements.append((tag, found))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append({})
        if tag in ("td", "th"):
            self._label = found.get("data-label") or "name"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self._label = None

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.pieces.append(data)
        if self._label and self.rows:
            cells = self.rows[-1]
            cells[self._label] = " ".join(f"{cells.get(self._label, '')} {data}".split())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def write(folder: Path) -> tuple[str, Page]:
    path = write_report(folder, summary_lines(folder))
    assert path == folder / "report.html"
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


_VOID = {"meta", "link", "img", "source", "br", "input"}
