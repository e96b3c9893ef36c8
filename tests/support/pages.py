"""Pages of made-up histories, and what they say."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import wg_report
from company import END, all_sessions
from values import key
from wg_report import ENDED, Gap, History, Period, Session, Zone

VOID = {"meta", "input", "br"}
ENDLESS = {"td", "th", "tr", "li", "dt", "dd", "p"}  # whose end the page leaves to the browser


class Element:
    def __init__(self, name: str, attributes: Dict[str, str]) -> None:
        self.name, self.attributes, self.own = name, attributes, ""
        self.children: List["Element"] = []

    @property
    def text(self) -> str:
        return self.own + "".join(child.text for child in self.children)

    def all(self, name: str, **attributes: str) -> List["Element"]:
        """The elements in it, `kind` is their class."""
        wanted = {"class" if name == "kind" else name: value for name, value in attributes.items()}
        found: List["Element"] = []
        for child in self.children:
            if child.name == name and wanted.items() <= child.attributes.items():
                found.append(child)
            found += child.all(name, **attributes)
        return found

    def one(self, name: str, **attributes: str) -> "Element":
        (found,) = self.all(name, **attributes)
        return found


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.path = [self.root]

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        if tag in (*ENDLESS, "tbody"):
            while self.path[-1].name in ENDLESS and not (self.path[-1].name == "tr" and tag in ("td", "th")):
                self.path.pop()
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.path[-1].children.append(element)
        if tag not in VOID:
            self.path.append(element)

    def handle_startendtag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.path[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        names = [element.name for element in self.path]
        if tag in names:
            del self.path[len(names) - 1 - names[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        self.path[-1].own += data


def parsed(text: str) -> Element:
    reader = Reader()
    reader.feed(text)
    return reader.root


def session(who: str, start: float, until: float, reason: str = "idle", **changes: Any) -> Session:
    """A session of `who`, whose times are seconds before END."""
    begin, end = END - start, END - until
    made = Session("", "wg0", key(who), who, 1, begin, end, ENDED, end - begin, ("192.0.2.1:51820",), "10.0.0.2/32",
                   2048, 1024, 0.0, reason)  # fmt: skip
    return made._replace(**changes)


def history(*sessions: Session, hours: float = 24, gateway: str = "", gaps: Sequence[Gap] = ()) -> History:
    """Watched for some hours until END."""
    watched = Period(END - hours * 3600, END)
    return History(gateway, "/var/lib/wg-monitor/state.db", watched, gaps, lambda period: iter(sessions))


def page_of(
    *histories: History,
    since: float = float("-inf"),
    until: float = float("inf"),
    now: float = END,
    chinese: bool = False,
    notes: Iterable[str] = (),
) -> str:
    period = Period(since, until)
    pieces = wg_report.page(all_sessions(histories, period), histories, period, now, Zone(), chinese, notes)
    return "".join(pieces)


def write(path: Path, *histories: History, **how: Any) -> Path:
    path.write_text(page_of(*histories, **how), encoding="utf-8")
    return path
