#!/usr/bin/env python3
"""Who was connected when: a trail of WireGuard peers coming and going.

wg_monitor runs `wg show all dump` on an interval, compares what it says with what was known, and writes each
difference as one line of a log that can be testified with.

    wait -> read -> parse -> decide -> store -> trail -> hook -> service manager -> wait

    text of wg      --parse-->   Reading            (secrets end here: no value below has a field for one)
    Table, Reading  --decide-->  Table, [Event]     (pure: the clock is an argument)
    Event           --render-->  line, JSON object, hook environment
    line            --store, trail, hook-->         exactly once, or at least once and numbered

Trust boundary: everything that `wg`, a hook or the file system says is hostile until a pattern below has
accepted it. The private and preshared keys that `wg` prints are dropped where its output is split.

Exit codes: 0 done, 1 failure, 2 wrong usage or settings, 4 not permitted, 5 `wg` is not installed.
"""

import errno
import fcntl
import gc
import math
import os
import re
import resource
import select
import signal
import stat
import struct
import sys
import time
from array import array
from collections import deque
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, compress, groupby, islice
from operator import attrgetter, ne
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Deque,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

if TYPE_CHECKING:
    import sqlite3

VERSION = "1.1.0"

# --- Constants ----------------------------------------------------------------------------------------------------

EXIT_FAILURE, EXIT_USAGE, EXIT_NOT_PERMITTED, EXIT_NO_WG = 1, 2, 4, 5

SEARCH_PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
WG_TIMEOUT_S = 10
BLOCK = 64 << 10  # bytes of its output that are looked at at once: they stay in the processor's cache
WG_OUTPUT_MAX = 256 << 20  # bytes; 100,000 peers with a dozen networks each print 30 MiB
HOOKS_AT_ONCE = 4
HOOKS_WAITING_MAX = 10_000
HOOK_OUTPUT_MAX = 4096  # bytes
HOOK_GRACE_S = 5
ENDPOINTS_MAX = 32  # the last ones of a session: a peer that roams for months stays bounded
LINES_AT_ONCE = 256  # in one write; a storm's in one would be megabytes, of which the C library keeps what it was given
LINES_IN_BATCH = 10_000  # that the store is told of at once
BACKLOG_MAX = 100_000  # lines kept in memory while the trail cannot be written
CONSOLE_PATIENCE_S = 0.5
LOCKED_S = 0.1  # we are the only writer: another lock on the database is a stranger's, and he is not waited for
CHECKPOINT_S = 300
PRUNE_ROWS = 5000  # a checkpoint forgets this much history at most, so that no reading waits for it
AHEAD_PAGES = 1000  # SQLite's own
STEADY_S = 86_400  # history is only forgotten by a wall clock that has run this long without a step
DAY_S = 86_400
REKEY_AFTER_TIME_S = 120  # WireGuard's protocol: a session in use shakes hands anew after this long
EPOCH_MAX = 253_402_300_799  # 9999-12-31, the last day that the C library's calendar prints in four digits
UNREACHED_S = 1_700_000_000  # wall clock of the year 2023: as milliseconds, more lines than anybody has
COUNTER_MAX = 2**63 - 1  # SQLite's integers
SECONDS_MAX = 31_536_000
NEVER = float("-inf")
SESSION_FIGURES = struct.Struct("=qddqqd")  # all fields of a Session but the last
SESSION_NUMBER = struct.Struct("=q")
CAP_NET_ADMIN = 12  # linux/capability.h
BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"

TRAIL_ROOTS = ("/var/log", "/tmp")
STORE_ROOTS = ("/var/lib", "/run", "/tmp")

# wg-quick(8): ^[a-zA-Z0-9_=+.-]{1,15}$; a key is 32 bytes in base64.
INTERFACE_NAME = re.compile(r"[a-zA-Z0-9_=+.-]{1,15}")
INTERFACE_LINE = re.compile(rb"[a-zA-Z0-9_=+.-]{1,15}\t[^\t]*\t[^\t]*\t[0-9]{1,5}\t(?:off|0x[0-9a-f]{1,8})")
LINE_START = re.compile(rb"([a-zA-Z0-9_=+.-]{1,15})\t")
PEER_LINE = re.compile(
    rb"([a-zA-Z0-9_=+.-]{1,15})\t"
    rb"([A-Za-z0-9+/]{43}=)\t"
    rb"(?:\(none\)|[A-Za-z0-9+/]{43}=)\t"  # the preshared key: no group, so that no match holds it
    rb"([0-9.]{7,15}:[0-9]{1,5}|\[[0-9a-fA-F:.]{2,45}(?:%[!-~]{1,15})?\]:[0-9]{1,5}|\(none\))\t"
    rb"(\(none\)|[0-9a-fA-F.:/,]+)\t"
    rb"([0-9]{1,12})\t([0-9]{1,19})\t([0-9]{1,19})\t"
    rb"(?:off|[0-9]{1,5})"
)
UNREADABLE = re.compile(r"Unable to access interface (.*?): ")
KEY_LIKE = re.compile(r"[A-Za-z0-9+/]{43}=|[0-9a-fA-F]{64}")

INFORMATION = 6  # the levels of syslog(3)
LEVELS = {"ERROR": 3, "WARN": 4, "DEBUG": 7}
EVENT_KINDS = ("ONLINE", "OFFLINE", "ROAMING", "CHANGED", "REMOVED", "IFDOWN", "IFUP")

# --- Values -------------------------------------------------------------------------------------------------------

Identity = Tuple[str, str]  # interface, public key


class Mark(NamedTuple):
    """What a meter showed at some moment."""

    received: int
    transmitted: int
    heard: float


class Moment(NamedTuple):
    """One instant on two clocks."""

    wall: float  # seconds since the epoch: what people read, and what `wg` prints
    boot: float  # CLOCK_BOOTTIME, seconds: what ages are made of; counts suspend, knows no steps


class Meter:
    """The byte counters of one peer: the one part of a peer that moves at nearly every reading, so it is changed
    in place. Totals outlive a counter that starts anew, and are lower bounds."""

    __slots__ = ("identity", "rx", "tx", "past_rx", "past_tx", "heard", "sent", "moved")

    def __init__(self, identity: Identity, rx: int, tx: int) -> None:
        self.identity = identity
        self.rx, self.tx = rx, tx  # as last printed
        self.past_rx = self.past_tx = 0  # what counters that have started anew had reached
        self.heard = NEVER  # boot time of the reading that last saw `rx` grow
        self.sent = tx  # `tx` at the last sign of life
        self.moved = True  # or anything else of the peer has changed, since the store was told

    def mark(self) -> Mark:
        """The totals, and when the peer was heard last."""
        rx, tx = self.rx, self.tx
        if self.past_rx or self.past_tx:
            rx, tx = min(self.past_rx + rx, COUNTER_MAX), min(self.past_tx + tx, COUNTER_MAX)
        return Mark(rx, tx, self.heard)

    def count(self, rx: int, tx: int, boot: float) -> None:
        """Take the counters of a reading at `boot`."""
        if tx < self.tx:
            self.past_tx = min(self.past_tx + self.tx, COUNTER_MAX)
            self.sent = 0
        if rx < self.rx:
            self.past_rx = min(self.past_rx + self.rx, COUNTER_MAX)
        if rx > self.rx or (rx and rx < self.rx):
            self.heard = boot
            self.sent = tx
        self.moved = self.moved or (rx, tx) != (self.rx, self.tx)
        self.rx, self.tx = rx, tx


class Peer(NamedTuple):
    """What one line of a reading says of a peer, with the Mark of its meter at the reading before: where a session
    that begins now starts to count, and one that was reset has ended."""

    meter: Meter
    endpoint: str  # "" = none
    allowed_ips: str  # as `wg` prints them, separated by commas; "" = none
    handshake: int  # seconds since the epoch; 0 = never
    received: int
    transmitted: int
    heard: float

    @property
    def identity(self) -> Identity:
        return self.meter.identity


class Peers:
    """The peers of a reading, their fields in one list: a tuple for each peer would leave holes in memory between
    what stays, 200 bytes a peer that a first reading is never rid of."""

    def __init__(self) -> None:
        self.fields: List[Any] = []

    def add(self, *fields: Any) -> None:
        self.fields += fields

    def __iter__(self) -> Iterator[Peer]:
        return map(Peer._make, zip(*[iter(self.fields)] * len(Peer._fields)))

    def __len__(self) -> int:
        return len(self.fields) // len(Peer._fields)


class Reading(NamedTuple):
    """One successful run of `wg show all dump`. Peers that stand exactly as at the reading before are left out."""

    interfaces: FrozenSet[str]  # read, as their own lines prove
    peers: Peers
    present: Optional[Set[Identity]]  # every peer there is; None = the same ones as at the reading before
    unreadable: FrozenSet[str] = frozenset()
    spoiled: Mapping[str, int] = {}  # lines that do not parse, by interface; "" = unclear whose


class Block(NamedTuple):
    """Lines that were read at once."""

    end: int  # the number of the line after them
    digest: Optional[int]  # of them all; None = some had changed, and so may the next ones
    lines: Optional["array[int]"]  # digests of each; None = most had changed


class Memo:
    """What a reading leaves behind for the next one to be compared with: digests, and no secret. It is changed in
    place, as meters are.

    The digest is Python's own for bytes: SipHash under a key that is random for each process, so that nobody
    outside can aim for a collision, at a quarter of the price of any digest in hashlib."""

    __slots__ = ("meters", "heads", "stems", "blocks", "interfaces")

    def __init__(self) -> None:
        self.meters: List[Optional[Meter]] = []  # whose each line is; None = no peer's and no interface's of ours
        self.heads = array("q")  # digests of a peer's line up to its counters, of an interface's own line whole
        self.stems = array("q")  # digests of a line up to its handshake
        self.blocks: Dict[int, Block] = {}  # by the number of their first line
        self.interfaces: FrozenSet[str] = frozenset()

    def add(self, meter: Optional[Meter], head: bytes, stem: bytes) -> None:
        self.meters.append(meter)
        self.heads.append(hash(head))
        self.stems.append(hash(stem))

    def cut(self, end: int) -> None:
        """Forget the lines from this number on."""
        del self.meters[end:], self.heads[end:], self.stems[end:]
        self.blocks = {first: block for first, block in self.blocks.items() if block.end <= end}


class Session(NamedTuple):
    """From the handshake that made a peer online to its last sign of life."""

    number: int
    start: float  # wall clock
    began: float  # boot clock
    received: int  # the meter's totals when it began
    transmitted: int
    unwatched: float  # seconds of it in which no monitor ran
    endpoints: str  # in the order of their use, separated by spaces

    def packed(self) -> bytes:
        return pack_session(*self)

    @classmethod
    def unpacked(cls, packed: bytes) -> "Session":
        return cls._make(cls.fields_of(packed))

    @staticmethod
    def fields_of(packed: bytes) -> Tuple[Any, ...]:
        return (*SESSION_FIGURES.unpack_from(packed), packed[SESSION_FIGURES.size :].decode())


def pack_session(
    number: int, start: float, began: float, received: int, transmitted: int, unwatched: float, endpoints: str
) -> bytes:
    """A Session as it is kept between readings: 110 bytes instead of 260, for each peer that is online."""
    return SESSION_FIGURES.pack(number, start, began, received, transmitted, unwatched) + endpoints.encode()


class Ended(NamedTuple):
    """A finished session's figures."""

    number: int
    start: float
    last_seen: float  # wall clock
    length: float  # seconds on the boot clock
    received: int
    transmitted: int
    endpoints: str
    unwatched: float
    reason: str  # idle, unreachable, interface-down, removed, reset, unknown


class Known(NamedTuple):
    """What is remembered of a peer between readings. Online means: it has a session."""

    endpoint: str
    allowed_ips: str
    handshake: int  # as last printed; 0 = never, or not since the interface was made anew
    shown: int  # the last handshake known, for people
    made: float  # boot time at which `handshake` is placed
    packed: bytes  # its session; b"" = it has none
    meter: Meter

    @property
    def identity(self) -> Identity:
        return self.meter.identity

    @property
    def session(self) -> Optional[Session]:
        return Session.unpacked(self.packed) if self.packed else None

    @property
    def number(self) -> Optional[int]:
        """Its session's: unpacking all of it takes four times as long."""
        return SESSION_NUMBER.unpack_from(self.packed)[0] if self.packed else None

    @property
    def online(self) -> bool:
        return self.packed != b""


class Interface(NamedTuple):
    up: bool
    read: float  # boot time of its last reading without a spoiled line
    wall: float  # wall clock of its last reading


class Table(NamedTuple):
    """All that is known. `decide` makes the next one."""

    peers: Dict[Identity, Known]
    interfaces: Dict[str, Interface]
    last: Optional[Moment]  # the last reading of this run
    due: float  # boot time before which no online peer can have become old
    sessions: int  # the number of the last session
    online: int


EMPTY = Table({}, {}, None, float("inf"), 0, 0)


class Event(NamedTuple):
    kind: str  # one of EVENT_KINDS
    wall: float
    iface: str
    peer: Optional[Known] = None
    new: bool = False
    before: str = ""  # ROAMING: the endpoint, CHANGED: the allowed IPs before
    ended: Optional[Ended] = None
    peers: int = 0  # IFUP, IFDOWN
    online: int = 0  # IFDOWN


class Trouble(NamedTuple):
    """Something that is wrong for a while: told when it begins and, with its length, when it ends."""

    key: str
    begins: str
    ends: str  # "" = the end tells itself
    since: float = NEVER  # boot time; NEVER = since it is told


class Job(NamedTuple):
    """One run of the hook: what its environment is made of."""

    seq: int
    kind: str
    iface: str
    key: str
    endpoint: str
    allowed_ips: str
    handshake: int
    online: int


class Record(NamedTuple):
    """One line on its way to the store, the console and the trail."""

    seq: int
    wall: float
    level: int  # of syslog(3)
    kind: str
    line: bytes
    event: Optional[Event]
    job: Optional[Job]


class Settings(NamedTuple):
    """Fields and units of the table OPTIONS, which is their source."""

    log_path: str
    log_format: str
    interval: int
    threshold: int
    liveness: str
    stats_interval: int
    interface: FrozenSet[str]  # empty = all
    on_change_script: str
    script_timeout: int
    script_events: FrozenSet[str]
    state_path: str
    history_days: int
    debug: bool


