"""Who was connected when: answers from what wg_monitor wrote. It reads, and writes nothing
but the file of `metrics --output`.

    store, trails  --read-->    History     what was recorded: sessions, gaps, and the time that was watched
    [Session]      --select-->  [Session]   those that a query asks for, one at a time, the oldest first
    [Session]      --add up-->  [Total]     of each peer, day, week or month
    any of them    --show-->    table, JSON, CSV, page

The daemon's module hands its commands over to this one, and this one takes its values and texts from there.

Trust boundary: what a store or a trail says may be hostile. It reaches a terminal, a spreadsheet, a browser or
Prometheus only through the functions of the section "Text".

Exit codes: 0 done, 1 failure or an unknown peer, 2 invalid usage, 3 a queried peer is offline, 4 not permitted,
5 `wg` is not installed.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import marshal
import math
import os
import re
import stat
import sys
import time
from array import array
from bisect import bisect_right
from collections import Counter, deque
from contextlib import closing, suppress
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache, partial, reduce
from heapq import heapify, heappop, heappush, merge
from html import escape
from itertools import chain, groupby, islice
from operator import attrgetter, itemgetter
from shutil import get_terminal_size
from typing import AbstractSet, Any, BinaryIO, Callable, Iterable, Iterator, Mapping, NamedTuple, Sequence, Tuple

import wg_monitor
from wg_monitor import DAY_S, EPOCH_MAX, EXIT_FAILURE, EXIT_NOT_PERMITTED, Refusal, counted, printable, reason_of

# --- Values -------------------------------------------------------------------------------------------------------
# All times are seconds since the epoch.

ENDED, ONLINE, UNKNOWN = "ended", "online", "unknown"  # the states of a session
FOREVER = float("inf")


# A session as it was recorded.
class Session(NamedTuple):
    gateway: str  # the name of the store that it comes from; "" = there is only one
    interface: str
    peer: str  # the whole public key; from a text trail as it stands there: AbC1dEf2...4xYz5678
    name: str  # the peer's name at the beginning; "" = none
    number: int | None  # None = a text trail does not say, like the other fields below
    start: float
    until: float  # ENDED: the last sign of life. ONLINE: the last reading. UNKNOWN: the last time that is certain
    state: str
    length: float  # seconds, without the steps of the wall clock
    endpoints: tuple[str, ...]  # in the order of use
    allowed_ips: str  # when it began, separated by commas
    received: int | None  # bytes that the peer sent: lower bounds
    sent: int | None
    unwatched: float  # seconds of it in which nobody watched
    reason: str  # why it ended; "" = it has not, or a text trail does not say


# Time in which nobody watched an interface, or any (None).
class Gap(NamedTuple):
    gateway: str
    interface: str | None
    start: float
    stop: float
    why: str  # stopped, stalled, failed, late, unreadable, replaced; "" = a trail does not say


class Period(NamedTuple):
    since: float = -FOREVER
    until: float = FOREVER


# What one source, a store or a set of trails, recorded.
class History(NamedTuple):
    gateway: str
    path: str
    watched: Period  # from the first time that somebody watched to the last reading
    gaps: Sequence[Gap]  # in it, in order
    sessions: Callable[[Period], Iterator[Session]]  # those that overlap a period, in the order of their beginnings
    notes: Sequence[str] = ()  # what a reader has to know about it, a sentence each
    live: bool = False  # whether somebody watches now


# --- Moments ------------------------------------------------------------------------------------------------------

AGO_S = {"w": 7 * DAY_S, "d": DAY_S, "h": 3600, "m": 60, "s": 1}
AGO = re.compile(r"(?:[0-9]{1,9}[wdhms] ?)+(?:ago)?")
EPOCH = re.compile(r"@([0-9]{1,12}(?:\.[0-9]{1,9})?)")
WHEN = re.compile(  # a day or a month, a time of day, an offset: 2026-11-01 14:00, tuesday, 14:00:30, 2026-11-01t13:00z
    r"(?:([a-z]+|[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?)(?:[ t](?=.)|$))?"
    r"(?:([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(\.[0-9]{1,9})?)?)?(z|[+-][0-9]{2}:?[0-9]{2})?"
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MOMENTS = """write it like one of these: 90m, 7d, now, today, yesterday, tuesday, 14:00, 2026-11, 2026-11-01,
    2026-11-01 14:00, 2026-11-01T14:00:00+01:00, @1793538000""".replace("\n   ", "")
EPOCH_BEGIN = datetime(1970, 1, 1, tzinfo=timezone.utc)


# Local time: of the machine, or of a zone by its name. Errors: Refusal.
class Zone:
    def __init__(self, name: str = "") -> None:
        self.info: Any = None
        if name:
            found, shown = "--timezone %s" % printable(name), printable(name)
            try:
                from zoneinfo import ZoneInfo

                self.info = ZoneInfo(name)
            except ImportError:
                raise Refusal(found, "needs Python 3.9 or newer", "set TZ=%s instead" % shown) from None
            except (KeyError, ValueError, OSError):
                remedy = "write it like Europe/Berlin or UTC; the package tzdata has the names"
                raise Refusal(found, "this machine knows no such zone", remedy) from None

    def local(self, wall: float) -> datetime:
        return datetime.fromtimestamp(min(max(wall, 0.0), EPOCH_MAX - DAY_S), self.info)

    def stamp(self, wall: float) -> str:
        return self.local(wall).isoformat(" ")[:19]

    def rfc3339(self, wall: float) -> str:
        return wg_monitor.rfc3339(wall) if self.info is None else self.local(wall).replace(microsecond=0).isoformat()

    def walls(self, local: datetime) -> tuple[float, ...]:
        """The two times at which the clock shows this. They differ around a clock change: the first is earlier if the
        clock shows it twice, and later if it skips it."""
        return tuple(local.replace(tzinfo=self.info, fold=fold).timestamp() for fold in (0, 1))

    def midnight(self, day: date) -> float:
        # When a day begins: where the clock skips its midnight, at the end of the skip.
        return self.walls(datetime(day.year, day.month, day.day))[0]


def iso(text: str) -> float:
    # A time with its offset: RFC 3339, or short-iso of journalctl. Errors: ValueError, TypeError.
    if text[-3:-2] != ":":  # Python 3.10 and older read no other offset
        text = text[:-1] + "+00:00" if text[-1:] == "Z" else text[:-2] + ":" + text[-2:]
    return (datetime.fromisoformat(text) - EPOCH_BEGIN).total_seconds()


def parse_moment(text: str, now: float, zone: Zone, end: bool = False) -> tuple[float, str]:
    """A moment as people write it, and a sentence about it if the clock shows it twice or never; otherwise "".

    A text may mean more than an instant: a day, a month, a time that the clock shows twice. Then its beginning counts,
    or with `end` its end: a period includes the days that it is named by. Errors: Refusal."""
    words = " ".join(text.lower().split())
    unknown = Refusal("'%s'" % printable(text), "it is no time", MOMENTS)
    epoch, when = EPOCH.fullmatch(words), WHEN.fullmatch(words)
    if words == "now":
        return now, ""
    if epoch:
        return min(float(epoch.group(1)), float(EPOCH_MAX)), ""
    if AGO.fullmatch(words):
        return max(0.0, now - seconds_in(words)), ""
    if not words or when is None:
        raise unknown
    named, hour, minute, second, fraction, offset = when.groups()
    try:
        first, after = named_days(named or "today", zone.local(now).date())
        if hour is None and offset is None:
            return zone.midnight(after if end else first), ""
        if hour is None or after - first != timedelta(1) or (offset and not named):
            raise unknown
        local, note = datetime(*first.timetuple()[:3], int(hour), int(minute), int(second or 0)), ""
        walls = zone.walls(local)
        wall = walls[end and walls[0] < walls[1]]  # what is skipped counts as if the clock had not been set forward
        if offset:
            wall = iso(local.isoformat() + offset.upper())
        elif walls[0] > walls[1]:
            note = "%s does not exist, since the clock was set forward: it is read as %s." % (local, zone.stamp(wall))
        elif walls[0] < walls[1]:
            texts = (local, zone.rfc3339(wall), zone.rfc3339(walls[not end]))
            note = "%s exists twice, since the clock was set back: it is read as %s, not as %s." % texts
    except (ValueError, OverflowError):  # there is no 31st of November
        raise unknown from None
    if not named and wall > now and not end:
        raise Refusal("'%s'" % words, "it is later than now", "write 'yesterday %s' for the last time" % words)
    return wall + float(fraction or 0), note


def seconds_in(text: str) -> int:
    # 1h 30m
    return sum(int(number) * AGO_S[unit] for number, unit in re.findall("([0-9]{1,9})([wdhms])", text))


def named_days(word: str, today: date) -> tuple[date, date]:
    """The first day of a day or a month, and the day after its last one. Errors: ValueError."""
    unit = "month" if word[0].isdigit() and len(word) == 7 else "day"
    if word[0].isdigit():
        first = date.fromisoformat(word + "-01" if unit == "month" else word)
        if not 1970 <= first.year < 9999:
            raise ValueError("a year that no monitor has seen")
    elif word in ("today", "yesterday"):
        first = today - timedelta(word == "yesterday")
    else:  # the last one that has begun
        names = [name for name in WEEKDAYS if word in (name, name[:3])]
        first = today - timedelta((today.weekday() - WEEKDAYS.index(names[0] if names else word)) % 7)
    return first, next_unit(first, unit)


# --- Sums ---------------------------------------------------------------------------------------------------------
# A session that reaches beyond a period counts with the part of its time that lies in it, as a part of its length.


# What the sessions of one peer amount to in a period; all peers together have no gateway, interface, peer and name.
class Total(NamedTuple):
    gateway: str
    interface: str
    peer: str
    name: str  # the last one
    sessions: int
    online_s: float  # in the period
    unwatched_s: float  # of these, seconds in which nobody watched
    share: float | None  # of the watched time of its interface, from 0 to 1; of all peers: of theirs in sum
    longest_s: float  # of the whole sessions
    median_s: float
    interruptions: int | None  # ends as `unreachable` after which the peer came back, with a session in the period;
    # None = some ends have no reason, or it was not asked for all sessions
    interruptions_per_hour: float | None  # online; None = not online for a second
    received_bytes: int | None  # of the whole sessions
    sent_bytes: int | None
    beyond: bool  # a session reaches beyond the period: some of its bytes may not belong to it
    addresses: int  # different ones that it came from


# Usage in a day, a week or a month.
class Usage(NamedTuple):
    unit: str  # 2026-11-01, 2026-W44, 2026-11
    start: float  # the part of it that lies in the period
    stop: float
    sessions: int  # open at some time in it
    peers: int
    online_s: float
    received_bytes: int | None  # those of a session spread evenly over its time
    sent_bytes: int | None
    estimated: bool  # a session reaches beyond it: bytes are spread
    unwatched_s: float  # seconds of it in which some interface was not watched


Who = Tuple[str, str, str]  # gateway, interface, peer
Stretch = Tuple[float, float]  # a beginning and an end
UNIT_NAMES = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}
UNITS_MAX = 40_000  # days of a century: a clock that began in 1970 does not take all memory


def watched(history: History, interface: str | None, period: Period) -> list[Stretch]:
    # When an interface was watched, in order; None = every interface.
    parts: list[Stretch] = []
    begin, end = max(history.watched.since, period.since), min(history.watched.until, period.until)
    for gap in history.gaps:
        if interface is None or gap.interface in (None, interface):
            if begin < min(gap.start, end):
                parts.append((begin, min(gap.start, end)))
            begin = max(begin, gap.stop)
    return parts + [(begin, end)] if begin < end else parts


def overlap(parts: Sequence[Stretch], since: float, until: float) -> float:
    near = parts[max(0, bisect_right(parts, (since, FOREVER)) - 1) : bisect_right(parts, (until, -FOREVER))]
    return sum((max(0.0, min(stop, until) - max(start, since)) for start, stop in near), 0.0)


def part_of(session: Session, since: float, until: float) -> float:
    """How much of a session lies between two times, from 0 to 1."""
    start, stop = session.start, session.until
    if start >= stop:  # a single handshake, or the wall clock was set back: it counts where it began
        return 1.0 if since <= start < until else 0.0
    return max(0.0, min(stop, until) - max(start, since)) / (stop - start)


def ranked(ordered: Sequence[Sequence[float]], rank: int) -> float:
    # The length at this place, from 1, of all in order, in milliseconds. Halving an interval takes no memory: one list
    # of a million lengths takes 32 MiB, and half a second to sort.
    low, high = -1.0, max(lengths[-1] for lengths in ordered)
    while high - low > max(1e-4, high * 1e-12):  # a hostile trail has sessions of any length
        middle = (low + high) / 2
        enough = sum(bisect_right(lengths, middle) for lengths in ordered) >= rank
        low, high = (low, middle) if enough else (middle, high)
    return round(high, 3)


def plus(count: int | None, more: int | None) -> int | None:
    # None = unknown: what is known counts.
    return more if count is None else count if more is None else count + more


# The sessions of one peer so far.
class Sum:
    def __init__(self) -> None:
        self.parts: Sequence[Stretch] = ()  # when its interface was watched in the period
        self.named = self.last = (0, "")  # numbers, with the last name and the last one's reason
        self.unreachable, self.unexplained = 0, False  # unexplained: an end has no reason, as in a text trail
        self.lengths, self.addresses = array("d"), set()  # type: Any, set[str]
        self.online = self.unwatched = 0.0
        self.received, self.sent, self.beyond = None, None, False  # type: int | None, int | None, bool

    def add(self, session: Session, since: float, until: float) -> None:
        # A million sessions in 5 s: it calls as little as it can.
        _, _, _, name, number, start, stop, state, length, endpoints, _, received, sent, unwatched, reason = session
        if name and (number or 0) >= self.named[0]:
            self.named = number or 0, name
        if (number or 0) >= self.last[0]:
            self.last = number or 0, reason
        self.lengths.append(length)
        if received is not None:
            self.received = received if self.received is None else self.received + received
        if sent is not None:
            self.sent = sent if self.sent is None else self.sent + sent
        if reason == "unreachable":
            self.unreachable += 1
        elif not reason and state == ENDED:
            self.unexplained = True
        for endpoint in endpoints:
            address = endpoint.rpartition(":")[0]
            if address not in self.addresses:
                self.addresses.add(sys.intern(address))  # thousands of peers come from the same ones
        if not since <= start <= stop < until:
            part = part_of(session, since, until)
            length *= part
            self.beyond |= part != 1
        self.online += length
        if unwatched:  # it has a part in a gap, which goes on after its end maybe
            begin, end = max(start, since), min(stop, until)
            self.unwatched += max(0.0, min(unwatched, end - begin - overlap(self.parts, begin, end)))


def total_of(who: tuple[str, str, str, str], sums: Sequence[Sum], period: Period) -> Total:
    ordered, online, unwatched = [s.lengths for s in sums], sum(s.online for s in sums), sum(s.unwatched for s in sums)
    count, breaks = sum(map(len, ordered)), None  # type: int, int | None
    if not any(s.unexplained for s in sums):
        breaks = sum(s.unreachable - (s.last[1] == "unreachable") for s in sums)
    middle = (ranked(ordered, (count + 1) // 2) + ranked(ordered, count // 2 + 1)) / 2 if count else 0.0
    watched_s = sum(overlap(s.parts, *period) for s in sums)
    return Total(
        *who, count, round(online, 3), round(unwatched, 3),
        min(1.0, max(0.0, online - unwatched) / watched_s) if watched_s else None,
        max((lengths[-1] for lengths in ordered), default=0.0), middle,
        breaks, breaks / online * 3600 if breaks is not None and online >= 1 else None,
        reduce(plus, (s.received for s in sums), None), reduce(plus, (s.sent for s in sums), None),
        any(s.beyond for s in sums), len(set().union(*(s.addresses for s in sums)) - {""}),
    )  # fmt: skip


def add_up(
    sessions: Iterable[Session], histories: Iterable[History], period: Period,
    begun: Iterable[tuple[Who, Sum]] = (), whole: bool = True,
) -> tuple[list[Total], Total]:  # fmt: skip
    """The total of each peer, and the one of all. `sessions`: those of a peer in order. `begun`: sums of others.
    `whole`: whether they are all of its sessions in the period; otherwise nobody knows whether a peer came back."""
    sums: dict[Who, Sum] = {}
    sources = {history.gateway: history for history in histories}
    parts: dict[tuple[str, str], list[Stretch]] = {}
    since, until = period

    def enter(who: Who, one: Sum) -> Sum:
        if who[:2] not in parts:
            parts[who[:2]] = watched(sources[who[0]], who[1], period)
        one.parts, sums[who] = parts[who[:2]], one
        return one

    for who, one in begun:
        enter(who, one)
    for session in sessions:
        (sums.get(session[:3]) or enter(session[:3], Sum())).add(session, since, until)
    for one in sums.values():
        one.lengths, one.unexplained = array("d", sorted(one.lengths)), one.unexplained or not whole
    totals = [total_of((*who, one.named[1]), [one], period) for who, one in sums.items()]
    return totals, total_of(("", "", "", ""), [*sums.values()], period)


def next_unit(first: date, unit: str) -> date:
    after = first + timedelta({"day": 1, "week": 7, "month": 31}[unit])
    return after.replace(day=1) if unit == "month" else after


# The sessions so far that were open in one unit.
class Bucket:
    def __init__(self, first: date, unit: str, zone: Zone) -> None:
        self.first, self.after = first, next_unit(first, unit)
        self.start, self.stop = zone.midnight(first), zone.midnight(self.after)
        self.sessions, self.online, self.estimated = 0, 0.0, False
        self.peers = 0  # a bit for each: a year of days of 10,000 peers takes half a megabyte
        self.received, self.sent = None, None  # type: int | None, int | None

    def add(self, session: Session, period: Period, peer: int) -> None:
        start, stop, shares = max(self.start, period.since), min(self.stop, period.until), (0.0, 1.0)
        if not start <= session.start <= session.until < stop:
            shares = part_of(session, -FOREVER, start), part_of(session, -FOREVER, stop)
        if shares[0] < shares[1] or start <= session.start < stop:
            self.sessions += 1
            self.peers |= peer
            self.online += session.length * (shares[1] - shares[0])
            self.received = plus(self.received, share_of(session.received, *shares))
            self.sent = plus(self.sent, share_of(session.sent, *shares))
            self.estimated |= shares[1] - shares[0] < 1 and session.received is not None


def share_of(count: int | None, before: float, after: float) -> int | None:
    # All shares of a count make up the count.
    if count is None:
        return None
    return (count if after == 1 else int(count * after)) - (count if before == 1 else int(count * before))


def add_up_by(
    unit: str, sessions: Iterable[Session], histories: Sequence[History], period: Period, zone: Zone
) -> Iterator[Usage]:
    """The usage in each day, week or month of a period, from the first time that somebody watched to the last. Sessions
    may come in any order. Errors: Refusal."""
    begins, ends = zip(*(history.watched for history in histories))
    seen = [history.watched for history in histories if history.watched.until > 0] or [Period(0.0, 0.0)]
    gaps = sorted((gap for history in histories for gap in history.gaps), key=lambda gap: gap.start)
    parts = watched(histories[0]._replace(watched=Period(max(begins), min(ends)), gaps=gaps), None, period)
    begin, end = min(period.since for period in seen), max(period.until for period in seen)
    buckets: dict[date, Bucket] = {}
    peers: dict[tuple[str, ...], int] = {}

    def units(since: float, until: float) -> Iterator[Bucket]:
        first = zone.local(since).date()
        first -= timedelta({"day": 0, "week": first.weekday(), "month": first.day - 1}[unit])  # ISO 8601: on Monday
        while True:
            bucket = buckets.get(first)
            if bucket is None:
                if len(buckets) >= UNITS_MAX or first.year >= 9999:
                    found, remedy = "--by %s" % unit, "choose a period with --since and --until"
                    raise Refusal(found, "there are more than %d of them" % UNITS_MAX, remedy)
                bucket = buckets[first] = Bucket(first, unit, zone)
            yield bucket
            if bucket.stop > until:
                return
            first = bucket.after

    for session in sessions:
        begin, end = min(begin, session.start), max(end, session.start, session.until)
        since = max(session.start, period.since)
        peer = 1 << peers.setdefault(session[:3], len(peers))
        for bucket in units(since, max(since, min(session.until, period.until))):
            bucket.add(session, period, peer)
    begin, end = max(begin, period.since), min(end, period.until)
    for b in units(begin, end) if begin < end else ():
        start, stop = max(begin, b.start), min(end, b.stop)
        if start < stop or b.sessions:  # there are days that a country has skipped
            sizes = (b.sessions, bin(b.peers).count("1"), round(b.online, 3), b.received, b.sent, b.estimated)
            unwatched = round(stop - start - overlap(parts, start, stop), 3)
            yield Usage._make((b.first.strftime(UNIT_NAMES[unit]), start, stop, *sizes, unwatched))


# --- Text ---------------------------------------------------------------------------------------------------------
# What comes from a store or a trail reaches a terminal, a spreadsheet or Prometheus only through these functions.

FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # a spreadsheet takes a cell that begins so for a formula
UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
GREEN_BOLD, YELLOW_BOLD, CYAN, DIM, RESET = "\x1b[32m\x1b[1m", "\x1b[33m\x1b[1m", "\x1b[36m", "\x1b[2m", "\x1b[0m"


def clean(text: str) -> str:
    # Like printable, but keys stay.
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def width_of(text: str) -> int:
    # The columns of a terminal that a text takes: two for wide characters, none for marks over the one before.
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    marks = [c for c in text if category(c) in ("Mn", "Me") or "\u1160" <= c <= "\u11ff"]
    return len(text) - len(marks) + sum(east_asian_width(c) in "WF" for c in text)


def fit(text: str, columns: int) -> str:
    # The beginning of a text that is too wide.
    end = len(text)
    while end and width_of(text[:end]) > columns - (end < len(text)):
        end -= 1
    return text if end == len(text) else text[:end] + "…"


def size_text(count: int | None) -> str:
    # Three digits: 1.2 GiB, 14.1 MiB, 310 MiB. What is not known stays empty.
    if count is None or count < 1024:
        return "" if count is None else "%d B" % count
    size, unit = count / 1024, 0
    while size >= 999.5 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return "%.*f %s" % (0 if size >= 99.95 else 1, size, UNITS[unit])


def length_text(seconds: float) -> str:
    return wg_monitor.duration(min(seconds, EPOCH_MAX))  # a hostile store says infinite


@lru_cache(maxsize=10_000)
def text_of(ips: str) -> str:
    # Allowed IPs as a line of the trail has them, without the brackets.
    return wg_monitor.ips_text(ips).partition(": ")[2][:-1]


def cell_of_csv(value: object) -> object:
    # A text that a spreadsheet would run gets the apostrophe that makes it a text.
    value = " ".join(value) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else value
    return "'" * value.startswith(FORMULA) + clean(value) if isinstance(value, str) else value


# Colours as `wg show` has them, and on the same conditions.
class Paint:
    def __init__(self) -> None:
        mode = os.environ.get("WG_COLOR_MODE", "auto")
        terminal = sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.on = mode == "always" or (mode != "never" and terminal)

    def __call__(self, text: str, colour: str) -> str:
        if not self.on or not colour:
            return text
        pattern = r"[KMGTP]i?B|[dhms]\b" if colour == CYAN else r"\S.*\S|\S"  # cyan is for units
        return re.sub(pattern, lambda match: colour + match.group() + RESET, text)


# --- Choosing -----------------------------------------------------------------------------------------------------

Key = Tuple[str, str]  # interface, public key
Change = Tuple[str, str, float, "str | None"]  # interface, public key, since when, allowed IPs; None = removed
Held = Mapping[Key, Sequence[Stretch]]  # when which peer held the tunnel address that is asked for


# Which sessions a query asks for, beside the period.
class Query(NamedTuple):
    keys: frozenset[str] | None = None  # None = of all peers
    names: frozenset[str] = frozenset()  # or of these names
    interfaces: frozenset[str] = frozenset()  # empty = all, like the next two
    reasons: frozenset[str] = frozenset()
    address: str = ""
    shortest: float = 0.0
    last: int = 0  # the newest ones; 0 = all


def chooser(query: Query, held: Held, period: Period, now: float) -> Callable[[Session], bool]:
    """Whether a session overlaps a period and a query asks for it. A period that is one moment includes it; any other
    does not include its end. A session that goes on does so up to `now`."""
    (since, until), address, every = period, query.address, query._replace(last=0) == Query()
    starts = ("[%s]" % address, "[%s%%" % address) if ":" in address else (address + ":",)

    def wanted(s: Session) -> bool:
        if s.start >= until and s.start != since:
            return False
        if s.until < since and s.start < since and (s.state != ONLINE or now < since):  # or the clock was set back
            return False
        if every:
            return True
        if query.keys is not None and s.peer not in query.keys and s.name not in query.names:
            return False
        if (query.interfaces and s.interface not in query.interfaces) or s.length < query.shortest:
            return False
        if query.reasons and s.reason not in query.reasons:
            return False
        if not address or any(endpoint.startswith(starts) for endpoint in s.endpoints):
            return True
        first, last = max(s.start, since), max(s.start, min(s.until, until))
        return any(start <= max(first, last) and first < stop for start, stop in held.get((s.interface, s.peer), ()))

    return wanted


def holders_of(address: str, changes: Iterable[Change]) -> dict[Key, list[Stretch]]:
    """When which peer held a tunnel address: the one with the longest prefix that contains it, on each interface."""
    from ipaddress import ip_address, ip_network

    wanted = ip_address(address)

    def longest(ips: str | None) -> int:
        found = [-1]
        for ip in (ips or "").split(","):
            with suppress(ValueError):  # what is no network holds no address
                network = ip_network(ip, strict=False)
                found += [network.prefixlen] * (network.version == wanted.version and wanted in network)
        return max(found)

    held: dict[Key, list[Stretch]] = {}
    for interface, changed in groupby(sorted(changes, key=itemgetter(0)), key=itemgetter(0)):
        prefixes: dict[str, int] = {}  # of the peers that have one
        away: dict[str, float | None] = {}  # since when a peer is removed; None = it is there
        holder, start = "", 0.0  # its key, since when
        for since, rows in groupby(changed, key=itemgetter(2)):  # all that one reading saw
            early: dict[str, float] = {}
            for _, key, _, ips in rows:
                prefixes.pop(key, None)
                prefix = longest(ips)
                if prefix >= 0:
                    prefixes[key] = prefix
                # A peer that appears may have been there before this reading, but not while it was removed.
                gone = away.get(key, -FOREVER)
                early[key] = since if gone is None else gone
                away[key] = since if ips is None else None
            now = max(prefixes, key=lambda key: (prefixes[key], key in early), default="")
            if now != holder:
                if holder:
                    held.setdefault((interface, holder), []).append((start, since))
                holder, start = now, early.get(now, since)
        if holder:
            held.setdefault((interface, holder), []).append((start, FOREVER))
    return held


def means(text: str, key: str) -> bool:
    # Whether a text is a key, the beginning of one, or a short one.
    first, _, last = text.partition("...")
    return first != "" and key.startswith(first) and key.endswith(last)


def one_key(text: str, keys: set[str]) -> set[str]:
    """Errors: Refusal, if a text is the beginning of several keys."""
    if len(keys) > 1:
        why = "it means %d peers, among them %s" % (len(keys), clean(" and ".join(sorted(keys)[:2])))
        raise Refusal("--peer %s" % clean(text[:100]), why, "write more of the key")
    return keys


def keys_meant(text: str, pairs: Sequence[tuple[str, str]]) -> set[str]:
    """What a text means of these keys and names. A name comes first. Errors: Refusal."""
    named = {key for key, name in pairs if name == text}
    return named or one_key(text, {key for key, _ in pairs if means(text, key)})


def known(text: str, keys: set[str]) -> set[str]:
    """Errors: Refusal, if a text means no peer."""
    if not keys:
        why, remedy = "no peer has this name or key", "'wg-monitor sessions --summary' lists them"
        raise Refusal("--peer %s" % clean(text[:100]), why, remedy, EXIT_FAILURE)
    return keys


# --- Reading a store ----------------------------------------------------------------------------------------------

STORES = wg_monitor.STATE_DIRECTORY
BATCH = 5000  # sessions that are read at once
BEGINNING = attrgetter("start")
# What schemas 1 and 2 lack of schema 3. Every event of a peer shows its allowed IPs.
OLDER = """
    CREATE TEMP VIEW monitor AS SELECT *, '' AS id, 0 AS stamp FROM main.monitor;
    CREATE TEMP VIEW peers AS SELECT *, '' AS name, NULL AS ended, NULL AS ended_wall FROM main.peers;
    CREATE TEMP VIEW sessions AS SELECT *, '' AS name FROM main.sessions;
    CREATE TEMP VIEW runs AS SELECT 0 AS number, 0.0 AS start, 0 AS interval, 0 AS threshold, '' AS liveness,
        '' AS interfaces WHERE 0;
    CREATE TEMP VIEW unwatched AS SELECT 0.0 AS start, 0.0 AS stop, '' AS interface, '' AS why WHERE 0;
    CREATE TEMP VIEW allowed_ips AS SELECT seq AS number, interface, public_key, wall AS since,
        CASE WHEN kind <> 'REMOVED' THEN allowed_ips END AS ips FROM main.events WHERE public_key IS NOT NULL"""
FIRSTS = """SELECT (SELECT min(seq) FROM events), (SELECT min(wall) FROM events), (SELECT min(start) FROM runs),
    (SELECT min(start) FROM sessions)"""
SESSIONS = """SELECT interface, public_key, name, number, start, last_seen, length, endpoints, received, sent,
    unwatched, reason FROM sessions
    WHERE start <= ? AND (last_seen IS NULL OR max(start, last_seen) >= ?) AND number > ? AND number < ?"""


# For sums: SQLite adds up a million sessions in half the time. A place for the numbers of those that were open before,
# which may end meanwhile. The cross join keeps SQLite from holding all lists of lengths at once.
MOST = wg_monitor.COUNTER_MAX >> 20  # so that the sum of a million of them fits
WHOLE = f"""start >= max(0, ?) AND start <= last_seen AND last_seen < ? AND unwatched = 0 AND reason IS NOT NULL
    AND length BETWEEN 0 AND {EPOCH_MAX} AND received BETWEEN 0 AND {MOST} AND sent BETWEEN 0 AND {MOST}
    AND number NOT IN (%s)"""
SUMS = """SELECT b.interface, b.public_key, named, n.name, last, l.reason, lengths, ends, b.received, b.sent,
    unreachable FROM (SELECT interface, public_key, max(CASE WHEN name <> '' THEN number END) AS named,
        max(number) AS last, group_concat(length, ' ') AS lengths, group_concat(endpoints, ' ') AS ends,
        sum(received) AS received, sum(sent) AS sent, sum(reason = 'unreachable') AS unreachable
        FROM sessions WHERE %s GROUP BY public_key, interface) AS b
    CROSS JOIN sessions AS l ON l.number = last LEFT JOIN sessions AS n ON n.number = named"""


def excluded(gateway: str, known: Iterable[str], scope: str, run: Period) -> list[Gap]:
    # The interfaces that a run did not watch, since INTERFACE names others.
    names = set(known).difference(scope.split(",")) if scope and run.since < run.until else ()
    return [Gap(gateway, name, *run, "excluded") for name in sorted(names)]


def strangers(names: Iterable[str]) -> list[str]:
    return ["No peer of %s was ever recorded." % printable(name) for name in sorted(names)]


# A database that somebody else writes. It is opened for each question anew, so that no transaction stays open while
# the output blocks. Nothing is written, not even by a lock of ours or a checkpoint. Errors: Refusal, OSError.
class Store:
    def __init__(self, gateway: str, path: str) -> None:
        self.gateway, self.path, self.version = gateway, os.path.realpath(path), 0  # its log lies beside the real one
        self.monitor = wg_monitor.use_of(self.path + ".lock") != ""  # whether one runs
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise self.refusal("is no store", "it is not a regular file")
        except FileNotFoundError:
            remedy = "start the monitor with STATE_PATH, or name another file"
            raise self.refusal("does not exist", "no monitor has written it", remedy) from None
        if not os.access(self.path, os.R_OK):
            raise PermissionError(errno.EACCES, "", self.path)
        self.version = int(self.ask("PRAGMA user_version")[0][0])
        tables = {name for (name,) in self.ask("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables >= wg_monitor.TABLES or self.version < 1:
            raise self.refusal("is no store", "it is a database of another program")
        if self.version > wg_monitor.SCHEMA:
            why = "it has schema %d, this one knows %d" % (self.version, wg_monitor.SCHEMA)
            raise self.refusal("was written by a newer wg_monitor", why, "install that version")
        self.read(self.load)

    def load(self, database: Any) -> None:
        # What the store says about the present. `last`, `boot`: the last reading, on both clocks.
        note: dict[str, str] = {}  # from the small file, before the database: if they differ, the database is newer
        with suppress(OSError), wg_monitor.open_names(self.path + ".last") as file:
            note = dict(pair.partition("=")[::2] for pair in file.read(wg_monitor.NOTE_SIZE).split())

        def ask(kinds: str, statement: str) -> list[Any]:
            # SQLite's columns hold any type. `kinds`: text, int or real for each, with a `?` if it may be NULL.
            expected = [(wg_monitor.KINDS[k.rstrip("?")], type(None) if "?" in k else ()) for k in kinds.split()]
            found = database.execute(statement).fetchall()
            if not all(all(map(isinstance, row, expected)) for row in found):
                raise ValueError("a row has a foreign shape")
            return list(found)

        saved = ask("real real text text text", "SELECT wall, boot, boot_id, id, '' || stamp FROM monitor")
        wall, boot, *save = saved[0] if saved else (0.0, 0.0, "", "", "")
        if save[1] and [note.get(name) for name in ("boot_id", "id", "stamp")] == save:
            wall, boot = note.get("wall", ""), note.get("boot", "")
        self.last, self.boot, self.boot_id = float(wall), float(boot), str(save[0])
        if not 0 <= self.last <= EPOCH_MAX:
            raise ValueError("the last reading has an impossible time")
        named = ask("text text text", "SELECT interface, public_key, name FROM peers")
        counts = [int(note[name]) for name in wg_monitor.Note._fields[7:] if note.get(name, "").isdigit()]
        self.counts = counts if len(counts) == len(wg_monitor.Note._fields[7:]) else []  # of the run; empty = unknown
        self.names: dict[Key, str] = {row[:2]: row[2] for row in named}
        self.newest = ask("int?", "SELECT max(number) FROM sessions")[0][0] or 0  # the last session's number
        statement = """SELECT number, began, past_rx, rx, received_before, past_tx, tx, sent_before
            FROM peers JOIN sessions ON number = peers.session AND reason IS NULL"""
        self.open = {row[0]: row[1:] for row in ask("int real int int int int int int", statement)}
        statement = "SELECT interface, public_key, since, ips FROM allowed_ips ORDER BY number"
        self.changes = ask("text text real text?", statement)
        statement = "SELECT interface, start, stop, why FROM unwatched WHERE stop > start"
        self.gaps = [Gap(self.gateway, *gap) for gap in ask("text? real real text", statement)]
        statement = "SELECT start, interval, threshold, liveness, interfaces FROM runs ORDER BY number"
        runs = ask("real int int text text", statement)
        self.rule = runs[-1][1:] if runs else None  # None = an old store does not say
        self.interfaces = {change[0] for change in self.changes}  # those that ever had a peer
        for run, stop in zip(runs, [*(run[0] for run in runs[1:]), self.last]):
            self.gaps += excluded(self.gateway, self.interfaces, run[4], Period(run[0], stop))
        # Interfaces that the monitor cannot read now: since when.
        self.patience = 2 * self.rule[0] + 1 if self.rule else FOREVER  # the longest time between two readings
        walls = ask("text real", "SELECT name, wall FROM interfaces WHERE up")
        scope, late = self.rule[3] if self.rule else "", saved[0][0] - self.patience if saved else -FOREVER
        self.unread = {name: at for name, at in walls if at < late and name in (scope or name).split(",")}
        self.gaps += [Gap(self.gateway, name, at, self.last, "unreadable") for name, at in self.unread.items()]
        self.gaps.sort(key=BEGINNING)
        # The first time that somebody watched: the first run, or what pruning has left. Sessions may have begun before.
        number, event, run, session = ask("int? real? real? real?", FIRSTS)[0]
        begins = [event, run if number in (1, None) else None]
        begins = [begin for begin in begins if begin is not None] or [session or self.last]
        self.since = min(*begins, self.last)

    def refusal(self, what: str, why: str, remedy: str = "name a store, such as %s/state.db" % STORES) -> Refusal:
        return Refusal("%s %s" % (printable(self.path), what), why, remedy, EXIT_FAILURE)

    def ask(self, statement: str, values: Sequence[Any] = (), make: Callable[[Any], Any] = tuple) -> list[Any]:
        return list(self.read(lambda database: list(map(make, database.execute(statement, values)))))

    def read(self, work: Callable[[Any], Any]) -> Any:
        """What `work` reads from the database, in one transaction."""
        import sqlite3
        from urllib.parse import quote

        while True:
            state = self.state()
            # SQLite leaves files beside a store that nobody has open, unless it knows that nobody changes it.
            mode = "mode=ro" if state is None else "mode=ro&immutable=1"
            uri = "file:%s?%s" % (quote(os.fsencode(self.path)), mode)
            try:
                with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
                    database.executescript("PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY")
                    database.executescript(OLDER if 0 < self.version < 3 else "")
                    database.execute("BEGIN")
                    found = work(database)
            except (sqlite3.Error, wg_monitor.StoreFault, ArithmeticError, TypeError, ValueError) as error:
                remedy = "--from-log reads trails" if "not a database" in str(error) else "a backup may help"
                raise self.refusal("cannot be read", reason_of(error), remedy) from None
            if state is None or state == self.state():
                return found  # otherwise a monitor has begun to write to it

    def state(self) -> tuple[int, ...] | None:
        # What changes if somebody writes to a store that nobody has open; None = somebody may have it open.
        if self.monitor or os.path.lexists(self.path + "-wal"):
            return None
        status = os.stat(self.path)
        return status.st_ino, status.st_size, status.st_mtime_ns

    def history(self, query: Query, now: float) -> History:
        gaps = [gap for gap in self.gaps if not query.interfaces or gap.interface in (None, *query.interfaces)]
        old = "%s is of an older version, which did not record when nobody watched." % printable(self.path)
        notes = strangers(query.interfaces - self.interfaces) + [old] * (self.version < 3)
        sessions, live = partial(self.sessions, query, now), self.is_watching(now)
        return History(self.gateway, self.path, Period(self.since, self.last), gaps, sessions, notes, live)

    def named(self) -> Iterator[tuple[str, str, str]]:
        # Gateway, interface and name of each peer that has a name now.
        return ((self.gateway, interface, name) for (interface, _), name in self.names.items() if name)

    def is_watching(self, now: float) -> bool:
        # A monitor that runs may be blind.
        return self.monitor and now - self.last <= self.patience

    def apart(self, query: Query, now: float, period: Period) -> tuple[list[tuple[Who, Sum]], Iterator[Session]]:
        """What a query asks for: the sums of the sessions that SQLite can add up, and the other sessions."""
        if query != Query(interfaces=query.interfaces):
            return [], self.sessions(query, now, period)
        still = self.ask("SELECT number FROM sessions WHERE reason IS NULL", (), lambda row: "%d" % row)
        whole = WHOLE % ",".join(still)
        sums = self.ask(SUMS % whole, period, self.sum_of)
        others = self.sessions(query, now, period, " AND (%s) IS NOT 1" % whole, period)
        return [(who, one) for who, one in sums if not query.interfaces or who[1] in query.interfaces], others

    def sum_of(self, row: Any) -> tuple[Who, Sum]:
        # What SQLite has added up: ended sessions that lie wholly in a period and were watched all the time.
        interface, key, named, name, last, reason, lengths, ends, *counts = row
        "".join((interface, key, name or "", reason))  # TypeError: a foreign type
        one = Sum()
        one.named, one.last = (named or 0, name or ""), (last, reason)
        one.lengths = array("d", map(float, lengths.split()))
        one.online = math.fsum(one.lengths)
        one.addresses = {sys.intern(wg_monitor.address(end)) for end in frozenset(ends.split())}
        one.received, one.sent, one.unreachable = counts
        return (self.gateway, interface, key), one

    def sessions(
        self, query: Query, now: float, period: Period, condition: str = "", values: Sequence[Any] = ()
    ) -> Iterator[Session]:
        """Those that a query asks for and that overlap a period, in the order of their beginnings. `condition`: in SQL,
        with `values`."""
        held = holders_of(query.address, self.changes) if query.address else {}
        wanted, convert = chooser(query, held, period, now), self.converter(now)
        statement, values = SESSIONS + condition, [*values]
        # SQLite decides on some of it, and may let more pass than asked for.
        if query.keys is not None:  # the plus: the order of the numbers matters more than the index of the keys
            places = ", ".join("?" * len(query.keys)), ", ".join("?" * len(query.names))
            statement += " AND (+public_key IN (%s) OR name IN (%s))" % places
            values += [*query.keys, *query.names]
        if query.address:
            holders = {key for _, key in held}
            statement += " AND (instr(endpoints, ?) OR +public_key IN (%s))" % ", ".join("?" * len(holders))
            values += [query.address, *holders]
        statement += " ORDER BY number%s LIMIT %d" % (" DESC" if query.last else "", BATCH)
        # The numbers have the order of the beginnings, but for sessions that began between the same readings.
        kept: list[Session] = []
        after, before, more = -1, self.newest + 1, True  # whether younger ones go on is unknown
        while more:
            batch = self.ask(statement, [period.until, period.since, after, before, *values], convert)
            kept += filter(wanted, batch)
            kept.sort(key=BEGINNING)
            more = len(batch) == BATCH and not len(kept) >= query.last > 0
            if batch:
                after, before = (after, batch[-1].number) if query.last else (batch[-1].number, before)
            ready = kept if not more else [] if query.last else kept[:-BATCH]
            yield from ready
            del kept[: len(ready)]

    def find(self, text: str) -> set[str]:
        """The keys of the peers that a text means: a name, a key, the beginning of a key, or a short key."""
        now = [(key, name) for (_, key), name in self.names.items()]
        named = {key for key, name in now if name == text}
        if named:  # who had the name before does not matter, and takes a look at every session
            return named
        text = text.encode("utf-8", "replace").decode()  # SQLite takes no half of a character
        first = text.partition("...")[0]
        statement = "SELECT DISTINCT public_key, name FROM sessions WHERE name = ? OR public_key BETWEEN ? AND ?"
        former = [*self.ask(statement, [text, first, first + "~"]), *((change[1], "") for change in self.changes)]
        return keys_meant(text, now + former)

    def converter(self, now: float) -> Callable[[Any], Session]:
        # Makes a session of a row.
        gateway, now_open = self.gateway, (ONLINE, "") if self.is_watching(now) else (UNKNOWN, "unknown")
        ips: dict[Key, list[tuple[float, str | None]]] = {}
        for interface, key, since, networks in self.changes:
            ips.setdefault((interface, key), []).append((since, networks))

        def convert(row: Any) -> Session:
            interface, key, name, number, start, until, length, endpoints, received, sent, unwatched, reason = row
            state = ENDED
            if reason is None:
                state, reason, until, length = UNKNOWN, "unknown", start, 0.0
                if number in self.open:
                    began, *counts = self.open[number]
                    received, sent = counted_since(*counts[:3]), counted_since(*counts[3:])
                    until = self.unread.get(interface, self.last)
                    state, reason = now_open if until == self.last else (UNKNOWN, "unknown")
                    length = max(0.0, self.boot - began - (self.last - until))
            "".join((interface, key, name, endpoints, reason))  # TypeError: a foreign type
            if not (0 <= start <= EPOCH_MAX and 0 <= until <= EPOCH_MAX and 0 <= length <= EPOCH_MAX):
                raise ValueError("session %d has an impossible time" % number)
            if not (0 <= unwatched <= EPOCH_MAX and 0 <= (received or 0) + (sent or 0) <= 2 * wg_monitor.COUNTER_MAX):
                raise ValueError("session %d has an impossible count" % number)
            allowed: str | None = None
            for since, networks in ips.get((interface, key), ()):  # it may connect before a reading shows it
                allowed = networks if since <= start or allowed is None else allowed
            return tuple.__new__(Session, (  # a third faster than by its name
                gateway, interface, key, name, number, start, until, state, length, tuple(endpoints.split()),
                allowed or "", received, sent, unwatched, reason,
            ))  # fmt: skip

        return convert


def counted_since(past: int, count: int, before: int) -> int:
    # Bytes of an open session: SQLite could not add them without an overflow.
    return min(max(0, past + count - before), wg_monitor.COUNTER_MAX)


# --- Trails -------------------------------------------------------------------------------------------------------
# One pass over all files. What no line says stays open: it is never guessed.
#
#     files  --Reader-->     facts     what the lines say, the same for text, JSON and the journal
#     facts  --in_order-->   facts     in the order of their times, whatever the order of the files
#     facts  --Rebuilder-->  sessions  on a Shelf, which sorts more of them than memory holds

LINE_MAX = 256 << 10  # bytes; a JSON line with 4,000 networks is shorter
XZ_MEMORY = 80 << 20  # bytes: `xz -9` needs 65 MiB, and a hostile header may ask for 4 GiB
PEERS_MAX = 250_000  # keys that are followed at once, half a KiB each
KEPT_MAX = 100_000  # gaps, and changes of allowed IPs
TWINS_MAX, INTERFACES_MAX = 16, 1000  # peers that show the same key, and interfaces that are down or unreadable
IPS_MAX = 2048  # characters of a session's allowed IPs
RUN, CHUNK = 8_000, 500  # sessions that memory sorts, and those that a temporary file gives back at once
SAME_S = 5  # a line's time in the journal is so much later than in the trail; no monitor starts twice in that time

STAMP = re.compile("[0-9-]{10} [0-9]{2}:[0-9:]{5} ")
EVENT_LINE = re.compile(
    r"(?:([0-9-]{10} [0-9]{2}:[0-9:]{5}) )?(?:\[WARN\] )?(ONLINE|OFFLINE|ROAMING|CHANGED|REMOVED) +"
    r"\[([a-zA-Z0-9_=+.-]{1,15})\] (?:([^ ]{1,64}) )?([A-Za-z0-9+/]{8}\.\.\.[A-Za-z0-9+/]{7}=)"
    r"(?: \((?:N/A|\(none\)|([^ ()]{1,80}))\))?(?: \[IPs?: ([^\]]{0,1024})\])?( new)?"
    r"(?: \(handshake: (Never|(?:[0-9-]{10} )?[0-9]{2}:[0-9:]{5})\)| from (.+))?\Z"
)
MESSAGE = re.compile(
    r"\[([A-Z]+)\] |Monitor (start|stop)|(IFUP|IFDOWN) +\[([a-zA-Z0-9_=+.-]{1,15})\]|Received signal |Statistics "
)
NEW_OFFSET = re.compile(r"\[WARN\] Local time is now UTC([+-][0-9]{2}:[0-9]{2})")
GAP = re.compile(r"\[WARN\] Not watching from ([0-9-]{10} [0-9]{2}:[0-9:]{5}) to ([0-9-]{10} [0-9]{2}:[0-9:]{5})\Z")
SHORT_ISO = re.compile(  # journalctl's: 2026-11-23T20:15:30+0100 host wg-monitor[7]: ...
    r"([0-9-]{10}T[0-9:]{8}(?:Z|[+-][0-9]{2}:?[0-9]{2})) [^ ]+ ([^ :\[]+)(?:\[[0-9]+\])?: "
)
FAULT = re.compile(
    r"(?:(Readings are )(?:more than two intervals apart|on time again)|No reading: |Readings (?:resumed|again)"
    r"|\[([a-zA-Z0-9_=+.-]{1,15})\] can(?:not be read: | be read again))(?: after ([0-9dhms ]+)\Z)?"
)
CLOCK_SET = re.compile("The wall clock was set (forward|back) by ([0-9dhms ]+)")
SECONDS = {"%02d:%02d" % divmod(second, 60): second for second in range(3600)}  # of an hour
KINDS_OF_PEERS = frozenset(wg_monitor.EVENT_KINDS) - {"IFUP", "IFDOWN"}
DECODE = json.JSONDecoder().raw_decode

REMARKS = {  # what a reader has to know about the answers
    "skipped": "Lines that do not parse and do not count: %s",
    "beginnings": "Sessions that began before the trails say so, shown from the first certain time: %d.",
    "handshakes": "Sessions of these trails that may have lasted longer, since text lines show handshakes only: %d.",
    "unclear": "Several keys look like %s: some of their lines cannot be told apart.",
    "missing": "Times that do not exist in this time zone: %d. Is --timezone right?",
    "strange": "The trails announce %s, which this time zone does not have then: is --timezone right?",
    "ends": "Sessions whose ends are not known, since there are more than %d keys at once: %%d." % PEERS_MAX,
    "gaps": "Gaps beyond the first %d, which are missing: %%d." % KEPT_MAX,
    "changes": "Changes of allowed IPs beyond the first %d, which are missing: %%d." % KEPT_MAX,
}


# What a line says.
class Fact(NamedTuple):
    at: float
    kind: str  # an event, START, STOP, or a level
    about: str  # the interface, or a message
    key: str = ""  # of a peer, short or whole, like all that follows
    name: str = ""
    endpoint: str = ""
    ips: str | None = None  # as a text line shows them, or all; None = it does not say
    new: bool = False
    handshake: float | None = None  # None = never
    before: str = ""  # the former endpoint or allowed IPs
    number: int | None = None  # of its session
    # Of a session's end: start, end, length, received, sent, unwatched, reason. Of a gap: its start and its end.
    figures: Sequence[Any] = ()


def whole_ips(shown: str) -> str:
    # From a text line to what `wg` prints: 10.0.0.1/32,10.1.0.0/24.
    found = [ip for ip in shown.split(", ") if ip != "N/A" and not ip.endswith(" more")]
    return ",".join(ip if "/" in ip else ip + ("/128" if ":" in ip else "/32") for ip in found)


@lru_cache(maxsize=100_000)
def is_peer(interface: str, key: str) -> bool:
    return bool(wg_monitor.INTERFACE_NAME.fullmatch(interface) and wg_monitor.PUBLIC_KEY.fullmatch(key))


class Calendar:
    """From local times to seconds since the epoch. Where a line announces another offset than the zone has, the
    announced one counts until the next announcement. A repeated hour is read so that time goes on."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.offset = ""  # as announced, if the zone does not have it
        self.hour = lru_cache(maxsize=10_000)(self.certain)
        self.last = -FOREVER
        self.missing, self.strange = 0, ""  # times that do not exist in this zone, and an offset that it never has

    def time(self, stamp: str, until: float | None = None) -> float:
        """`stamp`: 2026-11-23 20:15:30. `until`: the time of the line, if it is not the line's own.

        Errors: ValueError, KeyError, OverflowError, OSError."""
        start = self.hour(stamp[:13])
        if start is None:
            start = self.doubtful(stamp[:13], int(stamp[14:16]), until)
        at = start + SECONDS[stamp[14:]]
        if until is None:
            self.last = at
        return at

    def certain(self, text: str) -> float | None:
        # When an hour began; None = in doubt.
        if self.offset:
            return iso(text + ":00:00" + self.offset)
        starts = {start for minute in (0, 59) for start in self.starts(text, minute)}
        return starts.pop() if len(starts) == 1 else None

    def starts(self, text: str, minute: int) -> tuple[float, ...]:
        # When the hour of a local time began, by both meanings of it.
        walls = self.zone.walls(datetime.fromisoformat("%s:%02d" % (text, minute)))
        return tuple(wall - 60 * minute for wall in walls)

    def doubtful(self, text: str, minute: int, until: float | None) -> float:
        # The same, as far as this minute of it is concerned.
        first, second = self.starts(text, minute)
        if first < second:  # the clock was set back: it shows this minute twice
            if until is None:
                later = first + 60 * minute + 60 <= self.last <= second + 7200
            else:
                later = second + 60 * minute <= until
            return second if later else first
        self.missing += first > second and until is None
        return first

    def announce(self, stamp: str, offset: str) -> float:
        """The time of a line that announces an offset."""
        self.last = iso(stamp + offset)
        self.offset = "" if self.zone.rfc3339(self.last).endswith(offset) else offset
        self.strange = "UTC" + offset if self.offset else self.strange
        self.hour.cache_clear()
        return self.last


