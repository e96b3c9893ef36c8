"""Helpers of the pure tests: they build the output of wg from a few words and play readings one after another.

Times in the cases are seconds since START. A peer's key is its name, padded.
"""

import os
import time
from array import array
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import wg_monitor
from wg_monitor import NEVER, Event, Identity, Memo, Moment, PeerLine, Reading, Row, Settings, Table

START = Moment(1_700_000_000.0, 5_000.0)
NEVER_SHOOK = -START.wall  # the handshake 0

# These keys have the form of real ones, so that a pattern for real ones matches them.
PRIVATE_KEY = "cHJpdmF0ZSBrZXkgb2YgYW4gaW50ZXJmYWNlLCBhYmM="
PRESHARED_KEY = "cHJlc2hhcmVkIGtleSBvZiBhIHBlZXIsIGFiY2RlZmc="
SECRETS = (PRIVATE_KEY, PRESHARED_KEY)


def set_zone() -> None:
    time.tzset()
    wg_monitor.stamp.cache_clear()


@contextmanager
def zone(name: str) -> Iterator[None]:
    """Local time in another time zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    set_zone()
    try:
        yield
    finally:
        del os.environ["TZ"]
        if before is not None:
            os.environ["TZ"] = before
        set_zone()


def key(name: str) -> str:
    return name + "/" * (43 - len(name)) + "="


def name_of(public_key: str) -> str:
    return public_key.rstrip("=").rstrip("/")


class P(NamedTuple):
    """A peer in the short form of the cases."""

    name: str
    shook: float = NEVER_SHOOK
    rx: int = 0
    tx: int = 0
    endpoint: str = "192.0.2.1:51820"
    ips: str = "10.0.0.1/32"


def interface_line(name: str) -> str:
    return "\t".join((name, PRIVATE_KEY, key("self"), "51820", "off")) + "\n"


def peer_line(interface: str, p: P) -> str:
    handshake = "%d" % (START.wall + p.shook)
    fields = (interface, key(p.name), PRESHARED_KEY, p.endpoint or "(none)", p.ips or "(none)", handshake)
    return "\t".join(fields) + "\t%d\t%d\toff\n" % (p.rx, p.tx)


def dump(name: str, *peers: P) -> str:
    """What `wg show all dump` prints about one interface."""
    return interface_line(name) + "".join(peer_line(name, p) for p in peers)


def unreadable(*names: str) -> str:
    return "".join("Unable to access interface %s: Operation not permitted\n" % name for name in names)


def chosen(**changes: Any) -> Settings:
    """The default settings, except some."""
    return wg_monitor.parse_settings({}, {})._replace(**changes)


def at(seconds: float, step: float = 0.0) -> Moment:
    """`step`: how far the wall clock was set forward since the start."""
    return Moment(START.wall + seconds + step, START.boot + seconds)


def read(
    text: str,
    complaints: str = "",
    table: Optional[Table] = None,
    memo: Optional[Memo] = None,
    settings: Optional[Settings] = None,
) -> Tuple[Reading, Memo]:
    memo = memo or Memo()
    names = [identity[0] for identity in table.rows] if table else []
    wanted = (settings or chosen()).interface
    return wg_monitor.parse(blocks(text.encode()), complaints, memo, names, wanted), memo


def whole_lines(reading: Reading) -> List[PeerLine]:
    """The peers of a reading. It must have no line that shows nothing but new counters."""
    assert all(isinstance(line, PeerLine) for line in reading.peers)
    return [line for line in reading.peers if isinstance(line, PeerLine)]


def give(monitor: wg_monitor.Monitor, text: str, complaints: str = "") -> None:
    """A turn with a reading, as if `wg` had printed this."""
    give_at(wg_monitor.moment(), monitor, text, complaints)


def give_at(
    began: wg_monitor.Moment, monitor: wg_monitor.Monitor, text: str, complaints: str = "", interface: str = ""
) -> None:
    """The same from a `wg` that began then, about one interface if it is named."""
    monitor.take(wg_monitor.Answer(len(text), complaints, "", began), blocks(text.encode()), interface)
    monitor.conclude()


def turn_at(second: float, monitor: wg_monitor.Monitor, now: List[Moment]) -> None:
    """Sets the simulated clock, as at the beginning of a turn."""
    now[0] = at(second)
    monitor.turned = now[0].boot


def give_nothing(monitor: wg_monitor.Monitor) -> None:
    """A turn in which `wg` failed."""
    monitor.no_reading("this is a test")
    monitor.conclude()


def blocks(text: bytes, size: int = 300) -> List[bytes]:
    """The text in blocks of whole lines, each of at least `size` bytes. The monitor itself reads 64 KiB at once."""
    found: List[bytes] = []
    while text:
        end = text.index(b"\n", min(size, len(text)) - 1) + 1
        found.append(text[:end])
        text = text[end:]
    return found


def told(event: Event) -> str:
    """An event in a few words."""
    if event.public_key is None:
        words = "%s %s %d" % (event.kind, event.interface, event.peers)
        return words + (" %d online" % event.online_peers if event.kind == "IFDOWN" else "")
    words = "%s %s %s" % (event.kind, event.interface, name_of(event.public_key))
    if event.new:
        words += " new"
    if event.before:
        words += " from " + event.before
    return words + (" " + event.ended.reason if event.ended else "")


def figures(event: Event) -> str:
    """The session that an event begins or ends, in a few words. Times are seconds since START."""
    ended, session = event.ended, event.session
    if ended is None:
        return "%s at %g" % (event.kind, session.start - START.wall) if session else event.kind
    return "%s %s: %g to %g, %g long, %d in, %d out, %s" % (
        event.kind,
        ended.reason,
        ended.session.start - START.wall,
        ended.last_seen - START.wall,
        ended.length,
        ended.received,
        ended.sent,
        ended.session.endpoints,
    )


class Step(NamedTuple):
    """One reading, and the events that it must cause."""

    at: float
    text: str
    events: Sequence[str] = ()
    complaints: str = ""
    clock: float = 0.0  # how far the wall clock was set
    restart: bool = False  # the monitor restarts before the reading, in the same boot, with its store


class Case(NamedTuple):
    name: str
    steps: Sequence[Step]
    settings: Settings = chosen()
    words: Callable[[Event], str] = told

    def __str__(self) -> str:
        return self.name


def play(case: Case, names: Mapping[str, Any]) -> List[List[str]]:
    """The events of each reading of a case, as the functions in `names` decide them."""
    table = Table()
    memo: Optional[Memo] = None
    happened = []
    numbers: List[int] = []
    for step in case.steps:
        if step.restart:
            table.last, table.due, memo = None, NEVER, None
        now = at(step.at, step.clock)
        reading, memo = read(step.text, step.complaints, table, memo, case.settings)
        events = names["decide"](table, reading, now, case.settings)
        happened.append([case.words(event) for event in events])
        numbers += [event.session.number for event in events if event.kind == "ONLINE" and event.session]
        judge(table, reading, now)
    assert numbers == list(range(1, len(numbers) + 1))
    return happened


def judge(table: Table, reading: Reading, now: Moment) -> None:
    """Checks that the parts of a table agree."""
    assert table.last == now
    assert table.online == sum(row.session is not None for row in table.rows.values())
    if not (reading.invalid or reading.unreadable):
        assert table.due > now.boot  # every peer that could age out was checked


def plain(value: Any) -> Any:
    """A value that can be compared and kept. Rows, tables and memos become their present contents."""
    if isinstance(value, (Row, Memo)):
        return (type(value), *(plain(getattr(value, name)) for name in value.__slots__))
    if isinstance(value, Table):
        return (Table, *((name, plain(part)) for name, part in sorted(vars(value).items())))
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, array)):
        return (type(value), *map(plain, value))
    return value


def ids(cases: Sequence[Any]) -> List[str]:
    """The names of the cases, for pytest."""
    return [str(case[0]) for case in cases]


def identity(interface: str, name: str) -> Identity:
    return interface, key(name)