class Refusal(Exception):
    """The administrator has to change something: one line, and the exit code."""

    def __init__(self, message: str, code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.code = code


# --- Text safety --------------------------------------------------------------------------------------------------


def printable(text: str, limit: int = 200) -> str:
    """Text from outside, fit for one line: no control, separator or direction character, no key, bounded."""
    text = KEY_LIKE.sub("(key)", text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c in "\t\n\r" else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def reason_of(error: BaseException) -> str:
    """An error's words without the file name, which the sentence around it names."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error))


def short_key(key: str) -> str:
    return key[:8] + "..." + key[-8:]


def duration(seconds: float) -> str:
    """Two units at most: 45s, 2m 10s, 3h 5m, 2d 4h."""
    s = int(max(0.0, seconds))
    if s < 60:
        return "%ds" % s
    if s < 3600:
        return "%dm %ds" % (s // 60, s % 60)
    if s < DAY_S:
        return "%dh %dm" % (s // 3600, s % 3600 // 60)
    return "%dd %dh" % (s // DAY_S, s % DAY_S // 3600)


def counted(number: int, noun: str) -> str:
    return "%d %s%s" % (number, noun, "" if number == 1 else "s")


def local(wall: float) -> time.struct_time:
    """Local time; a clock beyond the calendar's last year shows that year's end."""
    return time.localtime(min(max(wall, 0.0), EPOCH_MAX - DAY_S))


@lru_cache(maxsize=256)
def stamp_of(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", local(second))


def stamp(wall: float) -> str:
    """Local time. The lines of a storm share their seconds, and the calendar costs more than all else in a line."""
    return stamp_of(int(wall))


def utc_offset(wall: float) -> str:
    """+02:00"""
    minutes = local(wall).tm_gmtoff // 60
    return "%s%02d:%02d" % ("-" if minutes < 0 else "+", abs(minutes) // 60, abs(minutes) % 60)


def rfc3339(wall: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", local(wall)) + utc_offset(wall)


def handshake_text(handshake: int, line_date: str) -> str:
    """HH:MM:SS where it is on the line's own date, else with its date."""
    if not handshake:
        return "Never"
    text = stamp(handshake)
    return text[11:] if text[:10] == line_date else text


def host_of(ip: str) -> str:
    """The bare address where it is a single host's, else ""."""
    if ip.endswith("/32") and ":" not in ip:
        return ip[:-3]
    return ip[:-4] if ip.endswith("/128") else ""


def ips_text(allowed_ips: str) -> str:
    """[IP: a], [IPs: a, b], networks only where no host address is, [IP: N/A]."""
    every = allowed_ips.split(",") if allowed_ips else []
    hosts = [host for host in map(host_of, every) if host]
    return listed_ips(hosts or every, bool(hosts) or not every)


def listed_ips(ips: Sequence[str], hosts: bool, limit: int = 16) -> str:
    shown = [ip[:50] for ip in ips[:limit]]
    if len(ips) > limit:
        shown.append("%d more" % (len(ips) - limit))
    return "[%s: %s]" % ("IP" if hosts and len(ips) < 2 else "IPs", ", ".join(shown) or "N/A")


def changed_ips_text(after: str, before: str) -> str:
    """[IP: new] from [IP: old]; where the difference is not among the ones shown, all, with it in front."""
    if ips_text(after) != ips_text(before):
        return "%s from %s" % (ips_text(after), ips_text(before))
    texts = []
    for ips, others in (after, before), (before, after):
        every = sorted(ips.split(","), key=set(others.split(",")).__contains__)
        texts.append(listed_ips([host_of(ip) or ip for ip in every], all(map(host_of, every))))
    return " from ".join(texts)


# --- Parsing ------------------------------------------------------------------------------------------------------


def parse_complaints(text: str, wanted: FrozenSet[str]) -> Tuple[FrozenSet[str], int]:
    """From `wg`'s standard error: the interfaces that it could not read, and how many of unclear name.

    `wg show all` exits with 0 and leaves such an interface out."""
    unreadable: Set[str] = set()
    unclear = 0
    for line in text.splitlines():
        match = UNREADABLE.match(line)
        if match is None:
            continue
        if INTERFACE_NAME.fullmatch(match.group(1)) is None:
            unclear += 1
        elif not wanted or match.group(1) in wanted:
            unreadable.add(match.group(1))
    return frozenset(unreadable), unclear


def parse(
    blocks: Iterable[bytes],
    complaints: str,
    memo: Memo,
    known: Mapping[Identity, Known],
    settings: Settings,
    boot: float,
) -> Reading:
    """The output of `wg show all dump`, in blocks of whole lines, as a Reading.

    Shapes: an interface's own line has 5 fields, a peer's 9, separated by tabs; anything else is skipped and
    counted. Known peers' meters are advanced to `boot`, and the memo to this output.
    Source: wg(8), "dump"."""
    unreadable, unclear = parse_complaints(complaints, settings.interface) if complaints else (frozenset(), 0)
    if unclear:
        memo.cut(0)
    before, memo.blocks = memo.blocks, {}
    parser = Parser(memo, known, settings, boot)
    first = 0  # the number of the block's first line
    for text in blocks:
        block = before.get(first) if parser.present is None else None
        if block is None or block.digest is None or block.digest != hash(text):
            lines = text.split(b"\n")
            lines.pop()  # the last newline ends the last line
            block = remember(text, lines, parser.take(lines, first, block), first)
        memo.blocks[first] = block
        first = block.end
    if first < len(memo.meters) or not memo.meters:
        parser.count(first)
    if parser.present is not None:
        memo.interfaces = frozenset(parser.interfaces)
    spoiled = parser.spoiled
    if unclear:
        spoiled[""] = spoiled.get("", 0) + unclear
    if spoiled:
        # A peer whose line is spoiled is not in the memo: until all lines parse again, each reading is parsed whole.
        memo.cut(0)
    return Reading(memo.interfaces, parser.peers, parser.present, unreadable, spoiled)


def remember(text: bytes, lines: List[bytes], moved: int, first: int) -> Block:
    """What the block is compared with at the next reading. Where more than half of its lines changed, they are likely
    to do so again: looking for the others costs more than looking at all (1.3 of 10 ms at 10,000 peers)."""
    digests = None if moved > len(lines) // 2 else array("q", map(hash, lines))
    return Block(first + len(lines), None if moved else hash(text), digests)


class Parser:
    """One pass over the lines of a reading: those that stand where they stood are skimmed; from the first one on that
    does not, all are parsed in full."""

    def __init__(self, memo: Memo, known: Mapping[Identity, Known], settings: Settings, boot: float) -> None:
        self.memo, self.known, self.settings, self.boot = memo, known, settings, boot
        self.peers = Peers()
        self.present: Optional[Set[Identity]] = None  # None = so far the same peers as before
        self.interfaces: Set[str] = set()
        self.spoiled: Dict[str, int] = {}
        self.vouched: FrozenSet[str] = frozenset()  # once it is asked for

    def take(self, lines: List[bytes], first: int, block: Optional[Block]) -> int:
        """The lines from number `first` on; how many of them have moved."""
        same = moved = 0
        if self.present is None:
            same, moved = self.skim(lines, first, block)
        if same < len(lines):
            if self.present is None:
                self.count(first + same)
            self.parse_all(lines[same:])
        return moved

    def skim(self, lines: List[bytes], first: int, block: Optional[Block]) -> Tuple[int, int]:
        """The fast path: only the lines that (may) have changed, with the meters of the peers that stood there. Where a
        line has only moved bytes, only its counters are looked at; where its peer has shaken hands, only that as well.

        Returns how many lines are those that stood there before, up to the first one that is not, and how many of them
        have changed. At 10,000 peers it takes 5 ms where all moved bytes; every field of every line would take 30."""
        memo, known, boot = self.memo, self.known, self.boot
        end = first + len(lines)
        meters = memo.meters[first:end]
        entries: Iterable[Tuple[int, bytes, int, Optional[Meter]]]
        entries = zip(range(len(meters)), lines, memo.heads[first:end], meters)
        if block is not None and block.lines is not None and len(block.lines) == len(lines):
            entries = compress(entries, map(ne, map(hash, lines), block.lines))
        wanted, by_traffic, most = self.settings.interface, self.settings.liveness == "traffic", COUNTER_MAX
        number = moved = 0
        try:
            for number, line, digest, meter in entries:
                if meter is None:
                    match = LINE_START.match(line)
                    if match is None or match.group(1).decode() in wanted:
                        return number, moved
                    continue
                head, rx_text, tx_text, keepalive = line.rsplit(b"\t", 3)
                counters = rx_text + tx_text
                if (
                    counters.isdigit()
                    and (len(counters) < 21 or len(rx_text) < 20 > len(tx_text))
                    and (keepalive == b"off" or keepalive.isdigit() and len(keepalive) < 6)
                ):
                    rx = int(rx_text)
                    tx = int(tx_text)
                    if meter.rx <= rx <= most and meter.tx <= tx <= most:
                        if hash(head) == digest:
                            if rx == meter.rx:
                                if tx != meter.tx:
                                    meter.tx = tx
                                    meter.moved = True
                                    moved += 1
                                continue
                            if not by_traffic or known[meter.identity].packed:
                                meter.rx = rx
                                meter.tx = meter.sent = tx
                                meter.heard = boot
                                meter.moved = True
                                moved += 1
                                continue
                        stem, _, shook = head.rpartition(b"\t")
                        if hash(stem) == memo.stems[first + number] and shook.isdigit() and len(shook) < 12:
                            before = known[meter.identity]
                            facts = Facts(
                                meter.identity, before.endpoint, before.allowed_ips, handshake_of(shook), rx, tx
                            )
                            meet(facts, before, self.peers, boot)
                            memo.heads[first + number] = hash(head)
                            moved += 1
                            continue
                if not meter.identity[1] and hash(line + b"\n") == digest:
                    continue  # an interface's own line, as it was
                parsed = parse_peer(line)
                if parsed is None or parsed.identity != meter.identity:
                    return number, moved
                meet(parsed, known[meter.identity], self.peers, boot)
                memo.heads[first + number], memo.stems[first + number] = hash(head), hash(head.rpartition(b"\t")[0])
                moved += 1
        except ValueError:
            return number, moved  # fewer fields than a peer's line has, or an empty one
        return len(meters), moved

    def count(self, end: int) -> None:
        """Only the lines before this number stand as they stood: who is there from here on, the others will show."""
        self.memo.cut(end)
        meters = [meter for meter in self.memo.meters if meter is not None]
        self.interfaces = {meter.identity[0] for meter in meters}
        self.present = {meter.identity for meter in meters if meter.identity[1]}

    def parse_all(self, lines: Iterable[bytes]) -> None:
        """Every line in full."""
        assert self.present is not None
        wanted = self.settings.interface
        for line in lines:
            match = LINE_START.match(line)
            name = match.group(1).decode() if match else ""
            if name and wanted and name not in wanted:
                self.memo.add(None, b"\n", b"\n")
                continue
            if name not in self.interfaces and INTERFACE_LINE.fullmatch(line):
                self.interfaces.add(name)
                self.memo.add(Meter((name, ""), 0, 0), line + b"\n", b"\n")  # digests that no part of a line can have
                continue
            facts = parse_peer(line) if name in self.interfaces else None
            if facts is None or facts.identity in self.present:
                whose = self.believed(name)
                self.spoiled[whose] = self.spoiled.get(whose, 0) + 1
                self.memo.add(None, b"\n", b"\n")
                continue
            meter = meet(facts, self.known.get(facts.identity), self.peers, self.boot)
            self.present.add(meter.identity)
            head = line.rsplit(b"\t", 3)[0]
            self.memo.add(meter, head, head.rpartition(b"\t")[0])

    def believed(self, name: str) -> str:
        """What stands where a name should is only believed where something vouches for it: it may be the end of a key."""
        if not self.vouched:
            self.vouched = self.settings.interface | {identity[0] for identity in self.known}
        return name if name in self.interfaces or name in self.vouched else ""


# Peers that shook hands in the same second share one number, instead of 32 bytes each.
handshake_of = lru_cache(maxsize=512)(int)


class Facts(NamedTuple):
    """The fields of a peer's line."""

    identity: Identity
    endpoint: str
    allowed_ips: str
    handshake: int
    rx: int
    tx: int


def parse_peer(line: bytes) -> Optional[Facts]:
    match = PEER_LINE.fullmatch(line)
    if match is None:
        return None
    name, key, endpoint, ips, handshake, rx, tx = match.groups()
    facts = Facts(
        (name.decode(), key.decode()),
        "" if endpoint == b"(none)" else endpoint.decode(),
        "" if ips == b"(none)" else ips.decode(),
        handshake_of(handshake),
        int(rx),
        int(tx),
    )
    return facts if facts.handshake <= EPOCH_MAX and facts.rx <= COUNTER_MAX and facts.tx <= COUNTER_MAX else None


def meet(facts: Facts, before: Optional[Known], peers: Peers, boot: float) -> Meter:
    """Take a peer into the reading at `boot`; its meter, advanced."""
    if before is None:
        name, key = facts.identity
        meter = Meter((sys.intern(name), key), facts.rx, facts.tx)
    else:
        meter = before.meter
    mark = meter.mark()
    meter.count(facts.rx, facts.tx, boot)
    if before is not None and facts.handshake != before.handshake:
        meter.sent = facts.tx
    if before is None or facts[1:4] != before[:3]:
        meter.moved = True
    peers.add(meter, facts.endpoint, facts.allowed_ips, facts.handshake, *mark)
    return meter


# --- Decisions ----------------------------------------------------------------------------------------------------


def place(handshake: int, before: Optional[Known], read: float, now: Moment) -> float:
    """Where on the boot clock a handshake belongs.

    The same value keeps its place. One that moved forward was made since the interface's last reading, at boot
    time `read`, whatever the wall clock says; the others are placed by the wall clock, the future as now."""
    if not handshake:
        return NEVER
    if before is not None and handshake == before.handshake:
        return before.made
    age = max(0.0, now.wall - handshake)
    if before is not None and handshake > before.handshake:
        age = min(age, max(0.0, now.boot - read))
    return difference(now.boot, age)


@lru_cache(maxsize=512)
def difference(boot: float, age: float) -> float:
    """Peers that shook hands in the same second share this number, too."""
    return boot - age


def last_sign(made: float, heard: float, settings: Settings) -> float:
    """The boot time that `online` is counted from."""
    return max(made, heard) if settings.liveness == "traffic" else made


def address(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]


def other_ips(before: str, after: str) -> bool:
    return before != after and set(before.split(",")) != set(after.split(","))


def end_session(
    session: Optional[Session], known: Known, mark: Union[Mark, Peer], reason: str, now: Moment
) -> Optional[Ended]:
    """The figures of a peer's session at its last sign of life, the handshake or received bytes."""
    if session is None:
        return None
    last = max(known.made, mark.heard, session.began)
    if last == session.began:
        last_seen = session.start
    elif last == known.made:
        last_seen = float(known.shown)
    elif last < 0:  # before this boot: what the wall clock says now may have nothing to do with it
        last_seen = session.start + last - session.began
    else:
        last_seen = now.wall - (now.boot - last)
    return Ended(
        session.number,
        session.start,
        last_seen,
        last - session.began,
        max(0, mark.received - session.received),
        max(0, mark.transmitted - session.transmitted),
        session.endpoints,
        session.unwatched,
        reason,
    )


def silence(known: Known) -> str:
    """Why a peer became old: was anything sent to it that nothing came back to?"""
    return "unreachable" if known.meter.tx > known.meter.sent else "idle"


def settle(known: Known, mark: Union[Mark, Peer], number: int, now: Moment, settings: Settings) -> Known:
    """With its session begun, ended or gone on. `mark` is its meter's at the reading before."""
    sign = last_sign(known.made, known.meter.heard, settings)
    alive = known.handshake != 0 and now.boot - sign < settings.threshold
    if alive == known.online:
        return known
    if not alive:
        return known._replace(packed=b"")
    began: float = known.made
    start: float = known.handshake
    if now.boot - began >= settings.threshold:  # the handshake alone would not do: it is the received bytes
        began, start = sign, now.wall - (now.boot - sign)
    packed = pack_session(number, start, began, mark.received, mark.transmitted, 0.0, known.endpoint)
    return known._replace(packed=packed)


def moved_on(before: Known, after: Known) -> bool:
    """Is an online peer heard from another address? A change of port alone is none."""
    if before.endpoint == after.endpoint or not before.packed or not after.packed:
        return False
    return address(before.endpoint) != address(after.endpoint)


def with_endpoint(known: Known) -> Known:
    """With its endpoint among those of its session."""
    session = Session.unpacked(known.packed)
    used = session.endpoints.split(" ") if session.endpoints else []
    if known.endpoint not in used:
        used = [*used, known.endpoint][-ENDPOINTS_MAX:]
    return known._replace(packed=session._replace(endpoints=" ".join(used)).packed())


def follow(before: Optional[Known], peer: Peer, read: float, number: int, now: Moment, settings: Settings) -> Known:
    """What is known of a peer after a reading, of which `before` was known."""
    endpoint, shown, packed = peer.endpoint, peer.handshake, b""
    if before is not None:
        # An interface made anew has forgotten it; people still ask from where the peer had been connected.
        endpoint = endpoint or before.endpoint
        shown, packed = shown or before.shown, before.packed
    made = place(peer.handshake, before, read, now)
    after = Known(endpoint, peer.allowed_ips, peer.handshake, shown, made, packed, peer.meter)
    after = settle(after, peer, number, now, settings)
    if before is None:
        return after
    if moved_on(before, after):
        after = with_endpoint(after)
    return before if after == before else after  # keeps memory as it was


def compare(before: Optional[Known], after: Known, mark: Union[Mark, Peer], now: Moment) -> Iterator[Event]:
    """One peer's row of the table of events. `mark` is its meter's at the reading before."""
    iface = after.identity[0]
    if before is None:
        yield Event("ONLINE" if after.packed else "OFFLINE", now.wall, iface, after, new=True)
    elif after.packed and not before.packed:
        yield Event("ONLINE", now.wall, iface, after)
    elif before.packed and not after.packed:
        if after.handshake == 0:  # what was counted since is not this session's any more
            ended = end_session(before.session, before, mark, "reset", now)
        else:
            ended = end_session(before.session, after, after.meter.mark(), silence(after), now)
        yield Event("OFFLINE", now.wall, iface, after, ended=ended)
    elif before.endpoint and moved_on(before, after):
        yield Event("ROAMING", now.wall, iface, after, before=before.endpoint)
    if before is not None and other_ips(before.allowed_ips, after.allowed_ips):
        yield Event("CHANGED", now.wall, iface, after, before=before.allowed_ips)


def decide_interfaces(table: Table, reading: Reading, now: Moment) -> Tuple[Dict[str, Interface], List[Event]]:
    """Interfaces that came and went. One of which nothing was seen keeps its state."""
    interfaces = dict(table.interfaces)
    unclear = "" in reading.spoiled
    unknown = reading.unreadable | reading.spoiled.keys()
    events: List[Event] = []
    for name in sorted(reading.interfaces):
        before = interfaces.get(name)
        if table.last is not None if before is None else not before.up:
            there = sum(identity[0] == name for identity in reading.present or ())
            events.append(Event("IFUP", now.wall, name, peers=there))
        whole = not unclear and name not in reading.spoiled
        read = now.boot if whole else before.read if before is not None else NEVER
        interfaces[name] = Interface(True, read, now.wall)
    for name in unknown - {""} if table.last is None else ():
        interfaces.setdefault(name, Interface(True, NEVER, now.wall))
    for name in sorted(interfaces):
        before = interfaces[name]
        if before.up and not unclear and name not in reading.interfaces and name not in unknown:
            interfaces[name] = before._replace(up=False)
            online = [known.online for known in table.peers.values() if known.identity[0] == name]
            events.append(Event("IFDOWN", now.wall, name, peers=len(online), online=sum(online)))
    return interfaces, events


def decide(table: Table, reading: Reading, now: Moment, settings: Settings) -> Tuple[Table, List[Event]]:
    """What a reading changes. Pure and total: the same arguments, the same answer, and no reading is refused."""
    interfaces, events = decide_interfaces(table, reading, now)
    down = {event.iface for event in events if event.kind == "IFDOWN"}
    ageing = now.boot >= table.due
    if not (down or ageing or reading.peers or reading.present is not None):
        return table._replace(interfaces=interfaces, last=now), events
    peers = dict(table.peers)
    sessions, due = table.sessions, table.due
    unseen: Set[Identity] = set()

    for known in [k for k in peers.values() if k.packed and k.identity[0] in down] if down else ():
        after = peers[known.identity] = known._replace(packed=b"")
        ended = end_session(known.session, known, known.meter.mark(), "interface-down", now)
        events.append(Event("OFFLINE", now.wall, known.identity[0], after, ended=ended))

    if reading.present is not None:
        for identity in [i for i in peers if i[0] in reading.interfaces and i not in reading.present]:
            if "" in reading.spoiled or identity[0] in reading.spoiled:
                unseen.add(identity)  # its line may be one of the spoiled ones
                continue
            known = peers.pop(identity)
            ended = end_session(known.session, known, known.meter.mark(), "removed", now)
            events.append(Event("REMOVED", now.wall, identity[0], known._replace(packed=b""), ended=ended))

    befores: List[Optional[Known]] = []
    afters: List[Known] = []
    for peer in reading.peers:
        identity = peer.meter.identity
        iface = table.interfaces.get(identity[0])
        read = iface.read if iface is not None else NEVER
        before = peers.get(identity)
        after = follow(before, peer, read, sessions + 1, now, settings)
        befores.append(before)
        afters.append(after)
        if after is not before:
            peers[identity] = after
        if after.packed:
            sessions += before is None or not before.packed
            due = min(due, last_sign(after.made, after.meter.heard, settings) + settings.threshold)
    # Not in the loop above: what goes with the events would leave holes in memory between what stays.
    for peer, before, after in zip(reading.peers, befores, afters):
        if after is not before:
            events += compare(before, after, peer, now)

    if ageing:
        due = float("inf")
        for known in [k for k in peers.values() if k.packed]:
            old_at = last_sign(known.made, known.meter.heard, settings) + settings.threshold
            seen = known.identity[0] in reading.interfaces and known.identity not in unseen
            if seen and now.boot >= old_at:
                mark = known.meter.mark()
                after = peers[known.identity] = settle(known, mark, 0, now, settings)
                events += compare(known, after, mark, now)
            else:
                due = min(due, old_at)

    online = table.online + sum(e.kind == "ONLINE" for e in events) - sum(e.ended is not None for e in events)
    return Table(peers, interfaces, now, due, sessions, online), events


def span(table: Table, events: List[Event], last: int, watched: Moment, gap: float) -> Tuple[Table, List[Event]]:
    """Mark the sessions that span a `gap` in which nobody watched, after the reading at `watched`: those up to
    number `last` that go on, or had a sign of life in it."""
    peers = dict(table.peers)
    for identity, known in table.peers.items():
        session = known.session
        if session is not None and session.number <= last:
            session = session._replace(unwatched=session.unwatched + gap)
            peers[identity] = known._replace(packed=session.packed())
    spanned = []
    for event in events:
        ended = event.ended
        if ended is not None and ended.number <= last and ended.last_seen > watched.wall:
            event = event._replace(ended=ended._replace(unwatched=ended.unwatched + gap))
        spanned.append(event)
    return table._replace(peers=peers), spanned


def forget(table: Table, now: Moment, history_days: int) -> Tuple[Table, List[str]]:
    """The table without the interfaces that have been gone for so long, and their names."""
    names = [n for n, i in table.interfaces.items() if not i.up and now.wall - i.wall > history_days * DAY_S]
    if not names:
        return table, names
    peers = {identity: known for identity, known in table.peers.items() if identity[0] not in names}
    interfaces = {name: interface for name, interface in table.interfaces.items() if name not in names}
    return table._replace(peers=peers, interfaces=interfaces), names


def clock_step(before: Moment, now: Moment) -> float:
    """How far the wall clock jumped between two moments, in seconds; 0 where it only ran faster or slower, which
    a clock that is being disciplined does by up to a tenth."""
    elapsed = now.boot - before.boot
    step = now.wall - before.wall - elapsed
    return step if abs(step) > max(1.0, elapsed / 10) else 0.0


def troubles_in(reading: Reading, table: Table, settings: Settings) -> List[Trouble]:
    """What a successful reading could not tell. `table` is that before the reading."""
    troubles = []
    for name in sorted(reading.unreadable):
        troubles.append(
            Trouble(
                "unreadable " + name,
                "[%s] cannot be read: its peers keep their state until it can" % name,
                "[%s] can be read again" % name,
                table.interfaces[name].read if name in table.interfaces else NEVER,
            )
        )
    for name, number in sorted(reading.spoiled.items()):
        whose = "[%s] " % name if name else ""
        what = "nobody on it counts" if name else "no peer and no interface counts"
        troubles.append(
            Trouble(
                "spoiled " + name,
                "%s%s of wg cannot be understood; as long as that lasts, %s as removed"
                % (whose, counted(number, "line"), what),
                "%severy line of wg can be understood again" % whose,
            )
        )
    for name in sorted(settings.interface - reading.interfaces - reading.unreadable - reading.spoiled.keys()):
        before = table.interfaces.get(name)
        # One that goes while it is watched is an event, and no trouble.
        if "" not in reading.spoiled and (before is None or table.last is None and not before.up):
            troubles.append(Trouble("absent " + name, "[%s] there is no such WireGuard interface yet" % name, ""))
    return troubles


# --- Renderings ---------------------------------------------------------------------------------------------------


def event_text(event: Event) -> str:
    """The line of an event, without its time stamp."""
    head = "%-7s [%s]" % (event.kind, event.iface)
    if event.peer is None:
        text = "%s %s" % (head, counted(event.peers, "peer"))
        if event.kind == "IFDOWN":
            text += ", %d %s online" % (event.online, "was" if event.online == 1 else "were")
        return text
    peer = event.peer
    text = "%s %s (%s)" % (head, short_key(peer.identity[1]), peer.endpoint or "N/A")
    if event.kind == "CHANGED":
        return "%s %s" % (text, changed_ips_text(peer.allowed_ips, event.before))
    text += " " + ips_text(peer.allowed_ips)
    if event.kind == "ROAMING":
        return "%s from %s" % (text, event.before)
    handshake = handshake_text(peer.shown, stamp(event.wall)[:10])
    return "%s%s (handshake: %s)" % (text, " new" if event.new else "", handshake)


def event_json(seq: int, event: Event) -> Dict[str, Any]:
    fields: Dict[str, Any] = {"seq": seq, "time": rfc3339(event.wall), "event": event.kind, "interface": event.iface}
    peer = event.peer
    if peer is None:
        fields["peers"] = event.peers
        if event.kind == "IFDOWN":
            fields["online_peers"] = event.online
        return fields
    fields["peer"] = peer.identity[1]
    fields["endpoint"] = peer.endpoint or None
    fields["allowed_ips"] = peer.allowed_ips
    fields["handshake"] = rfc3339(peer.shown) if peer.shown else None
    fields["online"] = peer.online
    if event.new:
        fields["new"] = True
    if event.kind in ("ROAMING", "CHANGED"):
        fields["from"] = event.before
    if peer.online:
        fields["session"] = peer.number
    if event.ended is not None:
        fields["session"] = event.ended.number
        fields["session_start"] = rfc3339(event.ended.start)
        fields["last_seen"] = rfc3339(event.ended.last_seen)
        fields["length_s"] = round(event.ended.length)
        fields["received_bytes"] = event.ended.received
        fields["sent_bytes"] = event.ended.transmitted
        fields["unwatched_s"] = round(event.ended.unwatched)
        fields["reason"] = event.ended.reason
    return fields


def render(seq: int, wall: float, kind: str, text: str, event: Optional[Event], log_format: str) -> bytes:
    """One line of the trail, as it is written."""
    if log_format == "json":
        import json

        fields = (
            event_json(seq, event) if event else {"seq": seq, "time": rfc3339(wall), "event": kind, "message": text}
        )
        return json.dumps(fields, ensure_ascii=True).encode() + b"\n"
    if kind in LEVELS:
        text = "[%s] %s" % (kind, text)
    return ("%s %s\n" % (stamp(wall), text)).encode("utf-8", "replace")


def hook_environment(job: Job) -> Dict[str, str]:
    """All that the hook is given. Nothing is inherited: the monitor's own environment is the service manager's."""
    return {
        "PATH": SEARCH_PATH,
        "LANG": "C.UTF-8",
        "HOME": "/",
        "PEER_EVENT": job.kind,
        "PEER_IFACE": job.iface,
        "PEER_PUBKEY": job.key,
        "PEER_ENDPOINT": job.endpoint,
        "PEER_ALLOWED_IPS": job.allowed_ips,
        "PEER_HANDSHAKE": str(job.handshake),
        "PEER_ONLINE": str(job.online),
        "PEER_SEQ": str(job.seq),
    }


def job_of(seq: int, event: Event, settings: Settings) -> Optional[Job]:
    """The hook run that an event asks for. A peer first seen offline did not go anywhere."""
    if not settings.on_change_script or event.kind not in settings.script_events:
        return None
    if event.kind == "OFFLINE" and event.new:
        return None
    peer = event.peer
    if peer is None:
        return Job(seq, event.kind, event.iface, "", "", "", 0, 0)
    online = int(peer.online)
    return Job(seq, event.kind, event.iface, peer.identity[1], peer.endpoint, peer.allowed_ips, peer.shown, online)


def started_text(settings: Settings) -> str:
    text = "Monitor started | Interval: %ds, Threshold: %ds, Stats: %ds" % (
        settings.interval,
        settings.threshold,
        settings.stats_interval,
    )
    return text + (", Interface: " + ",".join(sorted(settings.interface)) if settings.interface else "")


# --- Effects: running wg ------------------------------------------------------------------------------------------


def moment() -> Moment:
    return Moment(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


def boot_id() -> str:
    with open(BOOT_ID_PATH) as file:
        return file.read().strip()


def find_wg() -> str:
    for directory in SEARCH_PATH.split(":"):
        path = directory + "/wg"
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise Refusal("wg is not installed: no such program in %s; install wireguard-tools" % SEARCH_PATH, EXIT_NO_WG)


def exit_words(status: int) -> str:
    """How a child ended, in words: its exit status, or the signal that ended it as a negative number."""
    if status >= 0:
        return "exited with status %d" % status
    try:
        return "was ended by %s" % signal.Signals(-status).name
    except ValueError:
        return "was ended by signal %d" % -status


def kill_group(pid: int) -> None:
    """End a child that leads its own session, with all its family."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # gone, or run as somebody whom we may not end


def anonymous_file() -> int:
    """A file in memory that no path leads to, whose writes all go to its end. A pipe would cost twice the CPU at 50,000
    peers, and be held open by whatever `wg` leaves behind. Python 3.7 has no memfd_create; /dev/shm is memory as well."""
    if sys.version_info >= (3, 8):
        descriptor = os.memfd_create("wg_monitor")
    else:
        import tempfile

        with tempfile.TemporaryFile(dir="/dev/shm", buffering=0) as file:
            descriptor = os.dup(file.fileno())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return descriptor


def start_wg(wg: str, output: int, errors: int) -> int:
    """The process that runs `wg show all dump`, in a session of its own. Errors: OSError.

    posix_spawn costs 0.2 ms less than subprocess where nothing is in the cache, a third of all that a reading of few
    peers costs; Python 3.7 lacks it."""
    command, environment = [wg, "show", "all", "dump"], {"PATH": SEARCH_PATH, "LANG": "C.UTF-8"}
    if sys.version_info >= (3, 8):
        return os.posix_spawn(
            wg,
            command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, errors, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )
    import subprocess

    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment, start_new_session=True
    )
    child.returncode = 0  # it is waited for by its number
    return child.pid


class Answer(NamedTuple):
    """What `wg` said."""

    size: int  # of its output, in bytes
    complaints: str  # its standard error
    why: str  # it is no reading; "" = it is one


class Probe:
    """Runs of `wg show all dump`, one at a time. One is started and asked, never waited for. Its files stay, for making
    them anew would cost a tenth of all that a reading of few peers takes; they are emptied after each run."""

    def __init__(self, wg: str) -> None:
        self.wg = wg
        self.output = self.errors = -1
        self.pid = 0  # 0 = none runs
        self.deadline = 0.0  # on the monotonic clock
        self.overdue = False

    def start(self) -> None:
        """Errors: OSError."""
        if self.output < 0:
            self.output = anonymous_file()
        if self.errors < 0:
            self.errors = anonymous_file()
        self.pid = start_wg(self.wg, self.output, self.errors)
        self.deadline, self.overdue = time.monotonic() + WG_TIMEOUT_S, False
        try:
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (WG_OUTPUT_MAX, WG_OUTPUT_MAX))
        except (ProcessLookupError, PermissionError):
            pass  # it has ended already, or changed its user: the time-out still bounds it

    def answer(self) -> Optional[Answer]:
        """None = it still runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = 0
        size, complaints = os.fstat(self.output).st_size, ""
        if os.fstat(self.errors).st_size:
            complaints = os.pread(self.errors, 65536, 0).decode("utf-8", "replace")
        if status:
            said = printable(" ".join(complaints.split()))
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
            return Answer(0, "", "wg %s%s" % (exit_words(code), ": " + said if said else ""))
        if size and os.pread(self.output, 1, size - 1) != b"\n":
            return Answer(0, "", "the output of wg breaks off")
        return Answer(size, complaints, "")

    def blocks(self, size: int) -> Iterator[bytes]:
        """The output in blocks of whole lines, so that no more than one of them is in memory at a time."""
        offset, wanted = 0, BLOCK
        while offset < size:
            data = os.pread(self.output, min(wanted, size - offset), offset)
            end = data.rfind(b"\n") + 1
            if end:
                yield data[:end]
                offset, wanted = offset + end, BLOCK
            else:
                wanted *= 2  # one line is longer than that

    def clear(self) -> None:
        """Nothing of what it said is left. What had to be killed may have left somebody behind who still writes."""
        if self.overdue:
            os.close(self.output)
            os.close(self.errors)
            self.output = self.errors = -1
        else:
            os.ftruncate(self.output, 0)
            os.ftruncate(self.errors, 0)

    def kill(self) -> None:
        if self.pid:
            self.overdue = True
            kill_group(self.pid)


# --- Effects: the console -----------------------------------------------------------------------------------------


class Console:
    """Standard error, or the journal. It must never stop the watcher: what cannot be written in time is dropped."""

    def __init__(self, journal_stream: str) -> None:
        self.descriptor, self.journal = 2, False
        for descriptor in (1, 2):
            status = os.fstat(descriptor)
            if journal_stream == "%d:%d" % (status.st_dev, status.st_ino):
                self.descriptor, self.journal = descriptor, True
        self.send = unblocked(self.descriptor)
        self.rest = b""  # of a line that went out in part
        self.dropped = 0
        self.patience = 0.0  # monotonic time until which a slow reader is waited for

    def begin(self) -> None:
        """Some lines follow: a reader that is slower than they are may take this long for all of them together."""
        self.patience = time.monotonic() + CONSOLE_PATIENCE_S

    def write(self, level: int, line: bytes, stamped: bool) -> None:
        """One whole line. The journal has its own time stamps, and takes the level as sd-daemon(3) says."""
        if self.journal:
            line = b"<%d>%s" % (level, line[20:] if stamped else line)
        unsent = self.rest + line
        while unsent:
            try:
                unsent = unsent[self.send(unsent) :]
            except BlockingIOError:
                if not ready_for(select.POLLOUT, self.descriptor, self.patience - time.monotonic()):
                    break
            except OSError:
                break
        if len(unsent) >= len(line):  # nothing of it has gone
            unsent = unsent[: len(unsent) - len(line)]
            self.dropped += 1
        self.rest = unsent


def unblocked(descriptor: int) -> Callable[[bytes], int]:
    """How to write to a descriptor without ever waiting. Others may share it, so that it is not changed itself: a
    socket is told at each call, a pipe or a terminal is opened once more."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        import socket

        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            own = os.open("/proc/self/fd/%d" % descriptor, flags)
        except OSError:
            pass  # somebody else's terminal: written to as it is
        else:
            return lambda data: os.write(own, data)
    return lambda data: os.write(descriptor, data)


def milliseconds(seconds: float) -> int:
    """For poll(2): never too early, and a day at most."""
    return math.ceil(1000 * min(max(0.0, seconds), DAY_S))


def ready_for(event: int, descriptor: int, timeout_s: float = 0.0) -> bool:
    """Can a descriptor be read or written without waiting, or will it be in time?"""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(milliseconds(timeout_s)))


# --- Effects: the trail -------------------------------------------------------------------------------------------


class TrailBusy(OSError):
    """Another monitor holds the trail."""


class Position(NamedTuple):
    """Where the next line of the trail goes."""

    device: int
    inode: int
    size: int


def open_trail(path: str) -> int:
    """A descriptor of the trail, locked. Errors: OSError, with the administrator's way out in its words.

    Not a link, not a device, not a second name of another file, not somebody else's: whoever may write to the
    directory must not be able to have root append to /etc/shadow."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.readlink("/proc/self/fd/%d" % directory) != os.path.dirname(path):
            raise OSError(errno.EPERM, "a directory above it was exchanged")
        name = os.path.basename(path)
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o640, dir_fd=directory)
        except FileExistsError:
            descriptor = os.open(name, flags, dir_fd=directory)
        else:
            os.fchmod(descriptor, 0o640)  # whatever the umask says
            os.fsync(directory)
    finally:
        os.close(directory)
    try:
        status = os.fstat(descriptor)
        complaint = judge_trail(status)
        if complaint:
            raise OSError(errno.EPERM, complaint)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrailBusy(errno.EBUSY, "another monitor writes to it") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def judge_trail(status: os.stat_result) -> str:
    """Why a file cannot be the trail; "" where it can."""
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_nlink > 1:
        return "it has %d names, a trail has one" % status.st_nlink
    if status.st_uid != os.geteuid():
        return "it belongs to %s" % user_name(status.st_uid)
    return ""


class Trail:
    """The log file. It looks for itself whether it was moved or deleted, and goes on in a new one."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = -1
        self.cut = 0  # bytes of the next line that a full disk let through; that line is finished where it began

    def open(self) -> None:
        self.descriptor = open_trail(self.path)

    def position(self) -> Position:
        """Where the next line goes, the file opened for it. Errors: OSError."""
        if self.descriptor >= 0 and (os.fstat(self.descriptor).st_nlink == 0 if self.cut else not self.stands()):
            self.close()
        if self.descriptor < 0:
            self.open()
            self.mend()
        status = os.fstat(self.descriptor)
        return Position(status.st_dev, status.st_ino, status.st_size - self.cut)

    def stands(self) -> bool:
        """Is the open file still the one with the trail's name?"""
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self.descriptor))

    def mend(self) -> None:
        """A last line that somebody left unfinished must not swallow the next one."""
        try:
            size = os.fstat(self.descriptor).st_size
            if size and not self.cut and os.pread(self.descriptor, 1, size - 1) != b"\n":
                os.write(self.descriptor, b"\n")
        except OSError:
            self.close()
            raise

    def write(self, lines: Sequence[bytes]) -> Tuple[int, Optional[OSError]]:
        """Write lines where `position` said; how many are in the file whole, and what stopped the others."""
        written = done = self.cut  # of all lines, and of those that go together
        error: Optional[OSError] = None
        try:
            for first in range(0, len(lines), LINES_AT_ONCE):
                data = memoryview(b"".join(lines[first : first + LINES_AT_ONCE]))
                while done < len(data):
                    count = os.write(self.descriptor, data[done:])
                    done += count
                    written += count
                done = 0
            os.fsync(self.descriptor)
        except OSError as caught:
            error = caught.with_traceback(None)  # its frames hold the lines, and no collector comes for them
        whole = 0
        for line in lines:
            if written < len(line):
                break
            written -= len(line)
            whole += 1
        self.cut = written
        return whole, error

    def resume(self, descriptor: int, size: int, lines: Sequence[bytes]) -> int:
        """After a crash: how many of `lines`, in order, stand in the file `descriptor` from `size` on. One that was
        cut short there is the next to be written, and finished in that file whatever its name is now."""
        end = os.fstat(descriptor).st_size
        found = os.pread(descriptor, end - size, size).split(b"\n")
        torn = found.pop()
        struck = 0
        for line in found:
            struck += struck < len(lines) and lines[struck] == line + b"\n"
        if torn and struck < len(lines) and lines[struck].startswith(torn):
            if self.descriptor < 0 or not os.path.sameopenfile(self.descriptor, descriptor):
                self.close()
                self.descriptor = os.dup(descriptor)
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.cut = len(torn)
        return struck

    def reopen(self) -> None:
        """Look for the file anew at the next line. An unfinished line is finished first."""
        if not self.cut:
            self.close()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor, self.cut = -1, 0