Source = Tuple[float, Iterator[Any]]  # when it begins, and tuples in order, which begin with their time


def in_order(sources: Iterable[Source]) -> Iterator[Any]:
    """The tuples of all sources in order. A source begins when its turn comes: of those that only follow each other,
    one at a time."""
    heap = [(first, number, [], source) for number, (first, source) in enumerate(sources)]  # type: list[Any]
    heapify(heap)
    while heap:
        _, number, held, source = heappop(heap)
        yield from held
        limit = heap[0][0] if heap else FOREVER
        for item in source:
            if item[0] >= limit:
                heappush(heap, (item[0], number, [item], source))
                break
            yield item


# Files


class Meter:
    """A progress bar, on a terminal only, for what takes longer than a second."""

    def __init__(self, paths: Iterable[str]) -> None:
        shown = sys.stderr.isatty()
        self.sizes = {path: os.path.getsize(path) for path in paths if shown and os.path.isfile(path)}
        self.done: dict[str, int] = {}
        self.next = time.monotonic() + 1
        self.visible = False

    def show(self, path: str, file: BinaryIO) -> None:
        if path in self.sizes:
            self.done[path] = file.tell()
            if time.monotonic() >= self.next:
                share = min(1.0, sum(self.done.values()) / max(1, sum(self.sizes.values())))
                sys.stderr.write("\rReading [%-40s] %3d%%" % ("#" * int(40 * share), 100 * share))
                sys.stderr.flush()
                self.next, self.visible = time.monotonic() + 0.2, True

    def hide(self) -> None:
        if self.visible:
            sys.stderr.write("\r\033[K")
        self.visible = False


