"""What the tests of the pure part share: the text of wg, made from a few words, and readings of it one after another.

Times in the cases are seconds since START; a peer's key is its name, filled up.
"""

import os
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import wg_monitor
from wg_monitor import EMPTY, NEVER, Event, Identity, Memo, Moment, Reading, Settings, Table

START = Moment(1_700_000_000.0, 5_000.0)
NEVER_SHOOK = -START.wall  # the handshake 0

# They look like what they stand for, so that a pattern that catches real ones catches them.
PRIVATE_KEY = "cHJpdmF0ZSBrZXkgb2YgYW4gaW50ZXJmYWNlLCBhYmM="
PRESHARED_KEY = "cHJlc2hhcmVkIGtleSBvZiBhIHBlZXIsIGFiY2RlZmc="
SECRETS = (PRIVATE_KEY, PRESHARED_KEY)


def set_zone() -> None:
    time.tzset()
    wg_monitor.stamp_of.cache_clear()


@contextmanager
def zone(name: str) -> Iterator[None]:
    """Local time as it is there."""
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
    """A peer, as the cases write it."""

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
    """What `wg show all dump` prints of one interface."""
    return interface_line(name) + "".join(peer_line(name, p) for p in peers)


def unreadable(*names: str) -> str:
    return "".join("Unable to access interface %s: Operation not permitted\n" % name for name in names)


def chosen(**changes: Any) -> Settings:
    """The default settings, but for some."""
    return wg_monitor.parse_settings({}, {})._replace(**changes)


def at(seconds: float, step: float = 0.0) -> Moment:
    """`step`: how far the wall clock has been set forward since the start."""
    return Moment(START.wall + seconds + step, START.boot + seconds)


def read(
    text: str,
    complaints: str = "",
    table: Table = EMPTY,
    memo: Optional[Memo] = None,
    boot: float = START.boot,
    settings: Optional[Settings] = None,
) -> Tuple[Reading, Memo]:
    memo = memo or Memo()
    return wg_monitor.parse(blocks(text.encode()), complaints, memo, table.peers, settings or chosen(), boot), memo


def give(monitor: wg_monitor.Monitor, text: str, complaints: str = "") -> None:
    """A reading, as if `wg` had said that."""
    monitor.take(wg_monitor.Answer(len(text), complaints, ""), blocks(text.encode()))


def blocks(text: bytes, size: int = 300) -> List[bytes]:
    """Whole lines, each time at least so many bytes of them: the monitor reads 64 KiB at once."""
    found: List[bytes] = []
    while text:
        end = text.index(b"\n", min(size, len(text)) - 1) + 1
        found.append(text[:end])
        text = text[end:]
    return found


def told(event: Event) -> str:
    """An event in a few words."""
    if event.peer is None:
        words = "%s %s %d" % (event.kind, event.iface, event.peers)
        return words + (" %d online" % event.online if event.kind == "IFDOWN" else "")
    words = "%s %s %s" % (event.kind, event.iface, name_of(event.peer.identity[1]))
    if event.new:
        words += " new"
    if event.before:
        words += " from " + event.before
    return words + (" " + event.ended.reason if event.ended else "")


def figures(event: Event) -> str:
    """The session that an event begins or ends, in a few words; times since START."""
    ended = event.ended
    if ended is None:
        session = event.peer.session if event.peer else None
        return "%s at %g" % (event.kind, session.start - START.wall) if session else event.kind
    return "%s %s: %g to %g, %g long, %d in, %d out, %s" % (
        event.kind,
        ended.reason,
        ended.start - START.wall,
        ended.last_seen - START.wall,
        ended.length,
        ended.received,
        ended.transmitted,
        ended.endpoints,
    )


class Step(NamedTuple):
    """One reading, and what it has to bring about."""

    at: float
    text: str
    events: Sequence[str] = ()
    complaints: str = ""
    clock: float = 0.0  # how far the wall clock has been set
    restart: bool = False  # the monitor was started anew before, in the same boot, with its store


class Case(NamedTuple):
    name: str
    steps: Sequence[Step]
    settings: Settings = chosen()
    words: Callable[[Event], str] = told

    def __str__(self) -> str:
        return self.name


def play(case: Case, names: Mapping[str, Any]) -> List[List[str]]:
    """What the case's readings bring about, decided by the functions in `names`."""
    table = EMPTY
    memo: Optional[Memo] = None
    happened = []
    numbers: List[int] = []
    for step in case.steps:
        if step.restart:
            table, memo = table._replace(last=None, due=NEVER), None
        now = at(step.at, step.clock)
        reading, memo = read(step.text, step.complaints, table, memo, now.boot, case.settings)
        table, events = names["decide"](table, reading, now, case.settings)
        happened.append([case.words(event) for event in events])
        numbers += [e.peer.session.number for e in events if e.kind == "ONLINE" and e.peer and e.peer.session]
        judge(table, reading, now)
    assert numbers == list(range(1, len(numbers) + 1))
    return happened


def judge(table: Table, reading: Reading, now: Moment) -> None:
    """What a table says of itself."""
    assert table.last == now
    assert table.online == sum(known.session is not None for known in table.peers.values())
    if not (reading.spoiled or reading.unreadable):
        assert table.due > now.boot  # all that can have become old has been looked at


def ids(cases: Sequence[Any]) -> List[str]:
    """Names that read as sentences."""
    return [str(case[0]) for case in cases]


def identity(interface: str, name: str) -> Identity:
    return interface, key(name)