def find_inode(directory: str, position: Position) -> int:
    """A descriptor of a file by its number, since rotated files have many naming schemes; -1 where it is gone, or its
    number was given to a younger file."""
    device = os.stat(directory).st_dev  # today's: a reboot may have given the disk another number
    for name in os.listdir(directory):
        path = directory + "/" + name
        try:
            status = os.lstat(path)
            if (status.st_dev, status.st_ino) != (device, position.inode) or not stat.S_ISREG(status.st_mode):
                continue
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # logrotate is at work
        status = os.fstat(descriptor)
        if status.st_ino == position.inode and status.st_size >= position.size:
            return descriptor
        os.close(descriptor)
    return -1


# --- Effects: the store -------------------------------------------------------------------------------------------

SCHEMA = 2

# Plain SQL that SQLite 3.27 knows. Times are seconds; `wall` since the epoch, `boot` since the machine's start.
# Inodes and devices are text: they have 64 bits without a sign, which SQLite's integers lack.
MIGRATIONS = (
    """
    CREATE TABLE monitor (
        one INTEGER PRIMARY KEY CHECK (one = 1), boot_id TEXT NOT NULL, wall REAL NOT NULL, boot REAL NOT NULL,
        complete REAL, steady REAL NOT NULL, device TEXT, inode TEXT, size INTEGER, written INTEGER NOT NULL);
    CREATE TABLE interfaces (
        name TEXT PRIMARY KEY, up INTEGER NOT NULL, read REAL, wall REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE peers (
        interface TEXT NOT NULL, public_key TEXT NOT NULL, endpoint TEXT NOT NULL, allowed_ips TEXT NOT NULL,
        handshake INTEGER NOT NULL, shown INTEGER NOT NULL, made REAL, rx INTEGER NOT NULL, tx INTEGER NOT NULL,
        past_rx INTEGER NOT NULL, past_tx INTEGER NOT NULL, heard REAL, heard_wall REAL, sent INTEGER NOT NULL,
        session INTEGER, PRIMARY KEY (interface, public_key)) WITHOUT ROWID;
    CREATE TABLE sessions (
        number INTEGER PRIMARY KEY, interface TEXT NOT NULL, public_key TEXT NOT NULL, start REAL NOT NULL,
        began REAL NOT NULL, received_before INTEGER NOT NULL, sent_before INTEGER NOT NULL,
        endpoints TEXT NOT NULL, unwatched REAL NOT NULL, last_seen REAL, detected REAL, length REAL,
        received INTEGER, sent INTEGER, reason TEXT);
    CREATE INDEX sessions_of_peer ON sessions (public_key, interface, start);
    CREATE INDEX sessions_open ON sessions (number) WHERE reason IS NULL;
    CREATE INDEX sessions_ended ON sessions (detected);
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY, wall REAL NOT NULL, kind TEXT NOT NULL, interface TEXT, public_key TEXT,
        endpoint TEXT, allowed_ips TEXT, handshake INTEGER, online INTEGER, was TEXT, session INTEGER,
        hook INTEGER NOT NULL, line BLOB NOT NULL);
    CREATE INDEX events_due ON events (seq) WHERE hook = 1;
    CREATE INDEX events_by_time ON events (wall);
    """,
    # Each entry of an index is a tenth of what a storm costs: none is made for a session that goes on.
    """
    DROP INDEX sessions_open;
    DROP INDEX sessions_ended;
    CREATE INDEX sessions_ended ON sessions (detected) WHERE detected IS NOT NULL;
    """,
)