def inflate(file: BinaryIO, make: Callable[[], Any], damage: type[Exception]) -> Iterator[bytes]:
    # An archive's content, a block at a time, whatever size it has. Errors: EOFError, OSError.
    decoder, data = make(), file.read(wg_monitor.BLOCK)
    while True:
        try:
            text = decoder.decompress(data, wg_monitor.BLOCK)
        except damage as error:
            raise OSError(str(error)) from None
        if text:
            yield text
        if decoder.eof:  # another archive may follow
            data = decoder.unused_data.lstrip(b"\0") or file.read(wg_monitor.BLOCK)
            if not data:
                return
            decoder = make()
        else:
            data = getattr(decoder, "unconsumed_tail", b"")  # zlib's; the others keep it
            if not data and len(text) < wg_monitor.BLOCK:
                data = file.read(wg_monitor.BLOCK)
                if not data:
                    raise EOFError("it is cut short")


def content_of(file: Any) -> Iterator[bytes]:
    # The first bytes say what it is, not the name.
    magic = file.peek(6)[:6]
    if magic[:2] == b"\x1f\x8b":
        import zlib

        return inflate(file, lambda: zlib.decompressobj(31), zlib.error)
    if magic == b"\xfd7zXZ\0":
        import lzma

        return inflate(file, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY), lzma.LZMAError)
    if magic == b"SQLite":
        raise Refusal("--from-log", "a store is no trail", "name it with --store")
    if magic[:3] == b"BZh":
        import bz2

        return inflate(file, bz2.BZ2Decompressor, ValueError)
    return iter(lambda: file.read1(wg_monitor.BLOCK), b"")


class Reader:
    """Reads files as facts. It reports what is wrong with one, and goes on; without a meter, it reports nothing."""

    def __init__(self, zone: Zone, meter: Meter | None = None, verbose: bool = False) -> None:
        self.calendar, self.meter, self.verbose = Calendar(zone), meter, verbose
        self.skipped = 0  # lines that do not parse

    def report(self, text: str) -> None:
        if self.meter is not None:
            self.meter.hide()
            print("wg_monitor: " + text, file=sys.stderr)

    def source(self, path: str) -> Source:
        """A file as `in_order` takes it. Errors: Refusal."""
        regular = os.path.isfile(path)  # it is opened again when its turn comes: there may be thousands
        facts = (Reader(self.calendar.zone) if regular else self).facts(path)
        head = list(islice(facts, 1))
        return (head[0].at if head else -FOREVER), (self.facts(path) if regular else chain(head, facts))

    def facts(self, path: str) -> Iterator[Fact]:
        try:
            file = open(0, "rb", closefd=False) if path == "-" else open(path, "rb")
        except OSError as error:
            code = EXIT_NOT_PERMITTED if isinstance(error, PermissionError) else EXIT_FAILURE
            remedy = "name files that you may read, or - for standard input"
            raise Refusal("%s cannot be read" % printable(path), reason_of(error), remedy, code) from None
        number, read = 0, 0
        with file:
            for number, line in enumerate(chain.from_iterable(self.lines(path, file)), 1):
                try:
                    fact = self.fact(line)
                except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError):
                    self.skipped += 1
                    if self.verbose:
                        self.report("%s, line %d does not parse: %s" % (printable(path), number, printable(line)))
                    continue
                if fact is not None:
                    read, last = read + 1, self.calendar.last
                    yield fact
                    self.calendar.last = last  # not that of a later line in another file
        if number and not read:
            self.report("%s is no trail: none of its lines counts" % printable(path))

    def lines(self, path: str, file: BinaryIO) -> Iterator[list[str]]:
        # All whole lines of a block at once. A line that is too long becomes one that does not parse.
        rest = b""
        try:
            for data in content_of(file):
                if self.meter is not None:
                    self.meter.show(path, file)
                data = rest + data
                end = data.rfind(b"\n") + 1
                rest = data[end:]
                if len(rest) > LINE_MAX:
                    rest = b"(a line of more than %d bytes)" % LINE_MAX
                if end:
                    text = data[: end - 1].decode("utf-8", "replace")
                    yield (text.replace("\r\n", "\n") if "\r" in text else text).split("\n")
        except (EOFError, OSError) as error:
            self.report("%s is damaged: %s. What comes before that counts" % (printable(path), reason_of(error)))
        if rest:
            self.report("%s ends in the middle of a line, which does not count" % printable(path))

    # What a line says; None = nothing. Errors: those that `facts` catches, if it does not parse.

    def fact(self, line: str, at: float | None = None) -> Fact | None:
        # `at`: the journal's time of a line that has none.
        if line[:1] == "{":
            fields, end = DECODE(line)
            if end < len(line):
                raise ValueError("more follows it")
            return self.json_line(fields)
        match = EVENT_LINE.match(line)
        if match is not None:
            return self.event(match, at)
        if STAMP.match(line) is not None:
            return self.message(line[20:], line[:19])
        if at is not None:
            return self.message(line, "", at)
        match = SHORT_ISO.match(line)
        if match is not None:
            return self.journal(iso(match.group(1)), match.group(2), line[match.end() :])
        if line and not line.startswith("-- "):  # journalctl's own
            raise ValueError("it is no line of a trail")
        return None

    def journal(self, at: float, program: str, text: str) -> Fact | None:
        # systemd reports on the service as well.
        return None if program == "systemd" else self.fact(text, at)

    def message(self, text: str, stamp: str, at: float | None = None) -> Fact:
        # `stamp`: its local time; "" = nobody knows. `at`: its time, if the calendar need not be asked.
        match, offset, gap = MESSAGE.match(text), NEW_OFFSET.match(text), GAP.match(text)
        if match is None:
            raise ValueError("it is no line of a trail")
        if offset is not None and stamp:
            at = self.calendar.announce(stamp, offset.group(1))
        elif at is None:
            at = self.calendar.time(stamp)
        level, run, change, interface = match.groups()
        about = text[match.end() :] if level else interface or text
        figures = () if gap is None else [self.calendar.time(end, at) for end in gap.groups()]
        return Fact(at, level or change or (run or "").upper(), about, figures=figures)

    def event(self, match: re.Match[str], at: float | None) -> Fact:
        stamp, kind, interface, name, key, endpoint, ips, new, shook, before = match.groups()
        if stamp:
            at = self.calendar.time(stamp)
        elif at is None:
            raise ValueError("it has no time")
        needed = before if kind in ("ROAMING", "CHANGED") else shook
        if (kind != "REMOVED" and (ips is None or not needed)) or (kind == "ROAMING" and len(before) > 80):
            raise ValueError("it is cut short")
        handshake = None
        if shook and shook != "Never":
            text = shook if len(shook) > 8 else (stamp or self.calendar.zone.stamp(at))[:11] + shook
            handshake = self.calendar.time(text, at)
            if not stamp and text is not shook and handshake > at + DAY_S / 2:
                handshake -= DAY_S  # the journal has another date than the line had
        return tuple.__new__(Fact, (  # half the time of a call by its name
            at, kind, interface, key, name or "", endpoint or "", ips, new is not None, handshake, before or "",
            None, (),
        ))  # fmt: skip

    def json_line(self, fields: Any) -> Fact | None:
        if "MESSAGE" in fields:
            text, at = fields["MESSAGE"], int(fields["__REALTIME_TIMESTAMP"][:20]) / 1e6
            if isinstance(text, list):  # journald's form of what is not UTF-8
                text = bytes(text).decode("utf-8", "replace")
            return self.journal(at, fields.get("SYSLOG_IDENTIFIER"), text) if text else None
        stamp, kind, interface = fields["time"], fields["event"], fields.get("interface")
        at = iso(stamp)
        if "peer" not in fields:
            text = "%s [%s]" % (kind, interface) if interface else "[%s] %s" % (kind, fields["message"])
            return self.message(text, stamp[:19], at)
        key, name, endpoint = fields["peer"], fields.get("name") or "", fields["endpoint"] or ""
        ips, before, handshake = fields["allowed_ips"], fields.get("from") or "", fields["handshake"]
        "".join((name, endpoint, ips, before))  # TypeError: not all of them are texts
        known = is_peer(interface, key) and kind in KINDS_OF_PEERS and fields.get("reason", "idle") in REASONS
        if not known or len(endpoint) > 80 or len(name) > 80 or (kind == "ROAMING" and len(before) > 80):
            raise ValueError("it is no line of a trail")
        number, figures = fields.get("session"), ()  # type: int | None, Sequence[Any]
        if "length_s" in fields:
            counts = fields["length_s"], fields["received_bytes"], fields["sent_bytes"], fields["unwatched_s"]
            number, length, received, sent, unwatched = array("Q", (number, *counts))  # errors: one is not natural
            times = iso(fields["session_start"]), iso(fields["last_seen"])
            figures = (*times, float(length), received, sent, float(unwatched), fields["reason"])
            handshake = None  # the last sign of life says more
        elif number is not None:
            (number,) = array("Q", (number,))
        handshake = iso(handshake) if handshake else None
        return tuple.__new__(Fact, (
            at, kind, interface, key, name, endpoint, ips, "new" in fields, handshake, before, number, figures
        ))  # fmt: skip


# Sessions


class Shelf:
    """Finished sessions, given back in the order of their beginnings, as often as needed. Those that memory does not
    hold wait in a temporary file without a name: sorted runs, which are merged."""

    def __init__(self) -> None:
        self.last: list[tuple[float, tuple[Any, ...]]] = []  # the latest run: beginnings, and the fields of Session
        self.file: Any = None
        self.runs: list[tuple[float, list[tuple[int, int]]]] = []  # when each begins, and where its chunks are

    def __del__(self) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, session: tuple[Any, ...]) -> None:
        self.last.append((session[5], session))
        if len(self.last) >= RUN:
            self.put_away()

    def put_away(self) -> None:
        # Errors: Refusal.
        from tempfile import TemporaryFile

        self.last.sort(key=itemgetter(0))
        places = []
        try:
            self.file = self.file or TemporaryFile(buffering=0)
            for first in range(0, len(self.last), CHUNK):
                data = marshal.dumps(self.last[first : first + CHUNK])
                places.append((self.file.tell(), len(data)))
                if self.file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            found, remedy = "the sessions cannot be sorted", "set TMPDIR to a directory with more space"
            raise Refusal(found, reason_of(error), remedy, EXIT_FAILURE) from None
        self.runs.append((self.last[0][0], places))
        self.last = []

    def chunks(self, places: list[tuple[int, int]]) -> Iterator[tuple[float, tuple[Any, ...]]]:
        for offset, size in places:
            self.file.seek(offset)
            yield from marshal.loads(self.file.read(size))

    def __iter__(self) -> Iterator[Session]:
        self.last.sort(key=itemgetter(0))
        runs: list[Source] = [(first, self.chunks(places)) for first, places in self.runs]
        last: list[Source] = [(self.last[0][0], iter(self.last))] if self.last else []
        return (Session._make(fields) for _, fields in in_order(runs + last))


