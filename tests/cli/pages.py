"""A web page as a test reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

_VOID = {"meta", "br"}
# What would fetch something, or run.
_REFERENCES = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}
_ACTIVE = {"script", "link", "iframe", "object", "embed", "img", "image", "use", "base", "form", "foreignobject"}


class Page(HTMLParser):
    """A page's text, its elements, and the outcome of each of its cells; every tag must be closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source, self.open = text, list[str]()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.words[tag][-1] += data

    def classes(self, tag: str) -> list[str]:
        return [
            attributes["class"] or "" for name, attributes in self.elements if name == tag and "class" in attributes
        ]

    def rows(self) -> list[str]:
        """The text of each row of a table."""
        return self.words["tr"]


def stands_alone(page: Page) -> Iterator[str]:
    """What the page would fetch or run."""
    for tag, attributes in page.elements:
        yield from (f"<{tag}>",) if tag in _ACTIVE else ()
        yield from (f"{tag} {name}" for name in attributes if name in _REFERENCES or name.startswith("on"))
    yield from re.findall(r"url\(|@import|https?:|//\w", page.source.partition("<body>")[0])