SHAPES = {"t": str, "i": int, "r": float, "b": bytes}
HOOK_NONE, HOOK_DUE, HOOK_DONE, HOOK_DROPPED = range(4)


class StoreFault(Exception):
    """The store cannot be used right now."""

    def __init__(self, message: str, damaged: bool = False) -> None:
        super().__init__(message)
        self.damaged = damaged  # waiting does not help: it has to be moved aside


def known_number(value: float) -> Optional[float]:
    """SQLite has no infinity: NEVER is NULL."""
    return None if value == NEVER else value


def from_null(value: Optional[float]) -> float:
    return NEVER if value is None else value


class PeerRow(NamedTuple):
    """A row of the table peers; PEER_SHAPE has its types."""

    interface: str
    public_key: str
    endpoint: str
    allowed_ips: str
    handshake: int
    shown: int
    made: Optional[float]
    rx: int
    tx: int
    past_rx: int
    past_tx: int
    heard: Optional[float]
    heard_wall: Optional[float]
    sent: int
    session: Optional[int]


PEER_SHAPE = "ttttiiRiiiiRRiI"


class Loaded(NamedTuple):
    """What a store remembers."""

    table: Table
    watched: Optional[Moment]  # the last reading; None = none yet
    same_boot: bool
    steady: float
    seq: int
    jobs: List[Job]