# A session whose end no line has reported yet.
class Begun:
    __slots__ = ("start", "line", "sure", "run", "number", "name", "ips", "endpoints", "steps")

    def __init__(self, start: float, fact: Fact, ips: str, run: int, steps: float) -> None:
        line, _, _, _, self.name, endpoint, _, _, _, before, self.number, _ = fact
        self.line = self.sure = line  # which reported it, and the last one that showed the peer online
        self.start, self.ips, self.run, self.steps = start, ips, run, steps
        first = before or endpoint
        self.endpoints: tuple[str, ...] = (first,) if first else ()

    def use(self, endpoint: str) -> None:
        if endpoint and endpoint not in self.endpoints:
            self.endpoints = (*self.endpoints, endpoint)[-wg_monitor.ENDPOINTS_MAX :]


class Followed:
    __slots__ = ("interface", "label", "key", "shown", "ips", "run", "open", "held", "last", "past", "told", "twins")

    def __init__(self, interface: str, label: str, run: int) -> None:
        self.interface, self.label = interface, label
        self.run = run  # in which it was last reported as new; -1 = it was removed
        self.key = ""  # the whole one, if a line says it
        self.shown: str | None = None  # its allowed IPs as the last line had them, and as `wg` prints them
        self.ips = ""
        self.open: Begun | None = None
        self.held: Begun | None = None  # a former one: a later line may still report its end
        self.last: tuple[float | None, int | None] = (None, None)  # end and number of the last finished one
        self.past = self.told = -FOREVER  # when the last finished one began, and the last line about an end
        self.twins: list[Followed] | None = None  # all peers that text lines show with this key