class Store:
    """State and history in SQLite. Every method raises StoreFault and nothing else that a disk can cause."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.failed = False  # until it is opened anew, so that one fault is waited for once
        self.position: Optional[Position] = None
        self.written = 0  # lines are written in order, so that one number marks every event that the trail has
        self.watched = Moment(0.0, 0.0)  # the last reading
        self.stale = True  # its rows may lack more than what moved: another boot's, or another database's
        self.complete = NEVER  # boot time at which its rows last lacked nothing
        self.boot_id = boot_id()
        self.lock = -1
        try:
            self.take_lock()
        except OSError:
            pass  # told when it is opened
        self.database: Optional["sqlite3.Connection"] = None

    def take_lock(self) -> None:
        if self.lock >= 0:
            return
        lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Refusal("STATE_PATH: %s is in use by another monitor" % self.path, EXIT_FAILURE) from None
        self.lock = lock

    def open(self) -> None:
        """Open the database, make it or bring it to this version's schema."""
        import sqlite3

        self.close_database()
        self.stale, self.position, self.written = True, None, 0
        self.watched, self.complete = Moment(0.0, 0.0), NEVER
        self.failed = False
        with self.faults():
            self.take_lock()
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            self.database = sqlite3.connect(self.path, timeout=LOCKED_S, isolation_level=None)
            self.inode = os.stat(self.path).st_ino
            os.chmod(self.path, 0o600)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -750"):
                self.database.execute("PRAGMA " + pragma).fetchall()
            version = self.database.execute("PRAGMA user_version").fetchone()[0]
            if version < 0:
                raise StoreFault("its version is no version", damaged=True)
            if version > SCHEMA:
                raise Refusal("STATE_PATH: %s was written by a newer wg_monitor" % self.path, EXIT_FAILURE)
            if version < SCHEMA:
                statements = [part for part in ";".join(MIGRATIONS[version:SCHEMA]).split(";") if part.strip()]
                self.transact([(s, None) for s in [*statements, "PRAGMA user_version = %d" % SCHEMA]])

    @contextmanager
    def faults(self) -> Iterator[None]:
        """What SQLite and the file system raise, as a StoreFault."""
        import sqlite3

        try:
            yield
        except StoreFault:
            self.failed = True
            raise
        except (sqlite3.OperationalError, sqlite3.IntegrityError, OSError) as error:
            self.failed = True
            # The tables are not ours: SQLite tells that in the words of a fault that passes.
            foreign = re.match("no such (table|column|index)|(table|index) .* (has|already)", str(error)) is not None
            raise StoreFault(reason_of(error), damaged=foreign) from None
        except (sqlite3.Error, ValueError, ArithmeticError) as error:
            # SQLite's "malformed" and "not a database" arrive as plain DatabaseError, damaged numbers as the others.
            self.failed = True
            raise StoreFault(reason_of(error), damaged=True) from None

    def rows(self, shape: str, query: str, *arguments: Any) -> Iterator[Any]:
        """`shape` has a letter for each column (SHAPES), a capital where it may be NULL: SQLite's columns hold what
        they are given, and a flipped bit gives them anything."""
        if self.database is None or self.failed:
            raise StoreFault("it is not open")
        kinds = [(SHAPES[letter.lower()], type(None) if letter.isupper() else ()) for letter in shape]
        for row in self.database.execute(query, arguments):
            for value, kind in zip(row, kinds):
                if not isinstance(value, kind):
                    raise StoreFault("a row has a foreign shape", damaged=True)
            yield row

    def transact(
        self,
        statements: Iterable[Tuple[str, Optional[Iterable[Sequence[Any]]]]],
        durable: bool = True,
        ahead: int = AHEAD_PAGES,
    ) -> None:
        """All or nothing. `durable` survives a power failure as soon as this returns. What was written ahead goes
        into the database itself as soon as it is more than `ahead` pages."""
        if self.database is None or self.failed:
            raise StoreFault("it is not open")
        self.database.execute("PRAGMA synchronous = " + ("FULL" if durable else "NORMAL"))
        self.database.execute("PRAGMA wal_autocheckpoint = %d" % ahead)
        self.database.execute("BEGIN IMMEDIATE")
        try:
            for statement, rows in statements:
                if rows is None:
                    self.database.execute(statement)
                else:
                    self.database.executemany(statement, rows)
            self.database.execute("COMMIT")
        except BaseException:
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")
            raise

    def load(self, settings: Settings, now: Moment) -> Loaded:
        """Everything that outlives a run. After a reboot, places on the boot clock come from the wall clock."""
        with self.faults():
            query = "SELECT boot_id, wall, boot, complete, steady, device, inode, size, written FROM monitor"
            found = list(self.rows("trrRrTTIi", query))
            seq = next(self.rows("i", "SELECT coalesce(max(seq), 0) FROM events"))[0]
            if not found:
                return Loaded(EMPTY, None, True, 0.0, seq, [])
            boot, wall, boot_time, complete, steady, device, inode, size, self.written = found[0]
            self.watched = Moment(wall, boot_time)
            if device is not None and inode is not None and size is not None:
                self.position = Position(int(device), int(inode), size)
            same_boot = boot == self.boot_id
            self.complete = from_null(complete) if same_boot else NEVER
            table = self.load_table(settings, now if not same_boot else None)
            self.stale = not same_boot
            jobs = [
                Job(*row)
                for row in self.rows(
                    "itttttii",
                    "SELECT seq, kind, coalesce(interface, ''), coalesce(public_key, ''), coalesce(endpoint, ''),"
                    " coalesce(allowed_ips, ''), coalesce(handshake, 0), coalesce(online, 0)"
                    " FROM events WHERE hook = 1 ORDER BY seq",
                )
            ]
            watched = self.watched if wall else None
            return Loaded(table, watched, same_boot, steady, max(seq, self.written), jobs)

    def load_table(self, settings: Settings, rebooted: Optional[Moment]) -> Table:
        wanted = settings.interface
        peers: Dict[Identity, Known] = {}
        query = (
            "SELECT p.*, number, start, began, received_before, sent_before, unwatched, endpoints"
            " FROM peers AS p LEFT JOIN sessions ON number = session AND reason IS NULL"
        )
        width = len(PEER_SHAPE)
        for columns in self.rows(PEER_SHAPE + "IRRIIRT", query):
            row = PeerRow(*columns[:width])
            if not wanted or row.interface in wanted:
                session = None if columns[width] is None else Session(*columns[width:])
                if session is not None and None in session:
                    raise StoreFault("a row has a foreign shape", damaged=True)
                known = known_from(row, session, rebooted)
                peers[known.identity] = known
        interfaces = {
            # A handshake that has moved is known to be younger than the peer's row, and all rows than `complete`.
            name: Interface(bool(up), min(from_null(read), self.complete), wall)
            for name, up, read, wall in self.rows("tiRr", "SELECT name, up, read, wall FROM interfaces")
            if not wanted or name in wanted
        }
        highest = next(self.rows("i", "SELECT coalesce(max(number), 0) FROM sessions"))[0]
        return Table(peers, interfaces, None, NEVER, highest, sum(known.online for known in peers.values()))

    def end_unwatched(self, wanted: Iterable[str], now: Moment) -> None:
        """Sessions of interfaces that are not `wanted` (any more) end at their last sign of life."""
        names = sorted(wanted)
        others = "interface NOT IN (%s)" % ",".join("?" * len(names))
        figures = (
            "SELECT max(sessions.start, p.shown, coalesce(p.heard_wall, 0)),"
            " max(0, p.past_rx + p.rx - received_before), max(0, p.past_tx + p.tx - sent_before)"
            " FROM peers AS p WHERE p.session = sessions.number"
        )
        with self.faults():
            self.transact(
                [
                    (
                        "UPDATE sessions SET reason = 'unknown', detected = ?, (last_seen, received, sent) = (%s)"
                        " WHERE reason IS NULL AND %s" % (figures, others),
                        [(now.wall, *names)],
                    ),
                    (
                        "UPDATE sessions SET length = last_seen - start WHERE length IS NULL AND reason = 'unknown'",
                        [()],
                    ),
                    ("UPDATE peers SET session = NULL WHERE " + others, [names]),
                ]
            )

    def save(
        self, records: Sequence[Record], table: Table, now: Moment, every: bool, steady: float, ahead: int = AHEAD_PAGES
    ) -> None:
        """One transaction: lines with their events, what they changed, and where the trail will take them up.
        `every`: all peers that have changed since they were saved, not only those of the events."""
        every = every or self.stale
        events = [record.event for record in records if record.event is not None]
        touched = sorted(event.peer.meter.identity for event in events if event.peer is not None)
        touched = [identity for identity, _ in groupby(touched)]
        gone = [identity for identity in touched if identity not in table.peers]
        changed = [table.peers[identity] for identity in touched if identity in table.peers]
        for known in changed:
            known.meter.moved = True
        if every:
            # In the order of the rows, as what is touched: so each page of a storm is written once, in three quarters
            # of the time that it takes in any other.
            found = (known for known in table.peers.values() if self.stale or known.meter.moved)
            changed = sorted(found, key=attrgetter("identity"))
        watched = table.last or self.watched
        complete = table.last.boot if every and table.last is not None else self.complete
        monitor = (self.boot_id, *watched, known_number(complete), steady, *self.position_row())
        with self.faults():
            self.check_place()
            self.transact(
                [
                    ("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", map(event_row, records)),
                    (
                        "INSERT INTO sessions (number, start, began, received_before, sent_before, unwatched,"
                        " endpoints, interface, public_key) VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (number) DO UPDATE"
                        " SET began = excluded.began, endpoints = excluded.endpoints, unwatched = excluded.unwatched",
                        session_rows(chain(ended_meanwhile(events, table), changed)),
                    ),
                    (
                        "UPDATE sessions SET last_seen = ?, detected = ?, length = ?, received = ?, sent = ?,"
                        " endpoints = ?, unwatched = ?, reason = ? WHERE number = ?",
                        ended_rows(events),
                    ),
                    (
                        "DELETE FROM peers WHERE interface = ? AND public_key = ?",
                        gone,
                    ),
                    (
                        "INSERT OR REPLACE INTO peers VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                        (peer_row(known, now) for known in changed),
                    ),
                    ("INSERT OR REPLACE INTO interfaces VALUES (?,?,?,?)", interface_rows(table)),
                    ("INSERT OR REPLACE INTO monitor VALUES (1,?,?,?,?,?,?,?,?,?)", [monitor]),
                ],
                ahead=ahead,
            )
        self.watched, self.complete = watched, complete
        if every:
            self.stale = False
            for known in changed:
                known.meter.moved = False

    def position_row(self) -> Tuple[Any, ...]:
        if self.position is None:
            return (None, None, None, self.written)
        return (str(self.position.device), str(self.position.inode), self.position.size, self.written)

    def mark_trail(self, position: Optional[Position], written: int) -> None:
        """The lines up to number `written` are in the trail; the next one goes to `position`."""
        self.position, self.written = position, written
        with self.faults():
            statement = "UPDATE monitor SET device = ?, inode = ?, size = ?, written = ?"
            self.transact([(statement, [self.position_row()])])

    def mark_hooks(self, marks: Mapping[int, int]) -> None:
        """Without a wait for the disk: a power failure lets a hook run again, which it can tell by PEER_SEQ."""
        with self.faults():
            rows = [(mark, seq) for seq, mark in marks.items()]
            self.transact([("UPDATE events SET hook = ? WHERE seq = ?", rows)], durable=False)

    def unwritten(self, upto: int, limit: int) -> Tuple[List[int], List[bytes]]:
        """The next lines for the trail: their numbers, and themselves."""
        query = "SELECT seq, line FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        with self.faults():
            found = list(self.rows("ib", query, self.written, upto, limit))
        return [seq for seq, _ in found], [line for _, line in found]

    def prune(self, before: float) -> None:
        """Forget a little of the history that is older than wall clock `before`."""
        with self.faults():
            self.transact(
                [
                    (
                        "DELETE FROM events WHERE seq IN (SELECT seq FROM events"
                        " WHERE wall < ? AND seq <= ? AND hook <> 1 ORDER BY wall LIMIT ?)",
                        [(before, self.written, PRUNE_ROWS)],
                    ),
                    (
                        "DELETE FROM sessions WHERE number IN (SELECT number FROM sessions WHERE detected < ? LIMIT ?)",
                        [(before, PRUNE_ROWS)],
                    ),
                ],
                durable=False,
            )

    def forget(self, names: Sequence[str]) -> None:
        with self.faults():
            rows = [(name,) for name in names]
            self.transact(
                [("DELETE FROM peers WHERE interface = ?", rows), ("DELETE FROM interfaces WHERE name = ?", rows)]
            )

    def check_place(self) -> None:
        """SQLite would go on writing to a file that was deleted, and nobody would find it."""
        if self.database is None or os.stat(self.path).st_ino != self.inode:
            raise FileNotFoundError(errno.ENOENT, "it was deleted or replaced")

    def move_aside(self) -> str:
        """The name under which a damaged store is kept."""
        self.close_database()
        aside = "%s.damaged-%s" % (self.path, time.strftime("%Y%m%d-%H%M%S"))
        while os.path.lexists(aside):
            aside += "+"
        for suffix in ("", "-wal", "-shm"):
            if os.path.lexists(self.path + suffix):
                os.rename(self.path + suffix, aside + suffix)
        return aside

    def close_database(self) -> None:
        if self.database is not None:
            self.database.close()
            self.database = None

    def close(self) -> None:
        self.close_database()
        if self.lock >= 0:
            os.close(self.lock)


def event_row(record: Record) -> Tuple[Any, ...]:
    event, hook = record.event, HOOK_DUE if record.job is not None else HOOK_NONE
    if event is None or event.peer is None:
        iface = None if event is None else event.iface
        return (record.seq, record.wall, record.kind, iface, *(None,) * 7, hook, record.line)
    peer = event.peer
    number = event.ended.number if event.ended else peer.number
    was = event.ended.reason if event.ended else event.before or None
    return (
        record.seq,
        record.wall,
        event.kind,
        *peer.meter.identity,
        peer.endpoint,
        peer.allowed_ips,
        peer.shown,
        int(peer.online),
        was,
        number,
        hook,
        record.line,
    )


def known_from(row: PeerRow, session: Optional[Session], rebooted: Optional[Moment]) -> Known:
    meter = Meter((sys.intern(row.interface), row.public_key), row.rx, row.tx)
    meter.past_rx, meter.past_tx, meter.sent, meter.moved = row.past_rx, row.past_tx, row.sent, False
    meter.heard, made = from_null(row.heard), from_null(row.made)
    if rebooted is not None:
        # The wall clock may be behind now (no clock chip), but distances in the past stay what they were.
        latest = max(row.handshake, row.heard_wall or 0.0)
        zero = rebooted.boot - max(0.0, rebooted.wall - latest) - latest
        made = zero + row.handshake if row.handshake else NEVER
        meter.heard = NEVER if row.heard_wall is None else zero + row.heard_wall
        if session is not None:
            session = session._replace(began=zero + session.start)
    packed = b"" if session is None else session.packed()
    return Known(row.endpoint, row.allowed_ips, row.handshake, row.shown, made, packed, meter)


def ended_meanwhile(events: Iterable[Event], table: Table) -> Iterator[Known]:
    """Peers as they were in sessions that have ended before they could be saved."""
    for event in events:
        if event.peer is not None and event.peer.packed:
            known = table.peers.get(event.peer.meter.identity)
            if known is None or known.packed != event.peer.packed:
                yield event.peer


def session_rows(peers: Iterable[Known]) -> Iterator[Tuple[Any, ...]]:
    """Their open sessions. A later row takes an earlier one's place."""
    for known in peers:
        if known.packed:
            yield (*Session.fields_of(known.packed), *known.meter.identity)


def ended_rows(events: Iterable[Event]) -> Iterator[Tuple[Any, ...]]:
    for event in events:
        e = event.ended
        if e is not None:
            figures = (e.last_seen, event.wall, e.length, e.received, e.transmitted)
            yield (*figures, e.endpoints, e.unwatched, e.reason, e.number)


def peer_row(known: Known, now: Moment) -> Tuple[Any, ...]:
    """The columns of a PeerRow."""
    meter, heard = known.meter, known_number(known.meter.heard)
    return (
        *meter.identity,
        known.endpoint,
        known.allowed_ips,
        known.handshake,
        known.shown,
        known_number(known.made),
        meter.rx,
        meter.tx,
        meter.past_rx,
        meter.past_tx,
        heard,
        None if heard is None else now.wall - (now.boot - heard),
        meter.sent,
        known.number,
    )


def interface_rows(table: Table) -> Iterator[Tuple[Any, ...]]:
    for name, interface in table.interfaces.items():
        yield name, int(interface.up), known_number(interface.read), interface.wall


# --- Effects: the outbox ------------------------------------------------------------------------------------------


class Outbox:
    """Lines on their way: each leaves memory when it is in the store (if there is one) and in the trail (if it is
    ours). Lines that memory had no room for are read back from the store."""

    def __init__(self, store: Optional[Store], trail: Optional[Trail]) -> None:
        self.store, self.trail = store, trail
        self.lines: Deque[Record] = deque()
        self.seq = 0  # of the last line
        self.saved = 0
        self.written = 0
        self.limit = 0  # only what the store has been offered goes to the trail
        self.lost_to_store = self.lost_to_trail = 0

    def put(self, record: Record) -> None:
        self.lines.append(record)
        if len(self.lines) > BACKLOG_MAX:
            first = self.lines[0].seq > self.written and self.trail is not None and self.trail.cut > 0
            oldest = self.lines[first]  # a line that is in the trail by half stays
            del self.lines[first]
            if oldest.seq > self.saved or self.store is None:
                self.lost_to_store += 1
                self.lost_to_trail += oldest.seq > self.written

    def unsaved(self) -> List[Record]:
        return [record for record in self.lines if record.seq > self.saved]

    def tidy(self) -> None:
        done = min(self.saved, self.written) if self.store else self.written
        while self.lines and self.lines[0].seq <= done:
            self.lines.popleft()

    def offer(self) -> None:
        """What has been told so far goes to the store now, and whether it can take it or not to the trail."""
        self.limit = self.seq
        if self.trail is None:
            self.written = self.seq  # another monitor's

    def save(self, table: Table, now: Moment, every: bool, steady: float) -> None:
        """To the store, together with where the trail stands. Errors: StoreFault."""
        if self.store is None:
            return
        records, ahead = self.unsaved(), AHEAD_PAGES
        try:
            self.store.position = self.trail.position() if self.trail else None
            if self.trail and records and self.written >= self.saved:
                ahead *= 10  # the lines of a storm do not wait for that: the next mark of the trail sees to it
        except OSError:
            pass  # where it stood before; `write` reports it
        self.store.written = self.written
        self.store.save(records, table, now, every, steady, ahead)
        self.saved = self.limit
        self.tidy()

    def batch(self) -> Tuple[List[int], List[bytes]]:
        """The next lines for the trail: their numbers, and themselves."""
        first = self.lines[0].seq if self.lines else self.seq + 1
        if self.store is not None and self.written + 1 < first:
            older = self.store.unwritten(first - 1, LINES_IN_BATCH)
            if older[0]:
                return older
            self.written = first - 1
        ahead = (record for record in self.lines if self.written < record.seq <= self.limit)
        records = list(islice(ahead, LINES_IN_BATCH))
        return [record.seq for record in records], [record.line for record in records]

    def write(self) -> None:
        """To the trail, all there is. Errors: OSError where the trail, StoreFault where the store cannot."""
        fault: Optional[StoreFault] = None
        while self.trail is not None:
            numbers, lines = self.batch()
            if not lines:
                break
            position = self.trail.position()
            if self.store is not None and self.store.position != position:
                fault = self.mark(position) or fault  # before a byte is written: a crash looks for it there
            done, error = self.trail.write(lines)
            if done:
                self.written = numbers[done - 1]
                size = position.size + sum(map(len, lines[:done]))
                fault = self.mark(position._replace(size=size)) or fault
                self.tidy()
            if error is not None:
                # Another one: an error that a frame holds would hold the frame, and no collector comes for it.
                raise OSError(error.errno, error.strerror)
        if fault is not None:
            raise StoreFault(str(fault), fault.damaged)

    def mark(self, position: Position) -> Optional[StoreFault]:
        """Tell the store how far the trail is. A store that cannot hear it stops no line."""
        try:
            if self.store is not None:
                self.store.mark_trail(position, self.written)
        except StoreFault as fault:
            return fault.with_traceback(None)
        return None

    def recover(self) -> str:
        """After a crash between the store and the trail: find the lines that the trail has. A warning, or ""."""
        store = self.store
        if store is None or self.trail is None or store.position is None:
            return ""
        try:
            numbers, lines = store.unwritten(self.seq, BACKLOG_MAX)
        except StoreFault:
            return ""  # told when it is used next
        if not lines:
            return ""
        try:
            descriptor = find_inode(os.path.dirname(self.trail.path), store.position)
            if descriptor < 0:
                return "%s may stand twice: the file that the trail was is gone" % counted(len(lines), "line")
            try:
                struck = self.trail.resume(descriptor, store.position.size, lines)
            finally:
                os.close(descriptor)
        except OSError as error:
            return "%s may stand twice: %s" % (counted(len(lines), "line"), reason_of(error))
        if struck:
            self.written = store.written = numbers[struck - 1]
        return ""


# --- Effects: the hook --------------------------------------------------------------------------------------------


def user_name(uid: int) -> str:
    import pwd

    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return "user %d" % uid


def judge_above(path: str, owners: Iterable[int]) -> str:
    """Why the directories above a path cannot be trusted; "" where they can: each owned by one of `owners`, and
    not writable by anybody else but for root's sticky ones, where nobody can rename what is not theirs."""
    directory = os.path.dirname(path)
    while True:
        status = os.stat(directory)
        if status.st_uid not in owners:
            return "%s belongs to %s" % (printable(directory), user_name(status.st_uid))
        if status.st_mode & 0o022 and not (status.st_mode & stat.S_ISVTX and status.st_uid == 0):
            return "%s can be written by others (mode %04o)" % (printable(directory), status.st_mode & 0o7777)
        if directory == "/":
            return ""
        directory = os.path.dirname(directory)


def judge_script(path: str) -> Tuple[str, str]:
    """The file that a hook's path leads to, which is the one to run, and why it is unfit to be run as root; "" where
    it is fit."""
    owners = {0, os.geteuid()}
    if not path.startswith("/"):
        return path, "it is not an absolute path"
    try:
        real = os.path.realpath(path)
        status = os.stat(real)
        if not stat.S_ISREG(status.st_mode):
            return real, "it is not a regular file"
        if status.st_uid not in owners:
            return real, "it belongs to %s" % user_name(status.st_uid)
        if status.st_mode & 0o022:
            return real, "it can be written by others (mode %04o)" % (status.st_mode & 0o7777)
        if not os.access(real, os.X_OK):
            return real, "it is not executable"
        return real, judge_above(os.path.normpath(path), owners) or judge_above(real, owners)
    except (OSError, ValueError) as error:
        return path, reason_of(error)


class Run:
    """A hook that is running."""

    def __init__(self, job: Job, path: str, real: str, timeout_s: int) -> None:
        import subprocess

        self.job = job
        self.said = b""
        self.overdue = False
        self.reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)
        try:
            self.process = subprocess.Popen(
                [path],
                executable=real,  # the file that was judged, wherever a link leads by now
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                env=hook_environment(job),
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self.reader)
            raise
        finally:
            os.close(writer)
        self.deadline = time.monotonic() + timeout_s

    def read(self) -> bool:
        """Take what it said, keep the beginning. False = it will say no more."""
        try:
            data = os.read(self.reader, 65536)
        except BlockingIOError:
            return True
        self.said += data[: HOOK_OUTPUT_MAX - len(self.said)]
        return bool(data)

    def words(self) -> str:
        """What there is to report of it when it has ended."""
        job = self.job
        peer = " " + short_key(job.key) if job.key else ""
        how = "took too long and was killed" if self.overdue else exit_words(self.process.returncode)
        said = printable(" ".join(self.said.decode("utf-8", "replace").split()), HOOK_OUTPUT_MAX)
        return "Hook for %s [%s]%s %s%s" % (job.kind, job.iface, peer, how, ": " + said if said else "")


class HookRunner:
    """Runs the hook without ever being waited for: some at once, in order for each peer."""

    def __init__(self, path: str, timeout_s: int, poll: "select.poll") -> None:
        self.path, self.timeout_s, self.poll = path, timeout_s, poll
        self.readers: Dict[int, Run] = {}  # the runs that may still say something, by their descriptors
        self.waiting: Deque[Job] = deque()
        self.running: Dict[Identity, Run] = {}
        self.marks: Dict[int, int] = {}  # what the store has to be told
        self.unfit = ""  # why none can be run
        self.dropped = 0

    def add(self, job: Job) -> None:
        self.waiting.append(job)
        if len(self.waiting) > HOOKS_WAITING_MAX:
            self.marks[self.waiting.popleft().seq] = HOOK_DROPPED
            self.dropped += 1

    def next_job(self) -> Optional[Job]:
        for i, job in enumerate(self.waiting):
            if (job.iface, job.key) not in self.running:
                del self.waiting[i]
                return job
        return None

    def start(self) -> Iterator[str]:
        """Fill the free places; why one could not be started ("" where the hook is unfit for all)."""
        while len(self.running) < HOOKS_AT_ONCE:
            job = self.next_job()
            if job is None:
                return
            real, why = judge_script(self.path)  # right before the run
            try:
                if not why:
                    run = Run(job, self.path, real, self.timeout_s)
                    self.running[(job.iface, job.key)] = run
                    self.readers[run.reader] = run
                    self.poll.register(run.reader, select.POLLIN)
                    continue
            except OSError as error:
                why = reason_of(error)
            self.marks[job.seq] = HOOK_DONE
            yield "" if why == self.unfit else "Hook for %s [%s] could not be run: %s" % (job.kind, job.iface, why)

    def hear(self, reader: int) -> None:
        if not self.readers[reader].read():
            self.forget(reader)

    def forget(self, reader: int) -> None:
        if self.readers.pop(reader, None) is not None:
            self.poll.unregister(reader)

    def reap(self) -> Iterator[Run]:
        """The runs that have ended; those that took too long are killed with all their family."""
        now = time.monotonic()
        for identity, run in list(self.running.items()):
            if run.process.poll() is None:
                if now >= run.deadline and not run.overdue:
                    run.overdue = True
                    kill_group(run.process.pid)
                continue
            while len(run.said) < HOOK_OUTPUT_MAX and ready_for(select.POLLIN, run.reader) and run.read():
                pass
            self.forget(run.reader)
            os.close(run.reader)
            del self.running[identity]
            self.marks[run.job.seq] = HOOK_DONE
            yield run

    def deadline(self) -> float:
        """On the monotonic clock; what was killed tells by SIGCHLD."""
        return min((run.deadline for run in self.running.values() if not run.overdue), default=float("inf"))

    def kill(self) -> None:
        for run in self.running.values():
            kill_group(run.process.pid)


# --- Effects: the service manager and signals ---------------------------------------------------------------------


class Notifier:
    """sd_notify(3), and the watchdog's time (sd_watchdog_enabled(3)). The variables are taken out of the
    environment; children would not get them anyway."""

    def __init__(self, environment: "os._Environ[str]") -> None:
        self.address = environment.pop("NOTIFY_SOCKET", "")
        usec = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        mine = usec.isdigit() and pid in ("", str(os.getpid()))
        self.watchdog_s = int(usec) / 1e6 if mine and self.address else 0.0
        if self.address.startswith("@"):
            self.address = "\0" + self.address[1:]
        if self.address:
            # Not at the first word to it: what an import leaves among the objects of a reading keeps their memory.
            import socket

            self.socket = socket

    def tell(self, *assignments: str) -> bool:
        """Was it heard, as far as anybody listens?"""
        if not self.address:
            return True
        socket = self.socket
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(assignments).encode(), self.address)
        except OSError:
            return False  # a service manager that does not listen stops no watcher
        return True