class Rebuilder:
    """Follows the peers from fact to fact, as the monitor did from reading to reading. A fact may come twice, from two
    files: the second one changes nothing."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.peers: dict[Key, Followed] = {}  # by the key of text lines, and by the whole key
        self.changes: list[Change] = []  # of allowed IPs
        self.gaps: list[Gap] = []
        self.faults: dict[tuple[str | None, str], float] = {}  # interface and why, as in a gap: when a line told of it
        self.down: dict[str, float] = {}  # the last IFDOWN of an interface
        self.first = self.seen = -FOREVER  # the first line, and the last one that proves a reading
        self.run, self.began = 0, -FOREVER  # of the monitor; older lines are those that a former run left behind
        self.before = -FOREVER  # the last time at which the former run is known to have watched
        self.stopped = False  # whether the last run has ended politely
        self.pause: Gap | None = None  # between two runs, until a line says more exactly
        self.stored: bool | None = None  # whether this run knows what the former one knew; None = no line shows it
        self.scope = ""  # the interfaces of this run, separated by commas; "" = all
        self.scopes: list[tuple[str, Period]] = []  # of the runs before, if not all
        self.unread: dict[str | None, float] = {}  # since when the former run could not read interfaces at its end
        self.unexplained = 0  # ends without a reason
        self.threshold, self.patience = 180, 0
        self.steps, self.stepped = 0, -FOREVER  # how far the wall clock was set in all, and when it last was
        self.lost: Counter[str] = Counter()
        self.unclear: dict[str, None] = {}

    def take(self, fact: Fact) -> None:
        at, kind, about, key, _, _, ips, new, _, _, _, figures = fact  # faster than by their names
        if not key:
            self.hear(at, kind, about, figures)
            return
        peer = self.peers.get((about, key))
        if peer is None or peer.shown != ips or peer.twins is not None:
            peer = self.find(fact)
        late = at < self.began
        begun = peer.held if late else peer.open
        again = False
        if not late:
            self.seen = at
            if self.pause is not None or self.first == -FOREVER:
                self.prove(at)
            again = new and 0 <= peer.run < self.run  # this run did not know the peers of the former one
            if again:
                self.stored = False
                if begun is not None:
                    begun.sure = max(begun.sure, self.watched_before(peer))
            if new:
                peer.run = self.run
        if kind == "OFFLINE" or kind == "REMOVED":
            self.end(peer, begun, fact)
            peer.told = at
            if peer.open is not None and not late:
                self.cut(peer)
            if kind == "REMOVED":
                peer.run = -1
                self.change(peer, at, None)
        elif kind == "ONLINE" or (begun is None and kind == "ROAMING" and not late):
            self.begin(peer, begun, fact, late, again)
        elif begun is not None and not late:
            begun.sure = at
            if kind == "ROAMING":
                begun.use(fact.before)
                begun.use(fact.endpoint)

    # Peers

    def find(self, fact: Fact) -> Followed:
        # The peer of a line that is about a new one, or shows other allowed IPs, or has a key that two show.
        kind, interface, key, ips = fact.kind, fact.about, fact.key, fact.ips
        whole = len(key) == 44
        label = wg_monitor.short_key(key) if whole else key
        first = self.peers.get((interface, label))
        group = [] if first is None else first.twins or [first]
        if whole:
            fits = [p for p in group if p.key == key]
            if not fits and len(group) >= TWINS_MAX:
                group = []
            fits = fits or [p for p in group if not p.key and (len(group) == 1 or p.shown == text_of(ips))]
        else:
            shown = fact.before.partition(": ")[2][:-1] if kind == "CHANGED" else ips
            fits = [p for p in group if shown in (p.shown, text_of(p.ips))]
            if not fits and group and (len(group) >= TWINS_MAX or not self.is_another(group[0], fact)):
                fits = [p for p in group if (p.open is None) == (kind == "ONLINE")] or group
            if len(fits) > 1:
                self.doubt(label, interface)
        peer = fits[0] if fits else self.add(interface, label, group)
        if whole and not peer.key:
            peer.key = key
            self.peers[interface, key] = peer
        if ips is not None and peer.shown != ips:
            if peer.shown is None or text_of(peer.ips) != (text_of(ips) if whole else ips):
                self.change(peer, fact.at, ips if whole else whole_ips(ips))
            peer.shown = ips
        return peer

    def doubt(self, label: str, interface: str) -> None:
        if len(self.unclear) < TWINS_MAX:
            self.unclear["%s on %s" % (label, interface)] = None

    def is_another(self, peer: Followed, fact: Fact) -> bool:
        # Whether a line with other allowed IPs cannot be about this peer, which has its key.
        known = peer.run == self.run or (self.stored is True and peer.run >= 0)
        there = (fact.kind == "ONLINE") == (peer.open is not None)
        return known and fact.kind in ("ONLINE", "OFFLINE") and (fact.new or there)

    def add(self, interface: str, label: str, group: list[Followed]) -> Followed:
        if len(self.peers) >= PEERS_MAX:
            self.lost["ends"] += self.forget()
            self.peers.clear()
            group = []
        peer = Followed(interface, label + "#%d" % (len(group) + 1) if group else label, self.run)
        if group:
            group[0].twins = peer.twins = group
            group.append(peer)
        self.peers.setdefault((interface, label), peer)
        return peer

    def everyone(self) -> Iterator[Followed]:
        # Some peers come twice.
        for first in self.peers.values():
            yield from first.twins or (first,)

    def forget(self) -> int:
        """Finishes all sessions. Returns how many were open."""
        count = 0
        for peer in self.everyone():
            count += peer.open is not None
            self.cut(peer)
            self.release(peer)
        return count

    def change(self, peer: Followed, at: float, ips: str | None) -> None:
        peer.ips = (ips or "") if len(ips or "") <= IPS_MAX else str(ips)[:IPS_MAX].rpartition(",")[0]
        change = peer.interface, peer.key or peer.label, at, None if ips is None else peer.ips
        self.keep(self.changes, change, "changes")

    # Sessions

    def begin(self, peer: Followed, old: Begun | None, fact: Fact, late: bool, again: bool) -> None:
        at, start = fact.at, fact.handshake
        if start is None or at - start >= self.threshold:
            start = at  # a handshake that is too old did not bring the peer online: received bytes did, at the reading
        ended = peer.last[0]
        if ended is not None and start < ended <= at:
            start = ended
        if old is not None and again and start <= self.before:  # its handshake shows that it never went
            old.run, old.number, old.sure = self.run, fact.number, at
            old.use(fact.endpoint)
            return
        if old is not None and not again:
            same = old.number is not None and old.number == fact.number
            if same or old.start == start or abs(old.line - at) < SAME_S:
                return  # the same line in another file
        if old is None and start == peer.past and self.steps and not again:
            return  # the same line in another file, which began before the clock was set back
        begun = Begun(start, fact, peer.ips, self.run, self.steps)
        if fact.kind == "ROAMING":
            self.lost["beginnings"] += 1
            begun.use(fact.endpoint)
        if late:
            self.release(peer)
            peer.held = begun
            return
        if peer.run < 0:
            peer.run = self.run
        if old is not None:
            if old.run == self.run and not peer.ips:
                self.doubt(peer.label, peer.interface)
            self.cut(peer)
        peer.open = begun

    def end(self, peer: Followed, begun: Begun | None, fact: Fact) -> None:
        at, kind, _, _, _, endpoint, _, new, until, _, number, figures = fact
        told = until == peer.last[0] or abs(at - peer.told) < SAME_S  # a line in another file has reported this end
        if begun is not None and until is not None and until < begun.start and not self.is_stepped(begun, until):
            until = begun.start
        if new:  # it ended while nobody watched
            if begun is not None and until is not None and until <= begun.sure:
                self.finish(peer, begun, until, ENDED, self.estimate(peer, begun, until, at))
        elif figures:
            start, until, *figures = figures
            if peer.last != (until, number):
                self.finish(peer, self.concluded(peer, fact, start, until), until, ENDED, figures)
        elif until is not None and (begun is not None or (kind == "OFFLINE" and not told)):
            if begun is None:
                self.lost["beginnings"] += 1
                begun = Begun(until, fact, peer.ips, self.run, self.steps)
            begun.use(endpoint)
            self.lost["handshakes"] += 1
            down = self.down.get(peer.interface) == at
            reason = "removed" if kind == "REMOVED" else "interface-down" if down else ""
            self.finish(peer, begun, until, ENDED, self.estimate(peer, begun, until, at, reason))

    def concluded(self, peer: Followed, fact: Fact, start: float, until: float) -> Begun:
        # The session that a JSON line ends. What was known of it before gives way to what this line says.
        begun = None
        for old in (peer.held, peer.open):
            if old is not None and (old.number == fact.number or start <= old.start <= until):
                if begun is not None:  # both are parts of it
                    used = dict.fromkeys(begun.endpoints + old.endpoints)
                    old.endpoints = tuple(used)[-wg_monitor.ENDPOINTS_MAX :]
                    peer.held = None
                begun = old
        if begun is None:
            begun = Begun(start, fact, peer.ips, self.run, self.steps)
        begun.start, begun.number = start, fact.number
        begun.use(fact.endpoint)
        return begun

    def is_stepped(self, begun: Begun, until: float) -> bool:
        # Whether the wall clock was set between its beginning and this time.
        return begun.steps != self.steps and self.stepped <= until <= self.seen

    def estimate(self, peer: Followed, begun: Begun, until: float, at: float, reason: str = "") -> Sequence[Any]:
        # The figures of a session's end that no line says: length, received and sent bytes, unwatched seconds, reason.
        length = until - begun.start
        if self.is_stepped(begun, until):
            length = max(0.0, length - self.steps + begun.steps)
        # Unwatched is what lies between the line that reported it and its end. Gaps may overlap.
        seconds, earliest = 0.0, FOREVER
        for gap in reversed(self.gaps):
            if gap.stop <= begun.line:
                break
            if (gap.start < until or gap.stop < at) and gap.interface in (None, peer.interface):
                start, stop = gap.start, gap.stop
                if gap.why == "late":  # several gaps, one after the other: only those in between surely belong to it
                    start, stop = max(start, begun.line), min(stop, max(until, at))
                seconds += max(0.0, min(stop, earliest) - start)
                earliest = min(earliest, start)
        return length, None, None, seconds, reason

    def finish(self, peer: Followed, begun: Begun, until: float, state: str, figures: Sequence[Any]) -> None:
        length, received, sent, unwatched, reason = figures
        if begun is peer.open:
            peer.open = None
        elif begun is peer.held:
            peer.held = None
        if state == ENDED:
            self.unexplained += not reason
            peer.last, peer.past = (until, begun.number), begun.start
        self.shelf.add((
            "", peer.interface, peer.key or peer.label, begun.name, begun.number, begun.start, until, state, length,
            begun.endpoints, begun.ips, received, sent, unwatched, reason,
        ))  # fmt: skip

    def cut(self, peer: Followed) -> None:
        # No line has reported its end: a later one may.
        if peer.open is not None:
            self.release(peer)
            peer.held, peer.open = peer.open, None

    def cut_those(self, gone: Callable[[Followed, Begun], bool]) -> None:
        # They were there as long as the former run watched.
        for peer in self.everyone():
            if peer.open is not None and gone(peer, peer.open):
                peer.open.sure = max(peer.open.sure, self.watched_before(peer))
                self.cut(peer)

    def watched_before(self, peer: Followed) -> float:
        # The last time at which the former run is known to have read the peer's interface.
        return min(self.before, self.unread.get(peer.interface, FOREVER))

    def release(self, peer: Followed, state: str = UNKNOWN) -> None:
        held, reason = peer.held, "unknown" if state == UNKNOWN else ""
        if held is not None:
            self.finish(peer, held, held.sure, state, self.estimate(peer, held, held.sure, held.sure, reason))

    # Everything else

    def prove(self, at: float) -> None:
        # Somebody watches at this time.
        self.seen = at
        self.first = at if self.first == -FOREVER else self.first
        pause, self.pause = self.pause, None
        if pause is not None:
            self.add_gap(pause)

    def add_gap(self, gap: Gap) -> None:
        # One that begins at the same time is the same one, in another file.
        if gap.start < gap.stop and all(gap[:3] != other[:3] for other in self.gaps[-4:]):
            self.keep(self.gaps, gap, "gaps")

    def keep(self, items: list[Any], item: Any, what: str) -> None:
        if len(items) < KEPT_MAX:
            items.append(item)
        else:
            self.lost[what] += 1

    def hear(self, at: float, kind: str, text: str, gap: Sequence[float]) -> None:
        clock = CLOCK_SET.match(text) if kind == "WARN" else None
        if kind == "START":
            self.start(at, text)
        elif at < self.began and (clock is None or clock.group(1) == "forward"):
            return  # left behind by a former run
        if clock is not None and abs(at - self.stepped) < SAME_S:
            return  # the same line in another file
        if clock is not None:
            step = seconds_in(clock.group(2)) * (1 if clock.group(1) == "forward" else -1)
            self.steps, self.stepped, self.seen = self.steps + step, at, self.seen + step  # by the clock as it is now
            self.began, self.first = min(self.began, at), min(self.first, self.first + step)
        elif gap:
            if self.pause is not None:  # only a monitor that knows what the former run knew reports this
                self.stored, self.before = True, max(self.before, gap[0])
            self.add_gap(Gap("", None, gap[0], gap[1], "stalled" if self.pause is None else "stopped"))
            self.pause = None
            self.prove(at)
        elif kind == "WARN":
            self.warned(at, text)
        elif kind == "STOP":
            if (None, "failed") not in self.faults:
                self.prove(at)
            self.stopped = True
        elif kind in ("IFUP", "IFDOWN") or (kind == "DEBUG" and text.startswith("Reading: ")):
            self.prove(at)
            if kind == "IFDOWN":
                self.down = {**(self.down if len(self.down) < INTERFACES_MAX else {}), text: at}

    def start(self, at: float, text: str) -> None:
        if not self.stopped and abs(at - self.began) < SAME_S:
            return  # the same line in the journal
        self.settle()
        self.end_faults(at)
        settings = dict(re.findall(r"(Interval|Threshold|Interface): ([^ ,]+(?:,[^ ,]+)*)", text))
        self.patience = 2 * seconds_in(settings.get("Interval", "")) + 1
        self.threshold = seconds_in(settings.get("Threshold", "")) or 180
        self.run, self.began, self.stored, self.before = self.run + 1, at, None, self.seen
        if self.seen > -FOREVER:
            self.pause = Gap("", None, self.seen, at, "stopped" if self.stopped else "")
        self.stopped = False
        scope, self.scope = self.scope, settings.get("Interface", "")
        if self.scope not in ("", scope):
            watched = self.scope.split(",")
            self.cut_those(lambda peer, _: peer.interface not in watched)
        self.first = at if self.first == -FOREVER else self.first

    def unreadable(self) -> dict[str | None, float]:
        # The interfaces that this run cannot read now: since when.
        return {interface: told for (interface, why), told in self.faults.items() if why == "unreadable"}

    def end_faults(self, at: float) -> None:
        # At the end of a run: no line reports theirs.
        self.unread = self.unreadable()
        for interface, told in self.unread.items():
            self.add_gap(Gap("", interface, told, at, "unreadable"))
        if (None, "late") in self.faults:
            told = self.faults[None, "late"]
            self.add_gap(Gap("", None, told - self.patience, told, "late"))
        self.faults.clear()
        if self.scope:
            self.scopes.append((self.scope, Period(self.began, at)))

    def settle(self) -> None:
        # At the end of a run that knew nothing of the former one: peers that it did not report were there no more.
        if self.stored is False:
            self.cut_those(lambda _, begun: begun.run < self.run)

    def warned(self, at: float, text: str) -> None:
        match = FAULT.match(text)
        if match is None:
            return
        late, interface, after = match.groups()
        fault = (interface, "late" if late else "unreadable" if interface else "failed")
        if not after:
            if len(self.faults) < INTERFACES_MAX:
                self.faults.setdefault(fault, at)
            return
        begin, end = at - seconds_in(after), at
        told = self.faults.pop(fault, begin)
        if late:  # this reading is on time
            end = max(told, at - self.patience)
        # An interface may have had an invalid line before it was unreadable.
        begin = told if interface else min(begin, told)
        if at - begin > self.patience:
            self.add_gap(Gap("", interface, begin, end, fault[1]))
        self.prove(at)

    def end_all(self, watching: bool) -> None:
        # `watching`: a monitor writes to the trail now, and its last reading shows that they are still online.
        self.settle()
        unread = self.unreadable()
        for peer in self.everyone():
            begun = peer.open
            if begun is not None:
                here = begun.run == self.run or self.stored
                last = min(self.seen, unread.get(peer.interface, FOREVER)) if here else -FOREVER
                begun.sure = max(begun.sure, self.watched_before(peer), last)
                self.cut(peer)
                here = here and watching and not self.stopped and peer.interface not in unread
                self.release(peer, ONLINE if here else UNKNOWN)
        self.end_faults(self.seen)
        self.forget()


class Trails:
    """Trails as a source of history. It reads all files at once. Errors: Refusal."""

    def __init__(self, paths: Sequence[str], zone: Zone, verbose: bool = False) -> None:
        self.path, self.found, self.verbose = ", ".join(paths), Rebuilder(), verbose
        meter = Meter(paths)
        self.reader = Reader(zone, meter, verbose)
        take = self.found.take
        try:
            for fact in in_order([self.reader.source(path) for path in paths]):
                take(fact)
        finally:
            meter.hide()
        locks = ["%s/.%s.lock" % os.path.split(os.path.abspath(path)) for path in paths]
        self.live = any(map(wg_monitor.use_of, locks))
        self.found.end_all(self.live)
        peers = self.found.peers.items()
        # The whole keys of those that were first seen with the key of text lines.
        self.keys = {name: peer.key for name, peer in peers if peer.key and len(name[1]) < 44 and not peer.twins}
        self.notes = self.remarks()

    def remarks(self) -> list[str]:
        calendar, unclear = self.reader.calendar, " and ".join(list(self.found.unclear)[:3])
        skipped = "%d.%s" % (self.reader.skipped, "" if self.verbose else " --verbose shows them.")
        found = {**self.found.lost, "skipped": skipped if self.reader.skipped else "", "unclear": unclear}
        found.update(missing=calendar.missing, strange=calendar.strange)
        return [printable(text % found[what]) for what, text in REMARKS.items() if found.get(what)]

    def find(self, text: str) -> set[str]:
        """The keys of the peers that a text means, as the sessions have them: a name, a key, the beginning of a key, or
        a short key. Errors: Refusal, if it is the beginning of several."""
        named: set[str] = set()
        keys: set[str] = set()
        latest: dict[str, str] = {}
        short = wg_monitor.short_key(text) if len(text) == 44 else text
        sessions = ((session.peer, session.name) for session in self.all_sessions())
        peers = ((peer.key or peer.label, "") for peer in self.found.peers.values())
        for key, name in chain(sessions, peers):
            latest[key] = name or latest.get(key, "")
            if name == text:
                named.add(key)
            elif means(text, key) or (len(key) < 44 and means(short, key.partition("#")[0])):
                keys.add(key)
        now = {key for key in named if latest[key] == text}
        return now or named or one_key(text, keys)

    def named(self) -> Iterator[tuple[str, str, str]]:
        # Interface and name of each peer, as its last session has it; trails have no gateway.
        latest = {session[1:3]: session.name for session in self.all_sessions() if session.name}
        return (("", interface, name) for (interface, _), name in latest.items())

    def history(self, query: Query, now: float) -> History:
        found = self.found
        known = {interface for interface, _ in found.peers}
        gaps = [*found.gaps, *(gap for scope, run in found.scopes for gap in excluded("", known, scope, run))]
        gaps = [gap for gap in gaps if not query.interfaces or gap.interface in (None, *query.interfaces)]
        notes = strangers(query.interfaces - known) + self.notes
        if query.reasons and found.unexplained:
            notes.append("Ends without a reason in the trails, which --reason does not find: %d." % found.unexplained)
        period = Period(*sorted((found.first, found.seen)))  # the clock may have been set back
        sessions, live = partial(self.sessions, query, now), self.live and not found.stopped
        return History("", self.path, period, sorted(gaps, key=BEGINNING), sessions, notes, live)

    def all_sessions(self) -> Iterator[Session]:
        for session in self.found.shelf:
            key = self.keys.get(session[1:3])
            yield session if key is None else session._replace(peer=key)

    def sessions(self, query: Query, now: float, period: Period) -> Iterator[Session]:
        changes = ((i, self.keys.get((i, key), key), at, ips) for i, key, at, ips in self.found.changes)
        held = holders_of(query.address, changes) if query.address else {}
        return filter(chooser(query, held, period, now), self.all_sessions())


# --- Showing ------------------------------------------------------------------------------------------------------

ROWS_MEASURED = 1000  # the first ones, before a table is laid out


class Column(NamedTuple):
    title: str
    cell: Callable[[Any], str]
    brief: Callable[[Any], str] | None = None  # what it shows instead if the terminal is too narrow
    right: bool = False
    colour: str = ""
    rank: int = 0


# Titles and ranks: if the terminal is too narrow, the column with the lowest rank gives way first; 0 = it stays.
LAYOUTS = {
    "status": {"PEER": 6, "STATE": 0, "SINCE": 5, "ENDPOINT": 4, "HANDSHAKE": 3, "RECEIVED": 2, "SENT": 1},
    "sessions": {"GATEWAY": 10, "PEER": 5, "IFACE": 7, "CONNECTED": 4, "UNTIL": 4, "LENGTH": 8, "ENDPOINT": 9,
                 "TUNNEL ADDRESS": 3, "RECEIVED": 2, "SENT": 1, "ENDED": 6},
    "summary": {"GATEWAY": 10, "PEER": 5, "IFACE": 7, "SESSIONS": 0, "ONLINE": 0, "SHARE": 9, "LONGEST": 6, "MEDIAN": 3,
                "BREAKS/H": 2, "RECEIVED": 8, "SENT": 8, "ADDRESSES": 1},
    "by": {"WHEN": 0, "SESSIONS": 3, "PEERS": 4, "ONLINE": 0, "RECEIVED": 2, "SENT": 1, "NOT WATCHED": 5},
}  # fmt: skip


def twins_of(items: Iterable[tuple[str, str, str]]) -> frozenset[tuple[str, str, str]]:
    # What occurs more than once: gateway, interface and name of peers with the same name.
    return frozenset(item for item, count in Counter(items).items() if count > 1)


def columns_of(layout: str, zone: Zone, now: float, gateways: bool = False, twins: Iterable[Any] = ()) -> list[Column]:
    def whose(item: Any, text: Callable[[str], str]) -> str:
        key = item.peer[:8] + "..." if len(item.peer) > 40 else item.peer  # which a text trail has shortened
        name = text(printable(item.name, 64))
        if name and (item.gateway, item.interface, item.name) in twins:
            name += " " + printable(key)
        return name or printable(key) or "all"

    def ago(wall: float | None) -> str:
        return length_text(now - wall) if wall else "never"

    def until(s: Session, brief: bool = False) -> str:
        # The star says that nobody watched for a part of the session.
        text, still = end_text(s.until, s.start, zone), "still on" if brief else "still connected"
        ends = {ENDED: text[-14:-3] if brief else text, ONLINE: still, UNKNOWN: "unknown"}
        return ends[UNKNOWN if s.reason == "unknown" else s.state] + "*" * (s.unwatched > 0)

    def endpoint(item: Any) -> str:
        used = item.endpoints if isinstance(item, Session) else (item.endpoint,)
        return (printable("".join(used[-1:])) or "-") + " (+%d)" % (len(used) - 1) * (len(used) > 1)

    def size(item: Any, name: str) -> str:
        count = getattr(item, name if isinstance(item, Session) else name + "_bytes")
        mark = "+" * getattr(item, "beyond", False) + "~" * getattr(item, "estimated", False)
        return (size_text(count) or "-") + mark * bool(count)

    number, length = partial(Column, right=True), partial(Column, right=True, colour=CYAN)
    columns = [
        Column("GATEWAY", lambda i: printable(i.gateway, 64)),
        Column("PEER", lambda i: whose(i, str), lambda i: whose(i, lambda name: fit(name, 14)), colour=YELLOW_BOLD),
        Column("IFACE", lambda i: printable(i.interface), colour=GREEN_BOLD),
        Column("STATE", lambda p: "unknown" if p.online is None else "online" if p.online else "offline"),
        Column("SINCE", lambda p: "unknown" if p.handshake and not p.since else ago(p.since), colour=CYAN),
        Column("HANDSHAKE", lambda p: ago(p.handshake) + " ago" * bool(p.handshake), colour=CYAN),
        Column("CONNECTED", lambda s: zone.stamp(s.start), lambda s: zone.stamp(s.start)[:16]),
        Column("UNTIL", until, partial(until, brief=True)),
        Column("LENGTH", lambda s: length_text(round(s.length)), colour=CYAN),
        Column("ENDPOINT", endpoint),
        Column("TUNNEL ADDRESS", lambda s: printable(text_of(s.allowed_ips), 40)),
        Column("ENDED", lambda s: printable(s.reason)),
        Column("WHEN", lambda u: u.unit),
        number("SESSIONS", lambda t: str(t.sessions)),
        number("PEERS", lambda u: str(u.peers)),
        length("ONLINE", lambda t: length_text(t.online_s)),
        number("SHARE", lambda t: "" if t.share is None else "%.1f %%" % (100 * t.share)),
        length("LONGEST", lambda t: length_text(t.longest_s)),
        length("MEDIAN", lambda t: length_text(t.median_s)),
        number("BREAKS/H", lambda t: "" if t.interruptions is None else "%.2f" % (t.interruptions_per_hour or 0)),
        length("RECEIVED", lambda i: size(i, "received")),
        length("SENT", lambda i: size(i, "sent")),
        number("ADDRESSES", lambda t: str(t.addresses)),
        number("NOT WATCHED", lambda u: length_text(u.unwatched_s) if u.unwatched_s else ""),
    ]
    titles = {column.title: column for column in columns}
    ranks = {title: rank for title, rank in LAYOUTS[layout].items() if gateways or title != "GATEWAY"}
    return [titles[title]._replace(rank=rank) for title, rank in ranks.items()]


def end_text(stop: float, start: float, zone: Zone) -> str:
    # The time alone if it is on the day of the beginning.
    text = zone.stamp(stop)
    return text[11:] if text[:10] == zone.stamp(start)[:10] else text


# A table that fits the first rows and the terminal: its columns give way in the order of their ranks, and no line is
# longer.
class Table:
    def __init__(self, columns: Sequence[Column], first: Sequence[Any], indent: str = "") -> None:
        self.room, self.indent, self.paint = max(1, get_terminal_size().columns - len(indent)), indent, Paint()

        def measured(column: Column) -> tuple[Column, int]:
            return column, max([width_of(column.title), *(width_of(column.cell(item)) for item in first)])

        laid = {column.title: measured(column) for column in columns}
        ranked = sorted((column for column in columns if column.rank), key=lambda column: column.rank)
        for column in ranked:
            if sum(width + 2 for _, width in laid.values()) - 2 <= self.room:
                break
            if column.brief is None:
                del laid[column.title]
            else:
                laid[column.title] = measured(column._replace(cell=column.brief))
        self.laid = list(laid.values())
        gone = ", ".join(column.title for column in ranked if column.title not in laid)
        self.notes = ["Too narrow for: %s." % gone] if gone and first else []

    def row(self, item: Any = None) -> str:
        # Without an item: the heading.
        line, painted = "", ""
        for column, width in self.laid:
            cell = column.title if item is None else column.cell(item)
            space = " " * (width - width_of(cell))
            cell = space + cell if column.right else cell + space
            line += cell + "  "
            painted += self.paint(cell, DIM if item is None else column.colour) + "  "
        narrow = width_of(line.rstrip()) > self.room
        return self.indent + (fit(line.rstrip(), self.room) if narrow else painted.rstrip())

    def show(self, items: Sequence[Any]) -> None:
        print("".join(self.row(item) + "\n" for item in ([None, *items] if items else ())), end="")


def write_json(rows: Iterable[Mapping[str, Any]]) -> None:
    before = "["
    for row in rows:
        print(before + json.dumps(row), end="")
        before = ",\n "
    print("]" if before != "[" else "[]")


def write_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    import csv

    reconfigure(encoding="utf-8", newline="")
    print("\ufeff", end="")  # tells spreadsheets that this is UTF-8
    writer = csv.writer(sys.stdout, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(names)
    writer.writerows([cell_of_csv(row.get(name)) for name in names] for row in rows)


def show_notes(notes: Iterable[str], table: bool) -> None:
    # Sentences about an answer. Beside what a program reads, they go to standard error.
    import textwrap

    print(end="", flush=True)
    paint, room = Paint(), get_terminal_size().columns
    for note in notes:
        narrow = textwrap.wrap(note, room if note.isascii() else room // 2 or 1)  # a wide character takes two columns
        lines = [paint(line, DIM) for line in narrow] if table else ["wg_monitor: " + note]
        print("\n".join(lines), file=sys.stdout if table else sys.stderr)


def fields_of(item: Any, zone: Zone) -> dict[str, Any]:
    # A peer or a sum as programs read it.
    fields = {}
    for name, value in item._asdict().items():
        if name in ("since", "start", "stop", "handshake", "last_reading"):
            value = zone.rfc3339(value) if value else None
        if value != "" or name != "gateway":  # there is only one
            fields[name] = None if value == "" and name != "allowed_ips" else value
    return fields


# --- The command status -------------------------------------------------------------------------------------------


# A peer as it is now.
class Peer(NamedTuple):
    gateway: str
    interface: str
    peer: str  # the whole public key
    name: str
    online: bool | None  # None = nobody watches, and `wg` was not asked
    since: float | None  # None = unknown, or it was never online
    endpoint: str
    allowed_ips: str
    handshake: int  # the last one known; 0 = never
    received_bytes: int | None  # in the session; None = it is offline
    sent_bytes: int | None
    last_reading: float | None


Probed = Tuple[wg_monitor.Probe, wg_monitor.Answer]  # a run of `wg show all dump`, to be parsed for each store


def run_wg() -> Probed:
    """Errors: Refusal."""
    wg_monitor.judge_permission()
    probe, answer = wg_monitor.Probe(wg_monitor.find_wg()), None
    try:
        probe.start("all", "dump")
    except OSError as error:
        raise Refusal("wg cannot be run", reason_of(error), "try 'wg show'", EXIT_FAILURE) from None
    while answer is None:
        time.sleep(0.002)
        answer = probe.answer()
    if answer.why:
        raise Refusal("wg gave no answer", answer.why, "try 'wg show'", EXIT_FAILURE)
    return probe, answer


def load_table(store: Store | None, now: wg_monitor.Moment, settings: Any = None) -> tuple[wg_monitor.Table, Any]:
    # The state table as the store has it, and the settings of its monitor. Without a store: a new one, and `settings`.
    settings = settings or wg_monitor.parse_settings({}, {})
    if store is None:
        return wg_monitor.Table(), settings
    if store.rule is not None:  # the threshold of the monitor, not a guess
        saved = zip(("INTERVAL", "THRESHOLD", "LIVENESS", "INTERFACE"), map(str, store.rule))
        settings = wg_monitor.parse_settings({}, dict(saved))
    rebooted = None if store.boot_id in ("", wg_monitor.boot_id()) else now

    def load(database: Any) -> wg_monitor.Table:
        reader = wg_monitor.Store.__new__(wg_monitor.Store)  # without the lock and the files of a writer
        reader.database = database
        complete = (database.execute("SELECT complete FROM monitor").fetchone() or [None])[0]
        table: wg_monitor.Table = reader.load_table(settings.interface, None if rebooted else complete, rebooted)[0]
        if store.last:
            table.watched = now.boot - max(0.0, now.wall - store.last) if rebooted else store.boot
            table.unread = {name: store.last - at for name, at in store.unread.items()}
        return table

    return store.read(load), settings


def decide_by_wg(table: wg_monitor.Table, settings: wg_monitor.Settings, probed: Probed) -> wg_monitor.Reading:
    # Brings the table up to this run of `wg`, as the monitor would at its next reading.
    probe, answer = probed
    memo = wg_monitor.Memo()
    reading = wg_monitor.parse(probe.blocks(answer.size), answer.complaints, memo, (), settings.interface)
    table.gaps = wg_monitor.gaps_of(table, reading.interfaces, answer.at, FOREVER)
    wg_monitor.decide(table, reading, answer.at, settings)
    return reading


def peers_of(table: wg_monitor.Table, store: Store | None) -> Iterator[Peer]:
    gateway, names, last = (store.gateway, store.names, store.last) if store else ("", {}, None)
    for key, row in table.rows.items():
        session, received, sent = row.session, None, None  # type: Any, int | None, int | None
        since = row.ended.wall if row.ended.boot >= row.made else float(row.shown)
        if session is not None:  # which without a store has just begun
            since = session.start
            received = counted_since(row.past_rx, row.rx, session.received_before if store else 0)
            sent = counted_since(row.past_tx, row.tx, session.sent_before if store else 0)
        known = max(0.0, min(since, EPOCH_MAX)) or None if store else None
        figures: Any = (row.endpoint, row.allowed_ips, row.shown, received, sent, last)
        yield Peer(gateway, *key, names.get(key, ""), session is not None, known, *figures)


SORTS: dict[str, Callable[[Peer], Any]] = {
    "": lambda peer: (not peer.online, *SORTS["name"](peer)),
    "name": lambda peer: (not peer.name, peer.name, peer.peer),
    "since": lambda peer: -(peer.since or 0),
    "handshake": lambda peer: -peer.handshake,
    "traffic": lambda peer: -((peer.received_bytes or 0) + (peer.sent_bytes or 0)),
}


def heading(
    name: str, peers: AbstractSet[Peer], state: str, seen: bool, store: Store | None, now: float, zone: Zone
) -> str:
    # wg0  2 of 3 online, watched since 2026-11-20 09:12, last reading 12s ago
    count = (printable(name), sum(bool(peer.online) for peer in peers), len(peers), "" if seen else "were ")
    parts = ["%s  %d of %d %sonline" % count]
    parts += [state] if state else []
    if store is None:
        return ", ".join([*parts, "no store: since when is unknown"])
    since = max([store.since, *(gap.stop for gap in store.gaps if gap.interface in (None, name))])
    trouble = "the monitor reads nothing or cannot save it" if store.monitor else "no monitor writes to this store"
    if name not in store.unread:
        parts.append("watched since %s" % zone.stamp(since)[:16] if store.is_watching(now) else trouble)
    parts.append("last reading %s ago" % length_text(now - store.last) if store.last else "no reading yet")
    return (printable(store.gateway) + ": " if store.gateway else "") + ", ".join(parts)


def status(words: Sequence[str]) -> int:
    parser = new_parser("status", "Show who is online now, since when, and from where.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--online", action="store_true", help="only the peers that are online")
    group.add_argument("--offline", action="store_true", help="only the peers that are offline")
    parser.add_argument("--sort", choices=sorted(SORTS)[1:], default="", help="default: who is online, then by name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    codes = EXIT_CODES.replace("usage,", "usage, 3 a peer that --peer names is offline,")
    parser.epilog = codes.replace("permitted", "permitted, 5 neither wg nor a store is there")
    options = parser.parse_args(words)
    zone, now = Zone(options.timezone), wg_monitor.moment()
    names = interfaces_of(options)
    stores = open_stores(options.store, needed=False)
    notes = ["%s: %s." % (printable(s.gateway), printable(s.path)) for s in stores if s.gateway]
    probed: Probed | None = None
    if not options.store:  # what was named may come from another machine
        try:
            probed = run_wg()
        except Refusal as refusal:
            if not stores:
                raise
            notes.append("Handshakes and bytes are as old as the last checkpoint. %s." % refusal)
    links: list[tuple[str, set[Peer], str]] = []  # of each interface: its name, its peers and a heading
    for store in stores or (None,):
        table, settings = load_table(store, now)
        unread: Iterable[str] = store.unread if store else ()
        if probed is not None:
            unread = decide_by_wg(table, settings, probed).unreadable
        there = list(peers_of(table, store))
        found = table.interfaces.keys() | {peer.interface for peer in there}
        for name in sorted(found & names if names else found):
            peers = {peer for peer in there if peer.interface == name}
            down = name in table.interfaces and not table.interfaces[name].up
            state = "the interface is down" if down else "it cannot be read" if name in unread else ""
            seen = (probed is not None or store is None or store.is_watching(now.wall)) and name not in unread
            line = heading(name, peers, state, seen, store, now.wall, zone)
            links.append((name, peers if seen else {peer._replace(online=None) for peer in peers}, line))
    wanted = everyone = set().union(*(peers for _, peers, _ in links))
    if options.peer:
        pairs = [(peer.peer, peer.name) for peer in everyone]
        keys = set().union(*(known(text, keys_meant(text, pairs)) for text in options.peer))
        wanted = {peer for peer in everyone if peer.peer in keys}
    chosen = sorted(wanted, key=lambda peer: (SORTS[options.sort](peer), peer[:3]))
    if options.online or options.offline:
        chosen = [peer for peer in chosen if peer.online is options.online]
    if options.json:
        write_json(fields_of(peer, zone) for peer in chosen)
    else:
        twins = twins_of((peer.gateway, peer.interface, peer.name) for peer in everyone)
        layout = Table(columns_of("status", zone, now.wall, twins=twins), chosen, "  ")
        shown = [link for link in links if not options.peer or link[1] & wanted]
        for name, peers, line in shown:
            line = fit(line, layout.room + 2)
            print(line.replace(printable(name), layout.paint(printable(name), GREEN_BOLD), 1))
            layout.show([peer for peer in chosen if peer in peers])
        notes += ["No WireGuard interface."] * (not names and not shown) + layout.notes
    missing = sorted(names - {name for name, _, _ in links})
    show_notes([*("No interface %s." % printable(name) for name in missing), *notes], not options.json)
    states = {peer.online for peer in wanted} if options.peer else {None} if missing else set()
    return EXIT_OFFLINE if False in states else EXIT_FAILURE if None in states else 0


# --- The command sessions -----------------------------------------------------------------------------------------

REASONS = ("idle", "unreachable", "interface-down", "removed", "reset", "unknown")
SESSION_FIELDS = (
    "interface", "peer", "name", "session", "session_start", "last_seen", "length_s", "endpoint", "endpoints",
    "allowed_ips", "received_bytes", "sent_bytes", "unwatched_s", "reason", "online",
)  # fmt: skip


def session_fields(s: Session, zone: Zone) -> dict[str, Any]:
    # Named as in the trail with LOG_FORMAT=json.
    ends = (zone.rfc3339(s.start), zone.rfc3339(s.until), round(s.length))
    places = (s.endpoints[-1] if s.endpoints else None, list(s.endpoints), s.allowed_ips)
    figures = (s.received, s.sent, round(s.unwatched), s.reason or None, *([True] if s.state == ONLINE else []))
    fields = dict(zip(SESSION_FIELDS, (s.interface, s.peer, s.name or None, s.number, *ends, *places, *figures)))
    return {"gateway": s.gateway, **fields} if s.gateway else fields


def show_sessions(stream: Iterator[Session], gaps: Iterable[Gap], columns: Sequence[Column], zone: Zone) -> list[str]:
    """Prints a table, with the time that nobody watched in lines of its own. Returns what there is to say about it."""
    first, count, spans, peers = list(islice(stream, ROWS_MEASURED)), 0, False, set()
    table = Table(columns, first)
    if first:
        print(table.row())
    items: Iterable[Any] = merge(gaps, chain(first, stream), key=BEGINNING)
    for item in items:
        if isinstance(item, Gap):
            where = printable(item.gateway, 64) + ": " if item.gateway else ""
            where += "[%s] " % printable(item.interface) if item.interface else ""
            why = " (%s)" % printable(item.why) if item.why else ""
            times = (zone.stamp(item.start), end_text(item.stop, item.start, zone))
            text = "-- %snot watched from %s to %s%s" % (where, *times, why)
            print(table.paint(fit(text, table.room), DIM))
        else:
            print(table.row(item))
            count, spans = count + 1, spans or item.unwatched > 0
            peers.add(item[:3])
    stars = ["* Nobody watched for a part of this session."] if spans else []
    found = "%s of %s." % (counted(count, "session"), counted(len(peers), "peer")) if count else "No session."
    return [*stars, *table.notes, found]


MARKS = {
    "beyond": "+ Includes the bytes of whole sessions that reach beyond the period.",
    "estimated": "~ The bytes of a session that reaches beyond are spread evenly over its time.",
}


def watched_text(history: History, zone: Zone) -> str:
    # Where an answer comes from, and when it may be incomplete.
    text = "Nothing was recorded."
    if history.live:
        text = "Watched since %s." % zone.stamp(history.watched.since)
    elif history.watched.until > history.watched.since:
        times = tuple(map(zone.stamp, history.watched))
        text = "Watched from %s to %s. Of later times, nothing is known." % times
    if not history.gateway:
        return text
    where = " (%s)" % printable(history.path) if history.gateway != history.path else ""
    return "%s%s: %s" % (printable(history.gateway), where, text)


def period_of(options: Any, now: float, zone: Zone) -> tuple[Period, list[str]]:
    # The period that is asked for, and what there is to say about it. Errors: Refusal.
    if options.present and (options.since or options.until):
        remedy = "see wg-monitor sessions --help"
        raise Refusal("invalid usage", "--present goes without --since and --until", remedy)
    begin, end = options.present or options.since, options.present or options.until
    since, note = parse_moment(begin, now, zone) if begin else (-FOREVER, "")
    until, other = parse_moment(end, now, zone, end=True) if end else (FOREVER, "")
    if options.present and note:  # between the two times of a clock that was set back, others may have been there
        until, other = since, note
    if begin and since > now:
        note += " " * bool(note) + "%s is later than now." % clean(begin)
    one = since == until and not options.present
    # A day begins when the day before it ends.
    if since > until or (one and since < parse_moment(begin, now, zone, end=True)[0]):
        found, why = "--since %s" % printable(begin), "it is later than --until %s" % printable(end)
        raise Refusal(found, why, "exchange them")
    return Period(since, until), [text for text in dict.fromkeys((note, other)) if text]


def a_number(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise Refusal("--last %s" % printable(text), "it is no number of sessions", "use 1 or more")
    return int(text)


def a_length(text: str) -> float:
    if not re.fullmatch("([0-9]{1,9}[wdhms])+", text):
        raise Refusal("--min-length %s" % printable(text), "it is no length", "write it like 90s, 5m, 1h30m or 2d")
    return float(seconds_in(text))


def interfaces_of(options: Any) -> frozenset[str]:
    names = frozenset(",".join(options.interface).split(",")) - {""}
    if options.interface and not names:  # it would mean all
        raise Refusal("--interface", "it names none", "give it a name; a variable of the shell may be unset")
    return names


def an_address(text: str) -> str:
    # As `wg` prints it.
    import socket

    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text))
    except (OSError, ValueError):
        remedy = "write it like 203.0.113.7, 10.0.0.2 or 2001:db8::7"
        raise Refusal("--ip %s" % printable(text), "it is no address", remedy) from None


def query_of(options: Any, sources: Sequence[Any]) -> Query:
    """Errors: Refusal."""
    keys = [known(text, set().union(*(source.find(text) for source in sources))) for text in options.peer]
    for text, meant in zip(options.peer, keys):  # a name may have several keys, but not the beginning of a key
        if all(means(text, key) for key in meant):
            one_key(text, meant)
    found, names = frozenset().union(*keys) if keys else None, frozenset(options.peer)
    chosen = interfaces_of(options), frozenset(options.reason), options.ip or "", options.min_length, options.last
    return Query(found, names, *chosen)


def sessions_parser() -> Any:
    parser = new_parser("sessions", "Show who was connected when, from where, how much, and why it ended.")
    add, sums = parser.add_argument, parser.add_mutually_exclusive_group()
    add("-s", "--since", metavar="MOMENT", help="sessions that were open at or after this moment")
    add("-t", "--until", metavar="MOMENT", help="sessions that began before it; a day counts to its end")
    add("-p", "--present", metavar="MOMENT", help="who was connected then; a day counts as a whole")
    add("-n", "--last", metavar="N", type=a_number, default=0, help="only the newest N")
    ip = "that came from this address, or whose peer had this tunnel address then"
    add("--ip", metavar="ADDRESS", type=an_address, help=ip)
    add("--reason", choices=REASONS, action="append", default=[], help="that ended so; repeatable")
    add("--min-length", metavar="LENGTH", type=a_length, default=0.0, help="that lasted so long: 90s, 5m, 1h30m")
    sums.add_argument("--summary", action="store_true", help="one line for each peer, and one for all")
    sums.add_argument("--by", choices=UNIT_NAMES, help="usage over time")
    add("--format", choices=("table", "json", "csv", "html"), default="table", help="default: table; html: a page")
    add("--from-log", metavar="FILE", nargs="+", help="read these trails instead of a store; - is standard input")
    add("--verbose", action="store_true", help="show the lines of trails that do not parse")
    add("--lang", choices=("en", "zh"), help="the language of the page; default: en")
    parser.epilog = "MOMENT: %s. %s" % (MOMENTS.partition("these: ")[2], EXIT_CODES)
    return parser


def sessions(words: Sequence[str]) -> int:
    options = sessions_parser().parse_args(words)
    table, html, sums = options.format == "table", options.format == "html", options.summary or options.by
    zone, now = Zone(options.timezone), wg_monitor.moment().wall
    period, notes = period_of(options, now, zone)
    for wrong, found, why, remedy in (
        (html and sums, "format html", "it shows sessions and sums at once", "leave out --summary and --by"),
        (options.from_log and options.store, "from-log", "it reads trails instead of a store", "leave out --store"),
        (options.verbose and not options.from_log, "verbose", "it is about trails", "add --from-log"),
        (options.lang and not html, "lang", "it is about the page", "add --format html"),
        (options.by and period.since == period.until, "by", "a moment has no usage", "use --since and --until"),
    ):
        if wrong:
            raise Refusal("--" + found, why, remedy)
    sources: Any = [Trails(options.from_log, zone, options.verbose)] if options.from_log else open_stores(options.store)
    query = query_of(options, sources)
    histories = [source.history(query, now) for source in sources]
    stream: Iterator[Session] = merge(*(history.sessions(period) for history in histories), key=BEGINNING)
    if query.last:
        newest = deque(stream, query.last)
        stream = iter(newest)
        period = period._replace(since=max(period.since, newest[0].start)) if newest else period
    gaps = [gap for h in histories for gap in h.gaps if gap.start < period.until and gap.stop > period.since]
    gateways = any(history.gateway for history in histories)
    items: Any = stream
    names = (*["gateway"] * gateways, *SESSION_FIELDS)
    twins = twins_of(who for source in sources for who in source.named()) if table else ()
    layout = "summary" if options.summary else "by" if options.by else "sessions"
    columns = columns_of(layout, zone, now, gateways, twins)
    if options.by:
        items, names = list(add_up_by(options.by, stream, histories, period, zone)), Usage._fields
    elif options.summary:
        begun: list[tuple[Who, Sum]] = []
        if not query.last and not options.from_log:
            pairs = [store.apart(query, now, period) for store in sources]
            begun = [pair for found, _ in pairs for pair in found]
            stream = merge(*(others for _, others in pairs), key=BEGINNING)
        whole = not (query.reasons or query.address or query.shortest or query.last)
        totals, total = add_up(stream, histories, period, begun, whole)
        items = [*sorted(totals, key=lambda t: (not t.name, t.name, t[:3])), total]
        names = Total._fields if gateways else Total._fields[1:]
    if html:
        if all(history.live for history in histories):  # the next reading tells of the time since the last one
            period = period._replace(until=min(period.until, max(history.watched.until for history in histories)))
        reconfigure(encoding="utf-8")  # as the page says, whatever the locale
        notes += [note for history in histories for note in history.notes]
        sys.stdout.writelines(page(stream, histories, period, now, zone, options.lang == "zh", notes))
        return 0
    if table and sums:
        shown = Table(columns, items)
        shown.show(items)
        notes += [text for flag, text in MARKS.items() if any(getattr(item, flag, False) for item in items)]
        notes += shown.notes
    elif table:
        notes += show_sessions(stream, sorted(gaps, key=BEGINNING), columns, zone)
    else:
        rows = ((fields_of if sums else session_fields)(item, zone) for item in items)
        if options.format == "json":
            write_json(rows)
        else:
            write_csv(names, rows)
    if gaps and (options.summary or not table):
        notes.append("In %s nobody watched: the table of the sessions shows when." % counted(len(gaps), "period"))
    for history in histories:
        if table or not history.live or -FOREVER < period.since < history.watched.since:
            notes.append(watched_text(history, zone))
        notes += history.notes
    show_notes(notes, table)
    return 0


# --- The command names --------------------------------------------------------------------------------------------


# A name in a file, or a peer without one.
class Entry(NamedTuple):
    name: str
    key: str
    file: str
    line: int | None  # of the section, in a configuration
    rule: str
    note: str


def entries_of(paths: Sequence[str], keys: set[str], notes: list[str]) -> Iterator[Entry]:
    first: dict[str, str] = {}  # where the name stands that counts
    for path in wg_monitor.Names(paths).list_files():
        try:
            with wg_monitor.open_names(path) as opened:
                text = opened.read(wg_monitor.NAMES_MAX)
        except OSError as error:
            notes.append("%s: %s." % (printable(path), reason_of(error)))
            continue
        lines: dict[str, int] = {}
        for number, line in enumerate(text.split("\n") if wg_monitor.JSON_START.match(text) else (), 1):
            lines.update((key, number) for key in wg_monitor.PUBLIC_KEY.findall(line) if key not in lines)
        for number, key, name, rule in wg_monitor.parse_names(io.StringIO(text, newline="\n")):
            if not key:
                notes.append("%s: %s." % (printable(path), name))
                continue
            number = number or lines.get(key, 0)
            note = "a second name: %s counts" % first[key] if key in first else "" if key in keys else "no such peer"
            first.setdefault(key, "%s:%d" % (path, number))
            yield Entry(name, key, path, number or None, rule, note)
    yield from (Entry("", key, "", None, "", "no name") for key in sorted(keys - first.keys()))


def names(words: Sequence[str]) -> int:
    parser = new_parser("names", "Show where the names of peers come from, and which peers have none.", common=False)
    parser.add_argument("instance", nargs="?", help="take the settings of wg-monitor@INSTANCE, not of wg-monitor")
    parser.add_argument("--peer-names", metavar="PATHS", help="files and directories, instead of those in PEER_NAMES")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = EXIT_CODES.replace(" or an unknown peer", "")
    options = parser.parse_args(words)
    environment, wrong, notes = wg_monitor.settings_of_unit(options.instance)[0], {}, []  # type: Any, Any, list[str]
    settings = wg_monitor.parse_settings({"peer_names": options.peer_names}, environment, wrong)
    if "peer_names" in wrong:  # others do not matter here
        raise wrong["peer_names"]
    if not settings.peer_names:
        raise Refusal("PEER_NAMES is not set", "no file gives names to peers", "set it, or use --peer-names")
    if os.path.lexists(settings.state_path):
        peers: Iterable[Key] = Store("", settings.state_path).names
    else:
        peers = decide_by_wg(*load_table(None, wg_monitor.moment()), run_wg()).present or ()
    keys = {key for _, key in peers}
    entries = list(entries_of(settings.peer_names, keys, notes))
    if options.json:
        write_json(entry._asdict() for entry in entries)
    else:
        table = Table(NAME_COLUMNS, entries)
        table.show(entries)
        named, have = len(keys & {entry.key for entry in entries if entry.name}), "has" if len(keys) == 1 else "have"
        notes = ["%d of %s %s a name." % (named, counted(len(keys), "peer"), have), *notes, *table.notes]
    show_notes(notes, not options.json)
    return 0


NAME_COLUMNS = [
    Column("NAME", lambda e: printable(e.name), colour=YELLOW_BOLD),
    Column("KEY", lambda e: clean(e.key), lambda e: wg_monitor.short_key(e.key), rank=2),
    Column("FILE", lambda e: printable(e.file), lambda e: printable(os.path.basename(e.file)), rank=1),
    Column("LINE", lambda e: str(e.line or ""), right=True),
    Column("RULE", lambda e: e.rule, rank=4),
    Column("NOTE", lambda e: printable(e.note), lambda e: e.note.partition(":")[0], rank=3),
]

# --- The page -----------------------------------------------------------------------------------------------------
# One file that requests nothing, in pieces. Memory holds as many bars as can be drawn, and the sessions within limits.

PIXELS = 1000  # of the timeline; bars of a peer that are narrower than one, and begin in the same one, are merged
BARS_MAX = 15_000  # beyond that, longer ones are merged, too: these take 3 MB, and a browser draws them in a second
CELLS = (6 * 3600, DAY_S, 7 * DAY_S, 28 * DAY_S, 364 * DAY_S)
LISTED_MAX = 5_000  # sessions in the table
ZOOMED_MAX = 100_000  # sessions in the days that the script shows
ENDS = ("online", *REASONS, "unrecorded")
MARKED = REASONS[1:]  # falling silent, the normal end, has no mark

# In English and in Chinese.
TEXTS = """
lang = en | zh-CN; locale = en-GB | zh-CN; title = Who was connected | 谁在何时在线; place = {1} on {0} | {0} 上的 {1}
from_to = {} to {} | {} 至 {}; date = {0.day} {month} {0.year}, {0:%H:%M} | {0.year}年{0.month}月{0.day}日 {0:%H:%M}
day = {weekday} {0.day} | {0.day}日 {weekday}; month = {month:.3} | {0.month}月
week = {0.day} {month:.3} | {0.month}月{0.day}日; year = {month:.3} {0.year} | {0.year}年{0.month}月
months = January February March April May June July August September October November December | \
1 2 3 4 5 6 7 8 9 10 11 12
weekdays = Mon Tue Wed Thu Fri Sat Sun | 周一 周二 周三 周四 周五 周六 周日; units = d h m s | 天 小时 分 秒
peers = Peers | 对端; peer = peer | 对端; seen = peers seen | 出现过的对端; now = online now | 当前在线
sessions = sessions | 会话; hours = hours online | 在线小时数; watched = time watched | 监控时间占比
received = received | 接收; sent = sent | 发送; online_time = online | 在线时长; share = share of watched time | 占监控时间
longest = longest | 最长会话; last_seen = last seen | 最后在线; from = from | 开始; until = until | 结束
length = length | 时长; endpoint = endpoint | 远端地址; end = how it ended | 结束方式; whole = Whole period | 整个时段
earlier = The day before | 前一天; later = The day after | 后一天; skip = Skip the timeline | 跳过时间线
chart = Sessions by peer ({}), {} | {} 个对端的会话，{}; connected = connected | 在线
in_words = One row per peer, one bar per session. The tables below say the same in words. | \
每个对端一行，每次会话一条。下面的表格以文字列出同样的内容。
several = several sessions: the paler, the less of it connected | 多次会话：颜色越浅，在线时间越少
online = still connected | 仍在线; idle = fell silent | 不再有活动; unreachable = ended unreachable | 失去响应
interface-down = interface went down | 接口关闭; removed = peer removed | 对端被删除; reset = handshake reset | 握手被重置
unknown = end unknown | 结束原因不明; unrecorded = end not recorded | 未记录结束原因
unwatched = not watched | 未监控; blind = a part of it not watched | 其中一段未监控
stopped = the monitor was stopped | 监控程序已停止; stalled = the monitor stood still | 监控程序停滞
failed = wg failed | wg 运行失败; late = wg was slow | wg 响应过慢; replaced = the store was replaced | 状态库被替换
unreadable = the interface could not be read | 接口无法读取
excluded = INTERFACE named others | INTERFACE 未包含此接口; before = nothing was recorded yet | 尚无记录
after = after the last reading | 最后一次读取之后; merged = {} sessions | {} 次会话; together = connected for {} | 共在线 {}
traffic = received {}, sent {} | 接收 {}，发送 {}; more = and {} more | 及另外 {} 个
nobody = Nobody was connected in this period. | 这段时间内没有人在线。
listed = Sessions: all {}, the newest first | 全部 {} 次会话，最新的在前
cut = Sessions: the newest {1} of {0}. The same command with --format csv instead of html lists all. | \
{0} 次会话中最新的 {1} 次。把同一条命令中的 --format html 换成 csv，即可列出全部会话。
cell = Sessions of a peer that are shorter than {} and close together share a bar, which says how many it holds. | \
同一对端短于 {} 且彼此相近的会话合并为一条，并注明其中的会话数。
zoomed = Zoomed to a day, the timeline has only the newest {} sessions. | 放大到某一天时，时间线只含最新的 {} 次会话。
explain = A session begins with a handshake and ends at the last sign of life. Bytes are lower bounds. Hatched time \
was not watched: what happened in it is unknown. | 会话从握手开始，到最后一次活动迹象为止。字节数是下限。\
斜线部分未被监控，其间发生了什么不得而知。
beyond = * Some of these bytes may lie outside the period. | * 部分字节可能不属于该时段。
made = Made by wg_monitor {} from {} on {}. | 由 wg_monitor {} 根据 {} 生成于 {}。
"""

PAGE = """<!doctype html>
<html lang="{lang}">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src '{style_hash}';
script-src '{script_hash}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: {places}, {dates}</title>
<style>{style}</style>
<header><p>{places}</p><h1>{title}</h1><p>{dates} <small>{offsets}</small></p></header>
<svg width=0 height=0 aria-hidden=true><pattern id=hatch width=7 height=7 patternUnits=userSpaceOnUse
patternTransform=rotate(-45)><rect width=1.2 height=7 /></pattern><defs><path id=unreachable d="M-1-7h2v14h-2z"/>
<path id=interface-down d="M-2-8h4v16h-4"/><path id=removed d="M-4-4l8 8m0-8l-8 8"/><path id=reset d="M5-6l-5 6 5 6"/>
<circle id=unknown cx=2 r=4 /></defs></svg>
<main><dl>{numbers}</dl>
<a class=skip href="#peers">{skip}</a>
<div id=zoom hidden><button id=whole hidden>← {whole}</button><strong aria-live=polite></strong>
<button id=earlier aria-label="{earlier}">‹</button><button id=later aria-label="{later}">›</button></div>
<div id=time class="{density}" tabindex=0 role=group aria-label="{title}"><div>
<svg class=scale aria-hidden=true><g>{labels}</g></svg>
{timeline}</div></div><ul id=legend>{legend}</ul>
<h2 id=peers>{peers}</h2>
<div class=wide tabindex=0 role=group aria-labelledby=peers><table><thead><tr><th scope=col>{peer}
<th scope=col>{sessions}<th scope=col aria-sort=descending>{online_time}<th scope=col>{share}<th scope=col>{longest}
<th scope=col>{received}<th scope=col>{sent}<th scope=col>{last_seen}<tbody>
{peer_rows}</table></div>{note}
<details><summary id=sessions>{listed}</summary><div class=wide tabindex=0 role=group aria-labelledby=sessions><table>
<thead><tr><th scope=col>{peer}<th scope=col>{from}<th scope=col>{until}<th scope=col>{length}<th scope=col>{endpoint}
<th scope=col>{received}<th scope=col>{sent}<th scope=col>{end}<tbody>
{session_rows}</table></div></details></main>
<footer>{notes}</footer><div id=tip hidden></div>
<script type="application/json" id=data>{data}</script>
<script>{script}</script>
"""

STYLE = """
:root { --paper: #fcfcfb; --ink: #1d2126; --soft: #5f6771; --line: #e4e6e8; --weekend: #f3f4f5; --past: #5f7fae;
  --now: #1a7a50; --warn: #b8741a; --bad: #b8433f; --other: #8055a8; --hatch: #8a929b; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e4e7ea; --soft: #9ba4ae; --line: #2a2f35;
  --weekend: #1b1f23; --past: #7f9fd0; --now: #43b883; --warn: #e0aa55; --bad: #ea7d77; --other: #b994dd;
  --hatch: #68707a } }
* { box-sizing: border-box } [hidden] { display: none !important }
body { margin: 0 auto; max-width: 1400px; padding: 40px 32px 56px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 Inter, system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; font-variant-numeric: tabular-nums }
h1 { margin: 2px 0 4px; font-size: 30px; line-height: 1.15; font-weight: 650; letter-spacing: -.015em }
h2 { margin: 40px 0 8px; font-size: 18px; font-weight: 650; letter-spacing: -.01em }
header p, small, footer, dt, summary, .note, #legend, #time h2 { color: var(--soft); font-size: 13px }
header p { margin: 0 } header h1 + p { font-size: 15px } small { margin-left: 8px; font-weight: 400 }
dl { display: flex; flex-wrap: wrap; gap: 14px 44px; margin: 28px 0 26px } .note { margin: 10px 0 0 }
dd { margin: 0; font-size: 24px; font-weight: 600; letter-spacing: -.01em } dd small { margin: 0; font-size: 14px }
:focus-visible { outline: 2px solid var(--past); outline-offset: 2px; border-radius: 3px }
button { padding: 4px 8px; border: 0; border-radius: 4px; background: none; color: inherit; font: inherit }
button:hover { background: var(--line); cursor: pointer }
#zoom { display: flex; align-items: center; justify-content: end; gap: 4px; min-height: 34px }
#zoom strong { margin-right: auto; font-weight: 600 }
.skip:not(:focus) { position: absolute; clip-path: inset(50%) }

#time { --h: 30px; --bar: 12px; --names: 176px } #time.dense { --h: 20px; --bar: 10px }
#time h2 { position: sticky; left: 0; width: max-content; margin: 14px 0 2px; font-weight: 500 }
#time section, .wide, ol { position: relative } body > svg, .back, sup { position: absolute }
.r, .scale, .back { display: block; width: 100%; height: var(--h); overflow: visible }
.scale, .back { margin-left: var(--names); width: calc(100% - var(--names)); height: 100% }
.scale { position: sticky; top: 0; z-index: 1; height: 44px; background: var(--paper) }
.scale text { fill: var(--soft); font-size: 12px; transform: translate(6px, 22px) }
.scale .c, .scale .n { font-size: 11px; text-anchor: end; transform: translate(-5px, 38px) }
.scale .n { fill: var(--now); font-weight: 600 } line { stroke: var(--line) } line.n { stroke: var(--now) }
line.c { stroke: var(--soft); stroke-dasharray: 2 4 } .w { fill: var(--weekend); height: 100% }
.gap { fill: url(#hatch); stroke: none; height: 100%; pointer-events: auto } #hatch rect { fill: var(--hatch) }
ol, #legend { list-style: none; margin: 0; padding: 0 }
ol li { display: grid; grid-template-columns: var(--names) 1fr; height: var(--h) }
ol, .back { pointer-events: none } .name, .r g { pointer-events: auto }
ol li::after { content: ""; grid-column: span 2; margin-top: -1px; border-top: 1px solid var(--line); opacity: .6 }
.name { display: flex; align-items: center; gap: 8px; min-width: 0; padding-right: 12px; font-size: 14px;
  font-weight: 500 } .dense .name { font-size: 12.5px }
.name bdi, th bdi { max-width: 24em; overflow: hidden; white-space: nowrap; text-overflow: ellipsis }
.name i { flex: none; width: 7px; height: 7px; border-radius: 50%; background: var(--now) }
.r g { fill: var(--past); stroke: var(--past); outline: none } .r g.o { fill: var(--now); stroke: var(--now) }
.r rect { y: calc(var(--h) / 2 - var(--bar) / 2); height: var(--bar); rx: 2.5px; stroke-width: .8px }
.m1 rect { opacity: .4 } .m2 rect { opacity: .55 } .m3 rect { opacity: .7 } .m4 rect { opacity: .85 }
.r g:hover rect, .r g:focus rect { stroke: var(--ink); stroke-width: 1.5px; opacity: 1 }
.r use { transform: translateY(calc(var(--h) / 2)) }
.r text { display: none; fill: var(--ink); stroke: var(--paper); stroke-width: 5px; paint-order: stroke;
  font-size: 12px; text-anchor: end; transform-box: view-box; transform: translateX(100%) }
html:not(.js) .scale { position: static } html:not(.js) .r g:is(:hover, :focus) text { display: inline }
.js #time:not(.zoomed) section { cursor: zoom-in }
#unreachable { fill: var(--warn); stroke: none } #unknown { fill: var(--paper); stroke: var(--soft) }
#interface-down, #removed, #reset { fill: none; stroke: var(--ink); stroke-width: 2; stroke-linecap: round }
#removed { stroke: var(--bad) } #reset { stroke: var(--other) }
#legend { --h: 20px; --bar: 12px; display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 14px 0 0 176px }
#legend li { display: flex; gap: 8px } #legend svg { flex: none; width: 24px }
#tip { position: fixed; z-index: 2; max-width: 380px; padding: 8px 12px; border-radius: 6px; background: var(--ink);
  color: var(--paper); font-size: 13px; white-space: pre-line; overflow-wrap: anywhere; pointer-events: none }
#tip::first-line { font-weight: 600 }

.wide { overflow-x: auto } table { width: 100%; border-collapse: collapse; font-size: 14px }
th, td { padding: 6px 0 6px 20px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { font-weight: 500 } th:first-child { padding-left: 0; text-align: left } td[colspan] { color: var(--soft) }
details :is(:nth-child(2), :nth-child(3), :nth-child(5), :last-child):is(th, td) { text-align: left }
thead th { color: var(--soft); font-size: 13px } thead [aria-sort] { color: var(--ink) } thead button { padding: 0 }
thead th::first-letter, thead button::first-letter { text-transform: uppercase }
[aria-sort]::after { content: " ↓" } [aria-sort=ascending]::after { content: " ↑" }
th bdi { display: inline-block; vertical-align: bottom } td rect:first-child { fill: var(--line) }
td svg { width: 80px; height: 6px; margin-left: 10px; vertical-align: middle; fill: var(--past) }
details { margin: 28px 0 36px } summary { width: fit-content; cursor: pointer } footer p { max-width: 84ch }

@media (max-width: 900px) { .odd { display: none } }
@media (max-width: 720px) { body { padding: 24px 16px } h1 { font-size: 24px } .odd { display: inline }
  dl { display: grid; grid-template-columns: repeat(3, auto); gap: 12px } #legend { margin-left: 0 }
  #time { --names: 0px; --h: 22px; overflow-x: auto; direction: rtl } ol li::after { display: block }
  #time > div { width: 1012px; padding-right: 12px; direction: ltr } th bdi { max-width: 10em }
  ol li { display: block; height: auto; padding-top: 5px } th small { display: none }
  .name { position: sticky; left: 0; width: max-content; max-width: calc(100vw - 40px) }
  #tip { left: 16px !important; right: 16px; top: auto !important; bottom: 16px; max-width: none } }
@media (prefers-reduced-motion: no-preference) { .r rect { transition: stroke-width .1s } }
@media print { @page { size: A4 landscape; margin: 12mm } :root { --paper: #fff } * { print-color-adjust: exact }
  body { max-width: none; padding: 0 } #zoom, #tip { display: none } .scale { position: static }
  tr, ol li, dl, #legend, h2 { break-inside: avoid } h2, summary { break-after: avoid } .wide { overflow: visible }
  table, thead th, summary { font-size: 10px } th, td { padding: 2px 0 2px 14px }
  details::details-content { display: block; content-visibility: visible } }
"""

SCRIPT = r"""
'use strict'
const one = (css, from = document) => from.querySelector(css)
const all = (css, from = document) => [...from.querySelectorAll(css)]
const data = JSON.parse(one('#data').textContent), texts = data.texts, root = document.documentElement
const time = one('#time'), tip = one('#tip'), rows = all('.r', time), sessions = []
let day = -1, begin = data.begin, end = data.end

const draw = (name, attributes, ...children) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const key in attributes) made.setAttribute(key, attributes[key])
  made.append(...children)
  return made
}
const local = t => new Date((t + data.offsets.filter(([from]) => from <= t).pop()[1]) * 1000)
const clock = t => local(t).toISOString().slice(0, 19).replace('T', ' ')
const span = (from, to) => {
  const same = clock(from).slice(0, 10) === clock(to).slice(0, 10)
  return clock(from) + ' – ' + clock(to).slice(same ? 11 : 0)
}
const lasting = s => {
  const place = [86400, 3600, 60].findIndex(size => s >= size), [size, less] = [86400, 3600, 60, 1].slice(place)
  const units = texts.units.split(' '), [unit, lesser] = units.slice(place)
  return place < 0 ? s + units[3] : `${s / size | 0}${unit} ${s % size / less | 0}${lesser}`
}
const amount = n => {
  let unit = 0
  for (; n >= (unit ? 999.5 : 1024) && unit < 5; unit++) n /= 1024
  return n == null ? '' : n.toFixed(unit && n < 99.95 ? 1 : 0) + ' ' + ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][unit]
}

// A day instead of the whole period, drawn from the sessions in the data.
const x = t => Math.min(100, Math.max(0, (t - begin) / (end - begin) * 100))
const box = (kind, a, b) => draw('rect', { class: kind, x: x(a) + '%', width: Math.max(.1, x(b) - x(a)) + '%' })
const line = (t, kind) => draw('line', { class: kind, x1: x(t) + '%', x2: x(t) + '%', y2: '100%' })
const bar = ([from, long, how, host, port, received, sent, more, blind]) => {
  const to = from + long, end_of = data.ends[how], others = more ? ' ' + texts.more.replace('{}', more) : ''
  const endpoint = data.hosts[host] ? data.hosts[host] + (port == null ? '' : ':' + port) + others : '–'
  const flow = (received ?? sent) != null && texts.traffic.replace('{}', amount(received)).replace('{}', amount(sent))
  const facts = [span(from, to), lasting(long), endpoint, flow, blind && texts.blind, texts[end_of]].filter(Boolean)
  const mark = data.marks.includes(end_of) && to <= end ? draw('use', { href: '#' + end_of, x: x(to) + '%' }) : ''
  return draw('g', how ? {} : { class: 'o' }, box('', from, to), draw('text', {}, facts.join(' · ')), mark)
}
const bars = row => {
  const numbers = code => code.split('.').map(n => n ? parseInt(n, 16) : null)
  let t = data.base
  sessions[row] = sessions[row] || data.rows[row].split(' ').map(numbers).map(([more, ...rest]) => [t += more, ...rest])
  return sessions[row].filter(([from, long]) => from < end && from + long >= begin).map(bar)
}
const swap = (node, children) => {
  if (!children && !node.kept) return
  node.kept = node.kept || [...node.childNodes]
  node.replaceChildren(...(children || node.kept))
}
const zoom = to => {
  day = Math.min(data.days.length - 2, Math.max(-1, to))
  const drawn = day >= 0, hour = t => parseInt(clock(t).slice(11)), hours = []
  begin = drawn ? Math.max(data.begin, data.days[day]) : data.begin
  end = drawn ? Math.min(data.end, data.days[day + 1]) : data.end
  for (let t = data.days[day]; t < end; t += 3600) if (t >= begin) hours.push(t)
  const label = t => draw('text', { x: x(t) + '%', class: hour(t) % 4 ? 'odd' : '' }, clock(t).slice(11, 16))
  swap(one('.scale g'), drawn && hours.filter(t => hour(t) % 2 === 0).map(label))
  all('.back > g').forEach((back, place) => swap(back, drawn && [...hours.map(t => line(t, 'l')),
    ...data.gaps[place].filter(([from, to]) => from < end && to > begin).map(([from, to]) => box('gap', from, to)),
    ...(begin < data.now && data.now < end ? [line(data.now, 'n')] : [])]))
  rows.forEach((row, place) => swap(row, drawn && bars(place)))
  for (const row of rows) all('g', row).forEach((bar, place) => bar.setAttribute('tabindex', place ? -1 : 0))
  tell()
  time.classList.toggle('zoomed', drawn)
  one('#whole').hidden = !drawn
  const full = local(begin).toLocaleDateString(texts.locale, { dateStyle: 'full', timeZone: 'UTC' })
  one('#zoom strong').textContent = drawn ? full : ''
}

// What is under the pointer, or has the focus.
const tell = (bar, at) => {
  tip.hidden = !bar
  if (!bar) return
  const place = one('rect', bar).getBoundingClientRect(), facts = one('text', bar).textContent.split(' · ')
  bar.setAttribute('role', 'img')
  bar.setAttribute('aria-label', facts.join(', '))
  tip.textContent = [one('bdi', bar.closest('li')).textContent, ...facts].join('\n')
  const { width, height } = tip.getBoundingClientRect(), over = place.top - height - 12
  const middle = at ?? (Math.max(0, place.left) + Math.min(root.clientWidth, place.right)) / 2
  tip.style.left = Math.max(8, Math.min(root.clientWidth - width - 8, middle - width / 2)) + 'px'
  tip.style.top = (over > 0 ? over : place.bottom + 12) + 'px'
}
const point = event => {
  const near = shift => document.elementFromPoint(event.clientX + shift, event.clientY)?.closest('.r g')
  const bar = [0, -2, 2, -5, 5].map(near).find(bar => bar)
  tell(bar, event.clientX)
  return bar
}
time.onpointermove = point
time.onpointerleave = () => tell()
time.addEventListener('focusin', event => tell(event.target.closest('.r g')))
time.addEventListener('focusout', () => tell())
time.onclick = event => {
  const bar = point(event), section = event.target.closest('section')
  if (!section || day >= 0 || data.days.length < 3 || (bar && event.pointerType === 'touch')) return
  const place = one('.back', section).getBoundingClientRect()
  const t = begin + (event.clientX - place.left) / place.width * (end - begin)
  if (t >= begin) zoom(data.days.filter(start => start <= t).length - 1)
}

// Each row is one stop of the tab key, and arrows move in it.
document.onkeydown = event => {
  if (event.key === 'Escape' && day >= 0) zoom(-1)
  const bar = event.target.closest('.r g')
  const next = bar && { ArrowLeft: bar.previousElementSibling, ArrowRight: bar.nextElementSibling }[event.key]
  const opens = bar && event.key === 'Enter' && day < 0 && data.days.length > 2
  if (next || opens) event.preventDefault()
  if (next) next.focus()
  if (opens) {
    const date = one('text', bar).textContent.slice(0, 10)  // it may be before the period
    zoom(Math.max(0, Date.parse(date) / 864e5 - data.first))
    one('#whole').focus()
  }
}
one('#whole').onclick = () => zoom(-1)
one('#earlier').onclick = () => zoom(day < 0 ? data.days.length - 2 : Math.max(0, day - 1))
one('#later').onclick = () => zoom(day + 1)
one('#zoom').hidden = data.days.length < 3
root.classList.add('js')
zoom(-1)

all('#peers + div th[scope=col]').forEach((head, column) => {
  const value = row => row.cells[column].dataset.v ?? row.cells[column].textContent
  const order = (a, b) => column ? value(a) - value(b) : value(a).localeCompare(value(b))
  head.innerHTML = `<button>${head.innerHTML}</button>`
  head.onclick = () => {
    const down = head.ariaSort ? head.ariaSort === 'ascending' : column > 0, body = one('#peers + div tbody')
    all('[aria-sort]').forEach(other => other.removeAttribute('aria-sort'))
    head.ariaSort = down ? 'descending' : 'ascending'
    body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)))
  }
})
window.onbeforeprint = () => { one('details').open = true }
"""

Ends = Tuple[str, ...]  # how the sessions of a bar ended: words of ENDS


def page(
    sessions: Iterable[Session], histories: Sequence[History], period: Period, now: float, zone: Zone,
    chinese: bool = False, notes: Iterable[str] = (),
) -> Iterator[str]:  # fmt: skip
    """The page in pieces. `sessions`: those of the period, in the order of their beginnings."""
    from base64 import b64encode
    from hashlib import sha256

    begin, end = period.since, min(period.until, now)
    if begin == -FOREVER:
        begin = min((h.watched.since for h in histories if h.watched.since > -FOREVER), default=now - DAY_S)
    drawn = Page(histories, Period(min(begin, end - 60), end), zone, chinese)
    totals, every = add_up(drawn.passing(sessions), histories, period._replace(until=end))
    parts: dict[str, Any] = {**drawn.texts, **drawn.parts(totals, every, now, notes), "style": STYLE, "script": SCRIPT}
    for name in ("style", "script"):
        parts[name + "_hash"] = "sha256-" + b64encode(sha256(parts[name].encode()).digest()).decode()
    for number, piece in enumerate(re.split(r"\{(\w+)\}", PAGE)):
        part = parts[piece] if number % 2 else piece
        yield from [part] if isinstance(part, str) else part


def safe(text: str) -> str:
    return escape(clean(text))


def end_of(session: Session) -> str:
    if session.state != ENDED:
        return "online" if session.state == ONLINE else "unknown"
    return session.reason if session.reason in ENDS else "unrecorded"


class Page:
    def __init__(self, histories: Sequence[History], period: Period, zone: Zone, chinese: bool) -> None:
        self.sources, self.period, self.zone = {h.gateway: h for h in histories}, period, zone
        self.begin, self.end = period
        entries = (entry.partition(" = ") for entry in re.split("\n|; ", TEXTS.strip()))
        self.texts = {name: text.split(" | ")[chinese] for name, _, text in entries}
        self.cell, self.day = (self.end - self.begin) / PIXELS, zone.local(self.begin).date()
        self.monday = zone.midnight(self.day - timedelta(self.day.weekday()))
        self.rows: dict[Who, list[tuple[Session, Ends]]] = {}  # the bars
        self.newest: deque[Session] = deque(maxlen=LISTED_MAX)
        self.codes: deque[tuple[Who, int, str]] = deque(maxlen=ZOOMED_MAX)
        self.hosts: dict[str, int] = {}
        self.bars = 0

    # It keeps what it draws of the sessions that pass.

    def passing(self, sessions: Iterable[Session]) -> Iterator[Session]:
        for session in sessions:
            self.put(session, (end_of(session),))
            if self.bars > 4 * BARS_MAX:
                self.merge(2 * BARS_MAX)
            self.newest.append(session)
            self.codes.append((session[:3], int(session.start), self.code(session)))
            yield session
        self.merge(BARS_MAX)

    def put(self, new: Session, ends: Ends) -> None:
        bars, cell = self.rows.setdefault(new[:3], []), self.cell_of(new, ends)
        if bars and cell is not None and cell == self.cell_of(*bars[-1]):
            last, before = bars.pop()
            received, sent = plus(last.received, new.received), plus(last.sent, new.sent)
            last = last._replace(received=received, sent=sent, unwatched=last.unwatched + new.unwatched)
            new = last._replace(until=max(last.until, new.until), length=last.length + new.length)
            ends = before + ends
            self.bars -= 1
        bars.append((new, ends))
        self.bars += 1

    def cell_of(self, session: Session, ends: Ends) -> float | None:
        # Bars in the same cell become one. None: this bar remains alone.
        if len(ends) == 1 and (session.until - session.start >= self.cell or session.state == ONLINE):
            return None
        return (session.start - self.monday) // self.cell

    def merge(self, most: int) -> None:
        while self.bars > most and self.cell < CELLS[-1]:
            self.cell = next(cell for cell in CELLS if cell > self.cell)
            rows, self.rows, self.bars = self.rows, {}, 0
            for bar in (bar for bars in rows.values() for bar in bars):
                self.put(*bar)

    def code(self, s: Session) -> str:
        # For the script: hexadecimal numbers. Missing ones at the end are left out.
        host, _, port = (s.endpoints or ("",))[-1].rpartition(":")
        numbers: list[int | None] = [int(s.until) - int(s.start), ENDS.index(end_of(s))]
        port = port if re.fullmatch("[0-9]{1,5}", port) else ""
        numbers += [self.hosts.setdefault(host, len(self.hosts)), int(port) if port else None]
        numbers += [s.received, s.sent, len(s.endpoints[1:]) or None, 1 if s.unwatched else None]
        return ".".join("" if n is None else "%x" % n for n in numbers).rstrip(".")

    # Words and places.

    def x(self, moment: float) -> float:
        return min(100.0, max(0.0, (moment - self.begin) / (self.end - self.begin) * 100))

    def box(self, start: float, until: float, least: float = 0.02) -> str:
        return "x=%.2f%% width=%.2f%% " % (self.x(start), max(least, self.x(until) - self.x(start)))

    def offset(self, moment: float) -> int:
        return round((self.zone.local(moment).replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds() - moment)

    def say(self, name: str, moment: float) -> str:
        local, text = self.zone.local(moment), self.texts
        month, weekday = text["months"].split(" ")[local.month - 1], text["weekdays"].split(" ")[local.weekday()]
        return text[name].format(local, month=month, weekday=weekday)

    def span(self, start: float, until: float, brief: bool = False) -> str:
        times = (self.zone.stamp(start), end_text(until, start, self.zone))
        return " – ".join(text[:-3] if brief else text for text in times)

    def lasting(self, seconds: float) -> str:
        units = dict(zip("dhms", self.texts["units"].split(" ")))
        return wg_monitor.duration(seconds).translate(str.maketrans(units))

    def facts(self, s: Session, ends: Ends) -> list[str]:
        # From and until, length, endpoint, bytes, time not watched, end. What does not apply is empty.
        text, counts, several = self.texts, Counter(ends), len(ends) > 1
        more = " " + text["more"].format(len(s.endpoints) - 1) if len(s.endpoints) > 1 else ""
        place = text["merged"].format(len(ends)) if several else safe(s.endpoints[-1]) + more if s.endpoints else "–"
        length = text["together"].format(self.lasting(s.length)) if several else self.lasting(s.length)
        known = s.received is not None or s.sent is not None
        traffic = text["traffic"].format(size_text(s.received), size_text(s.sent)) if known else ""
        end = ", ".join("%d × %s" % (counts[e], text[e]) if several else text[e] for e in ENDS if counts[e])
        return [self.span(s.start, s.until, several), length, place, traffic, text["blind"] if s.unwatched else "", end]

    def ticks(self) -> Iterator[tuple[float, float, str, str]]:
        # Of the scale and the backdrop: from, until, a label, and l = a line, w = a weekend's day, c = a clock change.
        days, zone, day = (self.end - self.begin) / DAY_S, self.zone, self.day
        step = next((m for m in (5, 10, 15, 30, 60, 120, 180, 360, 720) if days * 1440 / m <= 15), 1440)  # minutes
        months = 0 if days <= 105 else 1 if days <= 460 else 3 if days <= 1400 else 12 * math.ceil(days / 5500)
        while day <= zone.local(self.end).date():
            start, stop, monday = zone.midnight(day), zone.midnight(day + timedelta(1)), day.weekday() == 0
            if not months and day.weekday() >= 5:
                yield start, stop, "", "w"
            if not months and (days <= 40 or monday):
                name = "day" if days <= 16 else "week" if monday else ""
                yield start, start, self.say(name, start) if name else "", "l"
            elif months and day.day == 1 and (day.year * 12 + day.month - 1) % months == 0:
                yield start, start, self.say("year" if day.month == 1 else "month", start), "l"
            for minutes in range(step, 1440, step):
                shown = zone.walls(datetime(day.year, day.month, day.day) + timedelta(minutes=minutes))
                if shown[0] <= shown[1]:  # otherwise the clock skips this time
                    yield from ((moment, moment, zone.stamp(moment)[11:16], "l") for moment in sorted({*shown}))
            if self.offset(start) != self.offset(stop):
                change = next(t for t in range(int(start), int(stop), 60) if self.offset(t) != self.offset(start))
                yield change, change, "UTC" + zone.rfc3339(change)[-6:] if days <= 460 else "", "c"
            day += timedelta(1)

    def blind_times(self, place: tuple[str, str]) -> list[tuple[float, float, str]]:
        # When nobody watched, and what to say about it.
        history, unwatched = self.sources[place[0]], self.texts["unwatched"]
        found = [(self.begin, history.watched.since, "before"), (history.watched.until, self.end, "after")]
        gaps = (gap for gap in history.gaps if not place[1] or gap.interface in (None, place[1]))
        found += [(gap.start, gap.stop, gap.why) for gap in gaps]
        inside = sorted((max(start, self.begin), min(stop, self.end), why) for start, stop, why in found)
        words = ((a, b, [unwatched, self.span(a, b), self.texts.get(why, "")]) for a, b, why in inside if a < b)
        return [(start, stop, " · ".join(filter(None, said))) for start, stop, said in words]

    # The parts of the page.

    def parts(self, totals: list[Total], every: Total, now: float, notes: Iterable[str]) -> dict[str, Any]:
        text, edges = self.texts, self.period
        totals.sort(key=lambda t: (t[:2], not t.name, t.name.lower(), t.peer))
        found = {t[:3]: printable(t.name, 64) or printable(wg_monitor.short_key(t.peer)) for t in totals}
        times = Counter((who[:2], name) for who, name in found.items())
        self.labels = {w: safe(n if times[w[:2], n] == 1 else "%s %s" % (n, w[2][:8])) for w, n in found.items()}
        # Without a session: all interfaces, "".
        places = dict.fromkeys(t[:2] for t in totals) or [(gateway, "") for gateway in self.sources]
        self.places = {p: safe(text["place"].format(*p) if p[0] and p[1] else p[0] or p[1]) for p in places}
        self.blind = {place: self.blind_times(place) for place in self.places}
        stretches = [watched(self.sources[place[0]], place[1] or None, edges) for place in self.places]
        share = sum(overlap(parts, *edges) for parts in stretches) / max(1, len(stretches)) / (self.end - self.begin)
        online = [bars[-1][0].until for bars in self.rows.values() if bars[-1][0].state == ONLINE]
        self.lines = [*self.ticks(), *((moment, moment, text["now"], "n") for moment in sorted(online)[-1:])]
        bars = [bar for bars in self.rows.values() for bar in bars if len(bar[1]) > 1 or bar[0].until <= self.end]
        there = {ends[0] if len(ends) == 1 else "several" for _, ends in bars}
        there |= {"connected", *["unwatched"] * any(self.blind.values())}
        counts = [format(number, ",") for number in (every.sessions, len(self.newest), len(self.codes))]
        numbers = [format(n, ",.0f") for n in (len(totals), len(online), every.sessions, every.online_s / 3600)]
        numbers += [size_text(every.received_bytes), size_text(every.sent_bytes), "%.4g %%" % (int(share * 1000) / 10)]
        said = [text["explain"], text["cell"].format(self.lasting(self.cell)) if "several" in there else ""]
        said += [text["zoomed"].format(counts[2]) if counts[2] != counts[0] else "", *map(safe, notes)]
        paths = safe(", ".join(history.path for history in self.sources.values()))
        said.append(text["made"].format(wg_monitor.VERSION, paths, self.say("date", now)))
        self.dates = text["from_to"].format(self.say("date", self.begin), self.say("date", self.end))
        offsets = [self.begin, *(line[0] for line in self.lines if line[3] == "c" and line[0] < self.end)]
        labelled = zip(("seen", "now", "sessions", "hours", "received", "sent", "watched"), numbers)
        shown = ("<div><dt>%s<dd>%s%s<small>%s</small></div>" % (text[n], *v.partition(" ")) for n, v in labelled)
        return {
            "places": ", ".join(filter(None, self.places.values())) or "WireGuard",
            "dates": self.dates, "numbers": shown,
            "offsets": ", ".join(dict.fromkeys("UTC" + self.zone.rfc3339(moment)[-6:] for moment in offsets)),
            "density": "dense" if len(totals) > 40 else "", "labels": self.scale(), "timeline": self.timeline(),
            "legend": self.legend(there), "peer_rows": self.peer_rows(totals), "session_rows": self.session_rows(),
            "note": "<p class=note>%s" % text["beyond"] if every.beyond else "", "data": self.data(),
            "listed": text["listed" if counts[0] == counts[1] else "cut"].format(*counts),
            "notes": ("<p>%s" % sentence for sentence in said if sentence),
        }  # fmt: skip

    def scale(self) -> Iterator[str]:
        # The day in which it begins has a label there, but no time of day, which was earlier.
        fit_in = (line for line in self.lines if line[0] <= self.end and (line[0] >= self.begin or ":" not in line[2]))
        lines = [(self.x(line[0]), *line[2:]) for line in fit_in if line[2]]
        shown = [line for line in lines if line[0] > 0 and (line[0] < 96 or line[2] == "n")]
        if not shown or shown[0][0] > 5:
            shown[:0] = [line for line in lines if line[0] == 0 and line[2] == "l"][-1:]
        for number, (x, label, kind) in enumerate(shown):
            yield "<text x=%.2f%% class=%s>%s</text>" % (x, "odd" if number % 2 and kind == "l" else kind, label)

    def timeline(self) -> Iterator[str]:
        text, back = self.texts, ""
        for start, until, _, kind in self.lines:
            if kind == "w":
                back += "<rect class=w %s/>" % self.box(start, until)
            elif self.begin <= start <= self.end:
                back += "<line class=%s x1=%.2f%% x2=%.2f%% y2=100%% />" % (kind, self.x(start), self.x(start))
        for number, (place, name) in enumerate(self.places.items()):
            members = [who for who in self.labels if who[:2] == place]
            yield "<h2>%s</h2>" % name if len(self.places) > 1 else ""
            yield "<section><svg class=back role=img aria-labelledby=t%d aria-describedby=d%d>" % (number, number)
            yield "<title id=t%d>%s</title>" % (number, text["chart"].format(len(members), self.dates))
            yield "<desc id=d%d>%s</desc><g>%s" % (number, text["in_words"], back)
            for start, stop, said in self.blind[place]:
                yield "<rect class=gap %s><title>%s</title></rect>" % (self.box(start, stop, 0.15), said)
            yield "</g></svg><ol>\n"
            for who in members:
                dot = "<i role=img aria-label='%s'></i>" % text["now"] if self.rows[who][-1][0].state == ONLINE else ""
                words = self.labels[who], safe(who[2]), self.labels[who], dot, "".join(map(self.bar, self.rows[who]))
                yield "<li><div class=name title='%s\n%s'><bdi>%s</bdi>%s</div><svg class=r>%s</svg>\n" % words
            yield "</ol></section>"
        yield "" if self.labels else "<p>%s</p>" % text["nobody"]

    def bar(self, bar: tuple[Session, Ends]) -> str:
        (session, ends), several = bar, len(bar[1]) > 1
        start, until, share = session.start, session.until, session.length / max(1.0, session.until - session.start)
        kind = " class=m%d" % min(4, 1 + int(4 * share)) if several else " class=o" if ends[0] == "online" else ""
        end = "removed" if "removed" in ends else "" if several else ends[0]
        mark = "<use href=#%s x=%.2f%% />" % (end, self.x(until)) if end in MARKED and until <= self.end else ""
        facts = " · ".join(filter(None, self.facts(session, ends)))
        return "<g tabindex=0%s><rect %s/>%s<text>%s</text></g>" % (kind, self.box(start, until), mark, facts)

    def legend(self, there: AbstractSet[str]) -> Iterator[str]:
        whole, mark = "<rect width=100% />", "<g><rect width=85%% /><use href=#%s x=85%% />"
        shapes = {"connected": "<g>" + whole, "online": "<g class=o>" + whole, "several": "<g class=m2>" + whole}
        shapes.update({end: mark % end for end in MARKED}, unwatched="<g><rect class=gap width=100% />")
        for name in (name for name in shapes if name in there):
            yield "<li><svg class=r aria-hidden=true>%s</g></svg>%s" % (shapes[name], self.texts[name])

    def titled(self, who: Who) -> str:
        small = "<small>%s</small>" % self.places[who[:2]] if len(self.places) > 1 else ""
        return "<tr><th scope=row><bdi>%s</bdi>%s" % (self.labels[who], small)

    def peer_rows(self, totals: Iterable[Total]) -> Iterator[str]:
        for t in sorted(totals, key=lambda total: -total.online_s):
            seen, star = max(session.until for session, _ in self.rows[t[:3]]), "<sup>*</sup>" if t.beyond else ""
            share, bar = -1.0 if t.share is None else t.share * 100, "<rect width=%.1f%% height=6 rx=3 />"
            drawn = "%.0f %%<svg aria-hidden=true>" % share + bar % 100 + bar % share + "</svg>" if share >= 0 else "–"
            values = (t.sessions, t.online_s, share * 100, t.longest_s, t.received_bytes, t.sent_bytes, seen)
            sizes = (size_text(t.received_bytes) + star, size_text(t.sent_bytes) + star, self.zone.stamp(seen)[:16])
            words = (format(t.sessions, ","), self.lasting(t.online_s), drawn, self.lasting(t.longest_s), *sizes)
            cells = ("<td data-v=%.0f>%s" % (-1 if v is None else v, word) for v, word in zip(values, words))
            yield self.titled(t[:3]) + "".join(cells) + "\n"

    def session_rows(self) -> Iterator[str]:
        # The newest first, with the times that nobody watched between them.
        waiting = sorted((*gap, self.places[place]) for place, gaps in self.blind.items() for gap in gaps)
        for s in [*reversed(self.newest), None]:
            while waiting and (waiting[-1][0] >= s.start if s else len(self.newest) < LISTED_MAX):
                _, _, said, name = waiting.pop()
                yield "<tr><th scope=row>%s<td colspan=7>%s\n" % (name, said)
            if s:
                _, length, place, _, blind, end = self.facts(s, (end_of(s),))
                until = "–" if s.state == ONLINE else self.zone.stamp(s.until)
                ended = " · ".join(filter(None, (end, blind)))
                cells = (self.zone.stamp(s.start), until, length, place, *map(size_text, (s.received, s.sent)), ended)
                yield self.titled(s[:3]) + "<td>" + "<td>".join(cells) + "\n"

    def data(self) -> Iterator[str]:
        days, base = [self.zone.midnight(self.day)], int(self.begin)
        while days[-1] <= self.end:
            days.append(self.zone.midnight(self.day + timedelta(len(days))))
        rows: dict[Who, list[str]] = {who: [] for who in self.labels}
        before = dict.fromkeys(self.labels, base)
        for who, start, code in self.codes:
            rows[who].append("%x.%s" % (start - before[who], code))
            before[who] = start
        early = sorted({start for _, start, _ in self.codes if start < self.begin})  # they may have other offsets
        changes = [*early, *[self.begin] * bool(early), *(line[0] for line in self.lines if line[3] == "c")]
        head = {
            "texts": self.texts, "ends": ENDS, "marks": MARKED, "gaps": list(self.blind.values()), "days": days,
            "begin": self.begin, "end": self.end, "base": base, "first": (self.day - date(1970, 1, 1)).days,
            "now": max([line[0] for line in self.lines if line[3] == "n"], default=0),
            "hosts": list(map(clean, self.hosts)),
            "offsets": [[0, self.offset(self.begin)], *([change, self.offset(change)] for change in changes)],
        }  # fmt: skip
        yield json.dumps(head, ensure_ascii=False, separators=(",", ":"))[:-1].replace("<", "\\u003c")
        yield ',"rows":[%s]}' % ",".join('"%s"' % " ".join(row) for row in rows.values())


# --- The command metrics ------------------------------------------------------------------------------------------


def labels_text(**labels: str) -> str:
    # A store may be hostile: its texts cannot leave their quotes.
    texts = {name: clean(text).replace("\\", r"\\").replace('"', r"\"") for name, text in labels.items()}
    return ",".join('%s="%s"' % pair for pair in texts.items())


def metric(name: str, about: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    # In Prometheus' text format. `samples`: the values by labels; without any, nothing is said of the metric.
    head = "# HELP %s %s.\n# TYPE %s %s\n" % (name, about, name, "counter" if name.endswith("_total") else "gauge")
    for labels, value in samples:
        yield "%s%s%s %s\n" % (head, name, "{%s}" % labels if labels else "", round(value, 3))
        head = ""


def metrics_of(
    table: wg_monitor.Table, shown: Iterable[Key], unread: Iterable[str], store: Store | None, last: float | None,
    more: Mapping[str, str],
) -> Iterator[str]:  # fmt: skip
    """Lines about what is known. `shown`: the peers in this run of `wg`. `unread`: the interfaces that cannot be read.
    `more`: labels of every value."""
    peers = []
    for (interface, key), row in sorted(table.rows.items()):
        name = printable(store.names.get((interface, key), ""), 64) if store else ""
        peers.append((row, labels_text(interface=interface, public_key=key, friendly_name=name, **more)))
    # Existing dashboards know the first three.
    wide = [(row, "%s,%s" % (labels, labels_text(allowed_ips=row.allowed_ips))) for row, labels in peers]
    # What the store has may be older than the last file: to Prometheus, a counter that falls has begun anew.
    fresh = [(row, labels) for row, labels in wide if row.identity in shown]
    about = "Bytes sent to the peer, as wg shows them"
    yield from metric("wireguard_sent_bytes_total", about, ((labels, row.tx) for row, labels in fresh))
    about = "Bytes received from the peer, as wg shows them"
    yield from metric("wireguard_received_bytes_total", about, ((labels, row.rx) for row, labels in fresh))
    about = "Time of the latest handshake in seconds since the epoch, not its age; 0 = never"
    yield from metric("wireguard_latest_handshake_seconds", about, ((labels, row.handshake) for row, labels in wide))
    seen = [(row, labels) for row, labels in peers if row.identity[0] not in unread]  # others have no state
    states = ((labels, int(row.session is not None)) for row, labels in seen)
    yield from metric("wg_monitor_peer_online", "Whether the peer is online: 1 = yes, 0 = no", states)
    about = "Time at which the session of an online peer began, in seconds since the epoch"
    starts = ((labels, row.session.start) for row, labels in seen if row.session and store)
    yield from metric("wg_monitor_peer_session_start_seconds", about, starts)
    ups = ((labels_text(interface=name, **more), int(found.up)) for name, found in sorted(table.interfaces.items()))
    yield from metric("wg_monitor_interface_up", "Whether the interface exists: 1 = yes, 0 = no", ups)
    about, own = "Time of the monitor's last reading in seconds since the epoch; 0 = none is known", labels_text(**more)
    yield from metric("wg_monitor_last_reading_timestamp_seconds", about, [] if last is None else [(own, last)])
    if store and store.counts:
        readings, failed, hooks, hook_failures, trail_failures, store_failures = store.counts
        for name, about, label, counts in (
            ("readings", "Readings", "result", {"ok": readings - failed, "failed": failed}),
            ("hook_runs", "Runs of the hook", "result", {"ok": hooks - hook_failures, "failed": hook_failures}),
            ("write_failures", "Failed writes", "sink", {"trail": trail_failures, "store": store_failures}),
        ):
            samples = [(labels_text(**{label: which}, **more), count) for which, count in counts.items()]
            yield from metric("wg_monitor_%s_total" % name, about + " since the monitor started", samples)
    version = labels_text(version=wg_monitor.VERSION, **more)
    yield from metric("wg_monitor_build_info", "Always 1; the version is a label", [(version, 1)])


def replace_file(path: str, lines: Iterable[str]) -> None:
    # A reader finds the former file or the whole new one. node_exporter reads none with the temporary name.
    from tempfile import mkstemp

    temporary = ""
    try:
        descriptor, temporary = mkstemp(".new", ".wg-monitor-", os.path.dirname(os.path.abspath(path)))
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o644)
            file.writelines(lines)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.remove(temporary)
        found, why = "%s cannot be written" % printable(path), reason_of(error)
        remedy = "its directory has to exist: install node_exporter, or name another file"
        raise Refusal(found, why, remedy, EXIT_FAILURE) from None


def metrics(words: Sequence[str]) -> int:
    parser = new_parser("metrics", "Print metrics for Prometheus, from one run of wg and the store.", common=False)
    parser.add_argument("instance", nargs="?", default="", help="its settings, instead of the service's, and a label")
    parser.add_argument("--store", metavar="FILE", help="read this store, not the one that the settings name")
    parser.add_argument("--output", metavar="FILE", help="write this file in one step, with mode 0644")
    parser.epilog = "Exit codes: 0 done, 1 failure, 2 invalid usage, 4 not permitted, 5 wg is not installed."
    options = parser.parse_args(words)
    store, shown, now = None, (), wg_monitor.moment()  # type: Store | None, Iterable[Key], Any
    unit = wg_monitor.settings_of_unit(options.instance)[0]
    settings = wg_monitor.parse_settings({"state_path": options.store}, unit, {})
    try:
        store = Store("", settings.state_path) if settings.state_path else None
        table, settings = load_table(store, now, settings)
    except Refusal as refusal:
        print("wg_monitor: %s" % refusal, file=sys.stderr)
        store, table = None, wg_monitor.Table()
    unread: Iterable[str] = store.unread if store else ()
    try:
        reading = decide_by_wg(table, settings, run_wg())
        shown, unread = reading.present or (), reading.unreadable
    except Refusal as refusal:
        if store is None:  # nothing is known
            raise
        print("wg_monitor: %s" % refusal, file=sys.stderr)
    last = store.last if store else 0 if settings.state_path else None
    more = {"monitor": options.instance} if options.instance else {}
    lines = metrics_of(table, shown, unread, store, last, more)
    if options.output:
        replace_file(options.output, lines)
    else:
        reconfigure(encoding="utf-8")
        sys.stdout.writelines(lines)
    return 0


# --- The command line ---------------------------------------------------------------------------------------------

EXIT_OFFLINE = 3
EXIT_CODES = "Exit codes: 0 done, 1 failure or an unknown peer, 2 invalid usage, 4 not permitted."


def new_parser(command: str, description: str, common: bool = True) -> Any:
    # With the options that `status` and `sessions` have in common.
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise Refusal("invalid usage", printable(message), "see wg-monitor %s --help" % command)

    parser = Parser("wg-monitor " + command, allow_abbrev=False, description=description)
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
    if common:
        stores = "read this store; repeatable; NAME becomes a column; default: those in " + STORES
        add = partial(parser.add_argument, action="append", default=[])
        add("--peer", metavar="PEER", help="a name, a key, or the beginning of a key; repeatable")
        add("--interface", metavar="NAME", help="only this interface; repeatable")
        add("--store", metavar="[NAME=]FILE", help=stores)
        zone = "such as Europe/Berlin; default: the machine's"
        parser.add_argument("--timezone", metavar="ZONE", default="", help=zone)
    return parser


def open_stores(texts: Sequence[str], needed: bool = True) -> list[Store]:
    """Those that were named, or those of this machine. Errors: Refusal, OSError."""
    if not texts:
        with suppress(FileNotFoundError):
            texts = ["%s/%s" % (STORES, n) for n in sorted(os.listdir(STORES)) if re.fullmatch(r"state(-.+)?\.db", n)]
        elsewhere = wg_monitor.settings_of_unit(None)[0]["STATE_PATH"]  # where the service's settings put it
        # Nobody has named them: two names of one store are no mistake.
        texts = [*{os.path.realpath(path): path for path in [*texts, elsewhere] if os.path.lexists(path)}.values()]
    if not texts and needed:
        why, remedy = "%s holds none" % STORES, "start the monitor with STATE_PATH, or name a store with --store"
        raise Refusal("there is no store", why, remedy, EXIT_FAILURE)
    pairs = [re.fullmatch("(?s)(?:([^/=]+)=)?(.*)", text).groups("") for text in texts]  # type: ignore[union-attr]
    paths = [os.path.realpath(path) for _, path in pairs]
    again = [path for number, path in enumerate(paths) if path in paths[:number]]
    if again:  # every sum would count it twice
        raise Refusal("--store %s" % printable(again[0]), "it is named twice", "name it once")
    given = [name for name, _ in pairs if name]
    if len(set(given)) < len(given):
        raise Refusal("--store", "two stores have the same name", "give each its own")
    if len(pairs) > 1:
        pairs = [(name or re.sub(r".*/|\.db$", "", path), path) for name, path in pairs]
    twice = len({name for name, _ in pairs}) < len(pairs)
    return [Store(path if twice else name, path) for name, path in pairs]


def reconfigure(**how: str) -> None:
    # Standard output, unless it is closed or something else.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(**how)


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {f.__name__: f for f in (status, sessions, names, metrics)}


def main(words: Sequence[str]) -> int:
    # The first word is the command, one of wg_monitor.REPORTS.
    if any(word == "" or re.fullmatch("--[a-z-]+=", word) for word in words):  # it would mean every peer without a name
        raise Refusal("invalid usage", "an argument is empty", "give it a value; a variable of the shell may be unset")
    reconfigure(errors="replace")  # what the terminal cannot show
    collecting = gc.isenabled()
    gc.disable()  # a million sessions are as many tuples without a cycle: a tenth of the time, for nothing
    try:
        code = COMMANDS[words[0]](words[1:])
        print(end="", flush=True)
        return code
    except PermissionError as error:
        from shlex import quote

        program = ["python3", sys.argv[0]] if sys.argv[0].endswith(".py") else ["wg-monitor"]
        remedy = clean("type: sudo " + " ".join(map(quote, [*program, *words])))
        found = clean("%s cannot be read" % error.filename)
        raise Refusal(found, "only root can read it", remedy, EXIT_NOT_PERMITTED) from None
    except OSError as error:
        with suppress(OSError, ValueError, AttributeError):  # what is still in the buffer is not written at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # such as `| head`
            return 0
        found = clean("%s cannot be read" % error.filename if error.filename else "the output cannot be written")
        raise Refusal(found, reason_of(error), "try again", EXIT_FAILURE) from None
    finally:
        if collecting:
            gc.enable()