class Wakeup:
    """Signals leave their number in a pipe; the handlers do nothing, so that nothing can go wrong in them."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self) -> None:
        self.reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in self.SIGNALS:
            signal.signal(number, lambda *_: None)
            signal.siginterrupt(number, False)

    def signals(self) -> Set[int]:
        try:
            return set(os.read(self.reader, 4096))
        except BlockingIOError:
            return set()


# --- The monitor --------------------------------------------------------------------------------------------------


class Grid:
    """Readings at whole multiples of the interval from the start, on the monotonic clock: no drift, and what is
    late is skipped instead of queued."""

    def __init__(self, interval: float, start: float) -> None:
        self.interval, self.next = interval, start
        self.skipped = 0

    def advance(self, now: float) -> None:
        steps = int((now - self.next) // self.interval) + 1
        self.next += steps * self.interval
        self.skipped += steps - 1


class Monitor:
    """The loop that wires everything, and nothing else."""

    def __init__(
        self,
        settings: Settings,
        wg: str,
        console: Console,
        trail: Optional[Trail],
        store: Optional[Store],
        notifier: Notifier,
    ) -> None:
        self.settings, self.console, self.notifier = settings, console, notifier
        self.trail, self.store = trail, store
        self.outbox = Outbox(store, trail)
        self.poll = select.poll()
        self.wakeup = Wakeup()
        self.poll.register(self.wakeup.reader, select.POLLIN)
        self.hooks = HookRunner(settings.on_change_script, settings.script_timeout, self.poll)
        self.table = EMPTY
        self.memo = Memo()
        self.watched: Optional[Moment] = None  # the last reading of the run before this one
        self.same_boot = True
        self.loaded = False
        self.clock: Optional[Moment] = None  # the last look at the clocks
        self.reading_at: Optional[Moment] = None  # while one is worked on: all its lines have its time
        self.zone = (0, 0)  # inode and time of /etc/localtime
        self.offset = utc_offset(time.time())  # of local time
        self.steady = 0.0
        self.troubles: Dict[str, Tuple[Trouble, float]] = {}  # with the boot time of their beginning
        self.fresh: List[Record] = []  # of this turn
        self.counts: Dict[str, int] = dict.fromkeys(
            ("readings", "failed", "events", "skipped", "hooks", "hook failures", "write failures"), 0
        )
        self.probe = Probe(wg)
        self.stopping = False
        self.ready = False
        self.status = ""  # as the service manager knows it
        start = time.monotonic()
        self.grid = Grid(settings.interval, start)
        self.statistics = Grid(settings.stats_interval, start + settings.stats_interval)
        self.checkpoint = start + CHECKPOINT_S
        self.fed = start
        self.started = start

    # What is told

    def note(self, kind: str, text: str) -> None:
        """A line that is no event: to the console and the trail."""
        wall = self.reading_at.wall if self.reading_at is not None else time.time()
        self.emit(LEVELS.get(kind, INFORMATION), wall, kind, text, None)

    def debug(self, text: str) -> None:
        if self.settings.debug:
            self.note("DEBUG", text)

    def emit(self, level: int, wall: float, kind: str, text: str, event: Optional[Event]) -> None:
        self.outbox.seq += 1
        seq = self.outbox.seq
        line = render(seq, wall, kind, text, event, self.settings.log_format)
        job = job_of(seq, event, self.settings) if event is not None else None
        record = Record(seq, wall, level, kind, line, event, job)
        self.outbox.put(record)
        self.fresh.append(record)

    def begin(self, trouble: Trouble) -> None:
        if trouble.key not in self.troubles:
            since = trouble.since if trouble.since > NEVER else moment().boot
            self.troubles[trouble.key] = (trouble, since)
            self.note("WARN", trouble.begins)

    def end(self, key: str, tell: bool = True) -> None:
        if key in self.troubles:
            trouble, since = self.troubles.pop(key)
            if trouble.ends and tell:
                self.note("WARN", "%s after %s" % (trouble.ends, duration(moment().boot - since)))

    def flush(self, every: bool = False) -> None:
        """Everything that was told in this turn: to the store, the trail, the console and the hook, in this order."""
        if self.fresh or every or self.outbox.lines:
            for _ in range(4):  # what is told on the way goes the same way: each sink's trouble, and its end
                told = self.outbox.seq
                self.save(every)
                self.write()
                if told == self.outbox.seq:
                    break
        records, self.fresh = self.fresh, []
        self.console.begin()
        for record in records:
            self.console.write(record.level, record.line, self.settings.log_format == "text")
            if record.job is not None:
                self.hooks.add(record.job)

    def save(self, every: bool) -> None:
        now = moment()
        self.outbox.offer()
        try:
            if self.store is not None and "store" in self.troubles:
                self.store.open()
                if not self.loaded:  # what it remembers was not there when it was asked for
                    self.store.end_unwatched((), now)
                    self.loaded = True
                every = True
            self.outbox.save(self.table, now, every, self.steady)
        except StoreFault as fault:
            self.store_fault(fault)
            return
        if "store" in self.troubles:
            self.end("store")
            self.tell_loss("The store lacks %s", self.outbox.lost_to_store)
            self.outbox.lost_to_store = 0

    def store_fault(self, fault: StoreFault) -> None:
        assert self.store is not None
        aside = ""
        if fault.damaged:
            try:
                aside = self.store.move_aside()
            except OSError:
                pass  # the trouble goes on, and so do the attempts
        self.tell_store_fault(self.store, fault, aside)

    def tell_store_fault(self, store: Store, fault: StoreFault, aside: str) -> None:
        self.counts["write failures"] += 1
        path = printable(store.path)
        begins = "%s cannot be used: %s; what happens is kept in memory" % (path, fault)
        self.begin(Trouble("store", begins, "%s can be used again" % path))
        if aside:
            self.note("WARN", "The damaged store is kept as %s" % printable(aside))

    def tell_loss(self, sentence: str, lines: int) -> None:
        if lines:
            self.note("WARN", sentence % counted(lines, "line") + ", which memory had no room for")

    def write(self) -> None:
        if self.trail is None:
            return
        try:
            self.outbox.write()
        except StoreFault as fault:
            self.store_fault(fault)
            if self.outbox.written < self.outbox.limit:
                return
        except OSError as error:
            self.counts["write failures"] += 1
            self.trail.reopen()
            path = printable(self.trail.path)
            self.begin(
                Trouble(
                    "trail",
                    "%s cannot be written: %s; its lines are kept" % (path, reason_of(error)),
                    "%s can be written again" % path,
                )
            )
            return
        if "trail" in self.troubles:
            self.end("trail")
            self.tell_loss("The trail lacks %s", self.outbox.lost_to_trail)
            self.outbox.lost_to_trail = 0

    # What is done

    def run(self) -> int:
        self.open()
        self.note("START", started_text(self.settings))
        if self.settings.liveness == "handshake" and self.settings.threshold <= REKEY_AFTER_TIME_S:
            self.note(
                "WARN",
                "A threshold of %ds or less makes healthy peers flap: a WireGuard session in use shakes hands anew only"
                " after %ds" % (REKEY_AFTER_TIME_S, REKEY_AFTER_TIME_S),
            )
        gc.freeze()
        while not self.stopping:  # the first turn writes these lines while `wg` runs
            self.turn()
        self.finish()
        return 0

    def open(self) -> None:
        """Take up the store and the trail where the run before left them."""
        if self.store is not None:
            self.take_up(self.store)
        if self.trail is None:
            self.note("WARN", "%s is written by another monitor: reporting here only" % self.settings.log_path)
        elif self.trail.descriptor >= 0:
            try:
                self.trail.mend()  # not before: what a crash cut short is finished first
            except OSError:
                pass  # told and tried again at the first line

    def take_up(self, store: Store) -> None:
        """What the run before left. Nothing is told before it is known which number the next line has."""
        now = moment()
        fault: Optional[StoreFault] = None
        loaded, aside = self.load(store, now), ""
        if isinstance(loaded, StoreFault):
            fault = loaded
            if fault.damaged:
                try:
                    aside = store.move_aside()
                    loaded = self.load(store, now)
                except OSError:
                    pass
        if isinstance(loaded, StoreFault):
            # Numbers that no earlier run can have reached: the store may come back, and keeps what it has.
            numbers = int(max(now.wall, UNREACHED_S) * 1000)
            self.number_from(numbers)
            self.table = self.table._replace(sessions=numbers)
            self.tell_store_fault(store, loaded, aside)
            return
        self.loaded = True
        self.table, self.watched, self.same_boot = loaded.table, loaded.watched, loaded.same_boot
        away = now.wall - self.watched.wall if self.watched else 0.0
        self.steady = loaded.steady if self.same_boot or 0 <= away <= 7 * DAY_S else 0.0
        self.number_from(loaded.seq)
        self.outbox.written = store.written
        if fault is not None:
            self.tell_store_fault(store, fault, aside)
            self.end("store")
        warning = self.outbox.recover()
        if warning:
            self.note("WARN", warning)
        self.take_up_hooks(loaded.jobs)

    def load(self, store: Store, now: Moment) -> Union[Loaded, StoreFault]:
        try:
            store.open()
            loaded = store.load(self.settings, now)
            if self.settings.interface:
                store.end_unwatched(self.settings.interface, now)
            return loaded
        except StoreFault as fault:
            return fault.with_traceback(None)

    def take_up_hooks(self, jobs: Sequence[Job]) -> None:
        """The hook runs that the run before left."""
        if self.settings.on_change_script:
            for job in jobs:
                self.hooks.add(job)
        elif jobs:
            self.hooks.marks.update((job.seq, HOOK_DROPPED) for job in jobs)
            self.note("WARN", "%s dropped: ON_CHANGE_SCRIPT is not set any more" % counted(len(jobs), "hook run"))

    def number_from(self, seq: int) -> None:
        self.outbox.seq = self.outbox.saved = self.outbox.written = self.outbox.limit = seq

    def turn(self) -> None:
        """Sleep until there is something to do, and do it."""
        signals = self.wait(self.wake_at())
        self.stopping = bool(signals & {signal.SIGTERM, signal.SIGINT})
        if signal.SIGHUP in signals:
            self.reload()
        if self.probe.pid:
            self.look_after_probe()
        now = time.monotonic()
        if now >= self.grid.next and not self.stopping:
            self.grid.advance(now)
            self.start_reading()
        if now >= self.statistics.next:
            self.statistics.advance(now)
            self.tell_statistics()
        if self.notifier.watchdog_s and now - self.fed >= self.notifier.watchdog_s / 4:
            self.fed = now
            self.notifier.tell("WATCHDOG=1")
        self.reap_hooks()
        if self.fresh:
            self.flush()  # events come before their hooks
        if not self.stopping:
            self.start_hooks()
        if self.fresh:
            self.flush()
        self.mark_hooks()

    def wait(self, until: float) -> Set[int]:
        """Sleep, but hear what hooks say; the signals that have come."""
        signals: Set[int] = set()
        for descriptor, _ in self.poll.poll(milliseconds(until - time.monotonic())):
            if descriptor == self.wakeup.reader:
                signals = self.wakeup.signals()
            else:
                self.hooks.hear(descriptor)
        return signals

    def wake_at(self) -> float:
        at = min(self.grid.next, self.statistics.next, self.hooks.deadline())
        if self.probe.pid and not self.probe.overdue:
            at = min(at, self.probe.deadline)
        if self.notifier.watchdog_s:
            at = min(at, self.fed + self.notifier.watchdog_s / 2)
        return at

    def start_reading(self) -> None:
        if self.probe.pid:
            if self.probe.overdue:
                self.no_reading("wg still hangs")
            else:
                self.grid.skipped += 1  # it takes longer than the interval, but not too long
            return
        try:
            self.probe.start()
        except OSError as error:
            self.no_reading("%s cannot be run: %s" % (self.probe.wg, reason_of(error)))

    def look_after_probe(self) -> None:
        answer = self.probe.answer()
        if answer is not None:
            if answer.why and not self.probe.overdue:
                self.no_reading(answer.why)
            elif not self.probe.overdue:
                self.take(answer, self.probe.blocks(answer.size))
            self.probe.clear()
        elif time.monotonic() >= self.probe.deadline and not self.probe.overdue:
            self.probe.kill()
            self.no_reading("wg gave no answer within %ds" % WG_TIMEOUT_S)

    def no_reading(self, why: str) -> None:
        self.counts["readings"] += 1
        self.counts["failed"] += 1
        self.look_at_clocks(moment())
        since = self.table.last.boot if self.table.last is not None else NEVER
        self.begin(Trouble("reading", "No reading: %s; peers keep their state" % why, "Readings again", since))
        self.conclude(False)

    def take(self, answer: Answer, blocks: Iterable[bytes]) -> None:
        """A reading, through the whole pipeline."""
        self.observe(answer, blocks)
        self.conclude(True)

    def observe(self, answer: Answer, blocks: Iterable[bytes]) -> None:
        """What a reading says, parsed, decided and told."""
        now = self.reading_at = moment()
        self.counts["readings"] += 1
        self.look_at_clocks(now)
        self.end("reading")
        if self.watched is not None:
            self.note("WARN", "Not watching from %s to %s" % (stamp(self.watched.wall), stamp(now.wall)))
        before = self.table.sessions
        reading = parse(blocks, answer.complaints, self.memo, self.table.peers, self.settings, now.boot)
        troubles = troubles_in(reading, self.table, self.settings)
        self.table, events = decide(self.table, reading, now, self.settings)
        if self.watched is not None:
            gap = now.boot - self.watched.boot if self.same_boot else max(0.0, now.wall - self.watched.wall)
            self.table, events = span(self.table, events, before, self.watched, gap)
            self.watched = None
            if self.store is not None:
                self.store.stale = True
        self.counts["skipped"] += sum(reading.spoiled.values())
        self.compare_troubles(troubles, reading.interfaces)
        self.counts["events"] += len(events)
        for event in events:
            self.emit(INFORMATION, event.wall, event.kind, event_text(event), event)
        self.debug(
            "Reading: %s of %s online, %d bytes"
            % (self.table.online, counted(len(self.table.peers), "peer"), answer.size)
        )
        self.reading_at = None

    def conclude(self, read: bool) -> None:
        """The end of a reading, or of the attempt."""
        now = time.monotonic()
        due = now >= self.checkpoint
        if due:
            self.checkpoint = now + CHECKPOINT_S
            self.tidy_history()
        self.flush(every=read and (due or not self.ready))
        up = sum(interface.up for interface in self.table.interfaces.values())
        status = "STATUS=%d of %s online, %s" % (
            self.table.online,
            counted(len(self.table.peers), "peer"),
            counted(up, "interface"),
        )
        if self.troubles:
            status += "; " + next(iter(self.troubles.values()))[0].begins
        if not self.ready:
            self.ready = self.notifier.tell("READY=1", status)
        elif status != self.status and self.notifier.tell(status):
            self.status = status

    def compare_troubles(self, troubles: Sequence[Trouble], interfaces: FrozenSet[str]) -> None:
        keys = {trouble.key for trouble in troubles}
        for key in [key for key in self.troubles if " " in key and key not in keys]:
            name = key.partition(" ")[2]
            self.end(key, tell=not name or name in interfaces)  # an interface that went cannot be read again
        for trouble in troubles:
            self.begin(trouble)

    def look_at_clocks(self, now: Moment) -> None:
        self.follow_zone()
        before = self.clock or (self.watched if self.same_boot else None)
        if before is not None:
            step = clock_step(before, now)
            if step:
                self.steady = 0.0
                way = "forward" if step > 0 else "back"
                self.note("WARN", "The wall clock was set %s by %s" % (way, duration(abs(step))))
            else:
                self.steady += now.boot - before.boot
        offset = utc_offset(now.wall)
        if offset != self.offset:
            self.note("WARN", "Local time is now UTC%s, it was UTC%s" % (offset, self.offset))
        self.clock, self.offset = now, offset

    def follow_zone(self) -> None:
        """The C library looks at /etc/localtime when it is asked to, which costs more than to see that it changed."""
        try:
            status = os.stat("/etc/localtime")
            zone = (status.st_ino, status.st_mtime_ns)
        except OSError:
            zone = (0, 0)
        if zone != self.zone:
            self.zone = zone
            time.tzset()
            stamp_of.cache_clear()

    def tidy_history(self) -> None:
        if self.steady < STEADY_S:
            return
        now = moment()
        self.table, names = forget(self.table, now, self.settings.history_days)
        if names:
            self.memo = Memo()
        if self.store is None or "store" in self.troubles:
            return
        try:
            if names:
                self.store.forget(names)
            self.store.prune(now.wall - self.settings.history_days * DAY_S)
        except StoreFault as fault:
            self.store_fault(fault)

    def reap_hooks(self) -> None:
        for run in self.hooks.reap():
            self.counts["hooks"] += 1
            if run.process.returncode or run.overdue:
                self.counts["hook failures"] += 1
                self.note("WARN", run.words())
            else:
                self.debug(run.words())

    def start_hooks(self) -> None:
        if not self.hooks.waiting:
            return
        self.hooks.unfit = judge_script(self.hooks.path)[1]
        if self.hooks.unfit:
            path = printable(self.hooks.path)
            begins = "The hook %s is not run: %s" % (path, self.hooks.unfit)
            self.begin(Trouble("unfit", begins, "The hook %s is run again" % path))
        else:
            self.end("unfit")
        for words in self.hooks.start():
            self.counts["hook failures"] += 1
            if words:
                self.note("WARN", words)
        if self.hooks.dropped:
            begins = "More than %d hook runs are waiting: the oldest are dropped" % HOOKS_WAITING_MAX
            self.begin(Trouble("crowd", begins, ""))
        if "crowd" in self.troubles and not self.hooks.waiting:
            self.end("crowd")
            self.note("WARN", "%s dropped in all; none is waiting now" % counted(self.hooks.dropped, "hook run"))
            self.hooks.dropped = 0

    def mark_hooks(self) -> None:
        if not self.hooks.marks:
            return
        marks = {seq: mark for seq, mark in self.hooks.marks.items() if seq <= self.outbox.saved}
        if self.store is None:
            self.hooks.marks.clear()
        elif marks and "store" not in self.troubles:
            try:
                self.store.mark_hooks(marks)
                for seq in marks:
                    del self.hooks.marks[seq]
            except StoreFault as fault:
                self.store_fault(fault)

    def reload(self) -> None:
        """SIGHUP: the trail is opened anew."""
        now_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.notifier.tell("RELOADING=1", "MONOTONIC_USEC=%d" % now_usec)
        if self.trail is not None:
            self.trail.reopen()
            try:
                self.trail.position()
            except OSError:
                pass  # told at the next line
        self.debug("The trail is opened anew")
        self.flush()
        if self.ready:
            self.notifier.tell("READY=1")

    def tell_statistics(self) -> None:
        c = self.counts
        text = (
            "Statistics | Readings: %d (%d failed, %d late), Events: %d, Skipped lines: %d, Peers: %d online of %d,"
            " Hooks: %d run, %d failed, %d waiting, Writes: %d failed"
            % (
                c["readings"],
                c["failed"],
                self.grid.skipped,
                c["events"],
                c["skipped"],
                self.table.online,
                len(self.table.peers),
                c["hooks"],
                c["hook failures"],
                len(self.hooks.waiting),
                c["write failures"],
            )
        )
        if self.outbox.lines or self.console.dropped:
            text += ", Lines: %d kept, %d dropped by the console" % (len(self.outbox.lines), self.console.dropped)
        self.console.begin()
        line = render(self.outbox.seq, time.time(), "STATS", text, None, self.settings.log_format)
        self.console.write(INFORMATION, line, self.settings.log_format == "text")
        gc.collect()

    def finish(self) -> None:
        """Within 8 s: running hooks get their grace, everything that is known goes to the store."""
        self.notifier.tell("STOPPING=1", "STATUS=Stopping")
        self.probe.kill()
        deadline = time.monotonic() + HOOK_GRACE_S
        while self.hooks.running and time.monotonic() < deadline:
            self.wait(min(deadline, self.hooks.deadline()))
            self.reap_hooks()
        left = len(self.hooks.running) + len(self.hooks.waiting)
        self.hooks.kill()
        if left:
            later = "; they run at the next start" if self.store else ""
            self.note("WARN", "%s did not run to the end%s" % (counted(left, "hook"), later))
        c = self.counts
        self.note(
            "STOP",
            "Monitor stopped | Watched: %s, Readings: %d (%d failed), Events: %d"
            % (duration(time.monotonic() - self.started), c["readings"], c["failed"], c["events"]),
        )
        self.flush(every=self.table.last is not None)
        self.mark_hooks()
        if self.store is not None:
            self.store.close()
        if self.trail is not None:
            self.trail.close()


# --- The command line ---------------------------------------------------------------------------------------------


def a_choice(*words: str) -> Callable[[str], str]:
    def parse_choice(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return parse_choice


def whole_number(least: int, most: int, unit: str) -> Callable[[str], int]:
    def parse_number(text: str) -> int:
        if not re.fullmatch("[0-9]{1,8}", text) or not least <= int(text) <= most:
            raise ValueError("whole %s from %d to %d" % (unit, least, most))
        return int(text)

    return parse_number


def a_truth(text: str) -> bool:
    if text.lower() not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError("true, yes, 1, false, no or 0")
    return text.lower() in ("true", "yes", "1")


def interface_names(text: str) -> FrozenSet[str]:
    names = [name.strip() for name in text.split(",")] if text else []
    if not all(INTERFACE_NAME.fullmatch(name) for name in names):
        raise ValueError("interface names of 1 to 15 letters, digits and _=+.- separated by commas")
    return frozenset(names)


def event_kinds(text: str) -> FrozenSet[str]:
    kinds = [kind.strip() for kind in text.split(",")]
    if not all(kind in EVENT_KINDS for kind in kinds):
        raise ValueError("events separated by commas: " + ", ".join(EVENT_KINDS))
    return frozenset(kinds)


def a_path(text: str) -> str:
    if text and (not text.startswith("/") or text.endswith("/") or not text.isprintable()):
        raise ValueError("the absolute path of a file, without control characters")
    return text


class Option(NamedTuple):
    """One setting. Flags, variables, help, the default file, the manual page and the READMEs come from here."""

    variable: str
    default: str
    metavar: str
    parse: Callable[[str], Any]
    meaning: str

    @property
    def flag(self) -> str:
        return "--" + self.field.replace("_", "-")

    @property
    def field(self) -> str:
        return self.variable.lower()


SECONDS = whole_number(1, SECONDS_MAX, "seconds")

OPTIONS = (
    Option("LOG_PATH", "/var/log/wg_monitor.log", "FILE", a_path, "the trail, under /var/log or /tmp"),
    Option("LOG_FORMAT", "text", "FORMAT", a_choice("text", "json"), "format of the trail: text or json"),
    Option("INTERVAL", "30", "SECONDS", SECONDS, "seconds between two readings"),
    Option("THRESHOLD", "180", "SECONDS", SECONDS, "age at which a peer is offline, in seconds"),
    Option(
        "LIVENESS",
        "handshake",
        "SIGN",
        a_choice("handshake", "traffic"),
        "what keeps a peer online: handshake, or traffic (received bytes count as well)",
    ),
    Option("STATS_INTERVAL", "3600", "SECONDS", SECONDS, "seconds between two lines of statistics on the console"),
    Option("INTERFACE", "", "NAMES", interface_names, "interfaces to watch, separated by commas; empty: all"),
    Option("ON_CHANGE_SCRIPT", "", "FILE", a_path, "the hook: a program to run when a peer changes; empty: none"),
    Option("SCRIPT_TIMEOUT", "30", "SECONDS", SECONDS, "seconds after which the hook is killed"),
    Option(
        "SCRIPT_EVENTS",
        "ONLINE,OFFLINE,REMOVED",
        "EVENTS",
        event_kinds,
        "events that the hook is run for, separated by commas",
    ),
    Option("STATE_PATH", "", "FILE", a_path, "the store, under /var/lib, /run or /tmp; empty: none"),
    Option("HISTORY_DAYS", "365", "DAYS", whole_number(1, 36_500, "days"), "days that the store's history goes back"),
    Option("DEBUG", "false", "", a_truth, "report every step: true or false, the flag alone is true"),
)


def parse_settings(flags: Mapping[str, Optional[str]], environment: Mapping[str, str]) -> Settings:
    """A flag beats a variable, an empty value is unset. Errors: Refusal."""
    values: Dict[str, Any] = {}
    for option in OPTIONS:
        text = flags.get(option.field) or environment.get(option.variable) or option.default
        try:
            values[option.field] = option.parse(text)
        except ValueError as allowed:
            raise Refusal(
                "%s: '%s' is not allowed; allowed: %s" % (option.variable, printable(text, 80), allowed)
            ) from None
    return Settings(**values)


def confine(variable: str, path: str, roots: Sequence[str]) -> str:
    """The path with its directory resolved, which lies under one of the roots. Errors: Refusal."""
    shown = printable(path)
    directory = os.path.realpath(os.path.dirname(path))
    name = os.path.basename(path)
    resolved = [os.path.realpath(root) for root in roots]
    if name in ("", ".", "..") or not any(os.path.commonpath((root, directory)) == root for root in resolved):
        raise Refusal("%s: '%s' does not lie under %s" % (variable, shown, " or ".join(roots)))
    if not os.path.isdir(directory):
        raise Refusal("%s: there is no directory %s; make it first" % (variable, printable(directory)))
    return directory + "/" + name


def judge_place(variable: str, path: str) -> None:
    """Refuse a directory in which the daemon may not write. Root without CAP_DAC_OVERRIDE is bound by ownership."""
    directory = os.path.dirname(path)
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True) or os.statvfs(directory).f_flag & os.ST_RDONLY:
        return  # a file system that is read-only now may be mended while the monitor runs
    status = os.stat(directory)
    raise Refusal(
        "%s: %s belongs to %s (mode %04o), and %s may not write there"
        % (variable, printable(directory), user_name(status.st_uid), status.st_mode & 0o7777, user_name(os.geteuid())),
        EXIT_NOT_PERMITTED,
    )


def place_of_trail(settings: Settings) -> str:
    with unusable("LOG_PATH", settings.log_path):
        return judge_trail_path(settings)


def place_of_store(settings: Settings) -> str:
    with unusable("STATE_PATH", settings.state_path):
        return judge_store_path(settings)


@contextmanager
def unusable(variable: str, path: str) -> Iterator[None]:
    """A path that the file system will not even look at: too long, a loop of links, a broken disk."""
    try:
        yield
    except OSError as error:
        raise Refusal("%s: '%s' cannot be used: %s" % (variable, printable(path), reason_of(error))) from None


def judge_trail_path(settings: Settings) -> str:
    path = confine("LOG_PATH", settings.log_path, TRAIL_ROOTS)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        judge_place("LOG_PATH", path)
        return path
    why = "it is a link" if stat.S_ISLNK(status.st_mode) else judge_trail(status)
    if why:
        raise Refusal("LOG_PATH: '%s' cannot be the trail: %s" % (printable(settings.log_path), why))
    judge_place("LOG_PATH", path)
    return path


def judge_store_path(settings: Settings) -> str:
    path = confine("STATE_PATH", settings.state_path, STORE_ROOTS)
    directory = os.path.dirname(path)
    status = os.stat(directory)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise Refusal(
            "STATE_PATH: others could write to %s (it belongs to %s, mode %04o); choose a directory of your own"
            % (printable(directory), user_name(status.st_uid), status.st_mode & 0o7777)
        )
    why = judge_above(path, {0, os.geteuid()})
    if why:
        raise Refusal("STATE_PATH: others could exchange its directory: %s; choose one of your own" % why)
    for name in (path, path + ".lock"):
        if os.path.lexists(name) and not stat.S_ISREG(os.lstat(name).st_mode):
            raise Refusal("STATE_PATH: '%s' is not a regular file" % printable(name))
    judge_place("STATE_PATH", path)
    return path


def fit_script(settings: Settings) -> str:
    why = judge_script(settings.on_change_script)[1]
    if why:
        raise Refusal("ON_CHANGE_SCRIPT: '%s' is unfit: %s" % (printable(settings.on_change_script), why))
    return settings.on_change_script


def judge_permission() -> None:
    """Errors: Refusal."""
    with open("/proc/self/status") as file:
        capabilities = int(re.search(r"^CapEff:\s*([0-9a-f]+)$", file.read(), re.M).group(1), 16)  # type: ignore[union-attr]
    if os.geteuid() != 0 and not capabilities >> CAP_NET_ADMIN & 1:
        raise Refusal("WireGuard is shown to root only: run it with sudo", EXIT_NOT_PERMITTED)


def build_parser() -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise Refusal("%s (see --help)" % printable(message))

    parser = Parser(
        prog="wg-monitor",
        usage="wg-monitor [check] [OPTION]...",
        description="Watch WireGuard peers and write down who was online when.",
        epilog="'check' tells whether settings, wg, permissions, paths and hook are fit, and ends. Exit codes: 0 done,"
        " 1 failure, 2 wrong usage or settings, 4 not permitted, 5 wg is not installed.",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100),
    )
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version="wg_monitor " + VERSION)
    parser.add_argument("--from-environment", action="store_true", help="read the settings below from variables, too")
    for option in OPTIONS:
        default = "; default: " + option.default if option.default else ""
        words = "%s (%s%s)" % (option.meaning, option.variable, default)
        if option.metavar:
            parser.add_argument(option.flag, metavar=option.metavar, help=words)
        else:
            parser.add_argument(option.flag, action="store_const", const="true", help=words)
    return parser


def parse_arguments(argv: Optional[Sequence[str]]) -> Dict[str, Any]:
    """Flags and command by their names. Errors: Refusal, which names an unknown flag and not the value behind it."""
    known, unknown = build_parser().parse_known_args(argv)
    if unknown or known.command not in (None, "check"):
        raise Refusal("unknown argument '%s' (see --help)" % printable((unknown or [known.command])[0]))
    return dict(vars(known))


def check(flags: Mapping[str, Optional[str]], environment: Mapping[str, str]) -> int:
    """`wg-monitor check`: one line for each thing that has to be fit. The exit code is the first misfit's."""
    code = 0
    settings: Optional[Settings] = None

    def judge(what: str, look: Callable[[], str]) -> None:
        nonlocal code
        try:
            print("ok    %-12s %s" % (what, look()))
        except Refusal as refusal:
            print("FAIL  %-12s %s" % (what, refusal))
            code = code or refusal.code

    def look_at_settings() -> str:
        nonlocal settings
        settings = parse_settings(flags, environment)
        return started_text(settings).partition(" | ")[2]

    def look_at_permission() -> str:
        judge_permission()
        return user_name(os.geteuid())

    judge("settings", look_at_settings)
    judge("permission", look_at_permission)
    judge("wg", find_wg)
    if settings is not None:
        known = settings
        judge("trail", lambda: place_of_trail(known))
        judge("store", lambda: place_of_store(known) if known.state_path else "none (STATE_PATH is not set)")
        judge("hook", lambda: fit_script(known) if known.on_change_script else "none (ON_CHANGE_SCRIPT is not set)")
    return code


def watch(flags: Mapping[str, Optional[str]], environment: Mapping[str, str]) -> int:
    """The daemon. Everything that the administrator can have got wrong is refused before anything is touched."""
    gc.disable()  # nothing here makes cycles; collecting among thousands of peers costs more than a reading
    settings = parse_settings(flags, environment)
    judge_permission()
    path = place_of_trail(settings)
    state_path = place_of_store(settings) if settings.state_path else ""
    if settings.on_change_script:
        fit_script(settings)
    wg = find_wg()
    console = Console(os.environ.pop("JOURNAL_STREAM", ""))
    notifier = Notifier(os.environ)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the keys pass through this memory
    os.umask(0o022)  # the hook's, too; what is not for others is made with a mode of its own
    os.chdir("/")
    store = Store(state_path) if state_path else None
    trail = open_own_trail(path, waiting=store is not None)
    return Monitor(settings, wg, console, trail, store, notifier).run()


def open_own_trail(path: str, waiting: bool) -> Optional[Trail]:
    """The trail; None where another monitor writes to it, unless lines can wait for it in a store."""
    trail = Trail(path)
    try:
        trail.open()
    except TrailBusy:
        return trail if waiting else None
    except OSError:
        pass  # the world's bad day: told at the first line, and tried again
    return trail


def tell_bug(kind: Any, error: BaseException, trace: Any) -> None:
    """A traceback without the error's own words where they could hold a key."""
    import traceback

    for line in traceback.format_tb(trace):
        sys.stderr.write(line)
    sys.stderr.write("%s: %s\n" % (kind.__name__, printable(str(error))))


def hold_standard_streams() -> None:
    """A stream that was closed at the start leaves its number to the next file that is opened: it must not be the
    trail or the store."""
    while True:
        descriptor = os.open("/dev/null", os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return


def main(argv: Optional[Sequence[str]] = None) -> int:
    hold_standard_streams()
    sys.excepthook = tell_bug
    try:
        arguments = parse_arguments(argv)
        command = arguments.pop("command")
        environment = os.environ if arguments.pop("from_environment") else {}
        return check(arguments, environment) if command == "check" else watch(arguments, environment)
    except Refusal as refusal:
        print("wg_monitor: %s" % refusal, file=sys.stderr)
        return refusal.code


if __name__ == "__main__":
    sys.exit(main())
