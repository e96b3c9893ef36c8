#!/usr/bin/env python3
"""Who was connected when: a trail of WireGuard peers coming and going.

wg_monitor runs `wg show all dump` on an interval, compares the output with what is known, and writes each difference
as one line of a log that serves as evidence.

    wait -> read -> parse -> decide -> store -> trail -> hook -> service manager -> wait

    text of wg      --parse-->   Reading    how the output differs from the last one; secrets end here
    Table, Reading  --decide-->  [Event]    the only step that changes the table; the clock is an argument
    Event           --render-->  line, JSON object, hook environment
    line            --store, trail, hook--> each line exactly once, each hook run at least once and numbered

Trust boundary: everything that `wg`, a hook or the file system says is hostile until a pattern below has
accepted it. The private and preshared keys that `wg` prints are discarded when its output is split.

Exit codes: 0 done, 1 failure, 2 invalid usage or settings, 4 not permitted, 5 `wg` is not installed.
"""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below prints no traceback
    # A second file that imports `wg_monitor` gets this module, not a copy with exception classes of its own.
    sys.modules["wg_monitor"] = sys.modules["__main__"]

import errno
import fcntl
import gc
import os
import re
import resource
import select
import stat
import time
from array import array
from collections import Counter, deque
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from itertools import accumulate, chain, compress, islice, repeat, takewhile
from operator import attrgetter, itemgetter, ne
from typing import AbstractSet, Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Sequence, TextIO, Tuple, Union

VERSION = "1.2.0"

# --- Constants ----------------------------------------------------------------------------------------------------

EXIT_FAILURE, EXIT_USAGE, EXIT_NOT_PERMITTED, EXIT_NO_WG = 1, 2, 4, 5

SEARCH_PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
WG_TIMEOUT_S = 10
BLOCK = 64 << 10  # bytes of output that are processed at once: they stay in the processor's cache
WG_OUTPUT_MAX = 256 << 20  # bytes; 100,000 peers with a dozen networks each print 30 MiB
WG_ERRORS_MAX = 4 << 20  # bytes; one line of 60 for each interface that cannot be read
QUERIES_AT_ONCE = 8  # of one interface each: an administrator has few interfaces that hang, and many that do not
HOOKS_AT_ONCE, HOOKS_WAITING_MAX = 4, 10_000
HOOK_OUTPUT_MAX = 4096  # bytes
HOOK_GRACE_S, HOOK_RETRY_S = 5, 1  # at the end, and between two attempts to run a hook that cannot be started
HOT_READINGS = 32  # during which lines that all change are not compared
VALUES_PER_COLLECTION = 50_000  # a reading of 10,000 peers makes that many, which are gone at its end
IPS_SHOWN = 16  # in a line, of each peer
ENDPOINTS_MAX = 32  # the last ones of a session: a peer that roams for months stays bounded
LINES_AT_ONCE = 256  # per write; a storm in one write takes megabytes, which the C library does not give back
LINES_IN_BATCH = 10_000  # between two updates of the store
BACKLOG_MAX = 100_000  # lines kept in memory while a sink fails
CONSOLE_PATIENCE_S = 0.5
LOCKED_S = 0.1  # we are the only writer: whoever else locks the database does not delay readings
STORE_PATIENCE_S = 30  # at the start, for a store that somebody else has locked
HOOKS_HELD_S = 300  # for a store that cannot be loaded: it may know older runs, but the hook may be a firewall's
UNNOTED = 1_000_000  # more numbers than a power failure takes from a file that is written without waiting
CHECKPOINT_S = 300
PRUNE_ROWS = 5000  # deleted per checkpoint at most, so that no reading is late
WAL_PAGES = 1000  # SQLite's own default for wal_autocheckpoint
DAY_S = 86_400
REKEY_AFTER_TIME_S = 120  # WireGuard's protocol: a session in use renews its handshake after this long
EPOCH_MAX = 253_402_300_799  # 9999-12-31, the last day that the C library's calendar prints in four digits
UNREACHED_S = 1_700_000_000  # wall clock in 2023: in milliseconds, more lines than anybody has
COUNTER_MAX = 2**63 - 1  # SQLite's integers
NEVER = float("-inf")
CAP_NET_ADMIN = 12  # linux/capability.h
JOURNAL = "/run/systemd/journal/socket"
JOURNAL_IPS_MAX = 32 << 10  # characters: a datagram holds about 200 KiB
LINKS_MAX = 40  # on the way to a file: MAXSYMLINKS in linux/namei.h
NAMES_MAX = 16 << 20  # bytes of a file with names: 10,000 peers take 2 to 5 MiB
NAME_MAX, MARKS_MAX, COMMENT_MAX, COMMENTS_MAX = 64, 4, 300, 50  # characters, marks on a letter (UTS #39), comments

SOCKETS = "/run/wireguard"  # wg(8): NAME.sock for each userspace interface
STATE_DIRECTORY = "/var/lib/wg-monitor"  # StateDirectory= of the units
TRAIL_ROOTS, STORE_ROOTS = ("/var/log", "/tmp"), ("/var/lib", "/run", "/tmp")

# wg-quick(8): ^[a-zA-Z0-9_=+.-]{1,15}$; a key is 32 bytes in base64.
INTERFACE_NAME = re.compile(r"[a-zA-Z0-9_=+.-]{1,15}")
ASKABLE = re.compile(r"(?!-|(?:all|interfaces)\Z)[a-zA-Z0-9_=+.-]{0,15}")  # `wg show` takes the others for words
INTERFACE_LINE = re.compile(rb"[a-zA-Z0-9_=+.-]{1,15}\t[^\t]*\t[^\t]*\t[0-9]{1,5}\t(?:off|0x[0-9a-f]{1,8})")
LINE_START = re.compile(rb"([a-zA-Z0-9_=+.-]{1,15})\t")
PEER_LINE = re.compile(
    rb"([a-zA-Z0-9_=+.-]{1,15})\t([A-Za-z0-9+/]{43}=)\t"
    rb"(?:\(none\)|[A-Za-z0-9+/]{43}=)\t"  # the preshared key: no group, so that no match holds it
    rb"([0-9.]{7,15}:[0-9]{1,5}|\[[0-9a-fA-F:.]{2,45}(?:%[!-~]{1,15})?\]:[0-9]{1,5}|\(none\))\t"
    rb"(\(none\)|[0-9a-fA-F.:/,]+)\t"
    rb"([0-9]{1,12})\t([0-9]{1,19})\t([0-9]{1,19})\t(?:off|[0-9]{1,5})"
)
UNREADABLE = re.compile(r"Unable to access interface (.*?): ")
KEY_LIKE = re.compile(r"[A-Za-z0-9+/]{43}=|[0-9a-fA-F]{64}")

PUBLIC_KEY = re.compile("[A-Za-z0-9+/]{43}=")
# What no name may hold: a key, most of one, or what introduces one.
HOLDS_KEY = re.compile(r"(?i)[a-z0-9+/]{43}=|(?=[a-z]{0,39}[0-9+/])[a-z0-9+/]{40}|(?:private|public|shared)[ _-]?key")
# Letters and marks that show nothing: Default_Ignorable_Code_Point in Unicode's DerivedCoreProperties.txt.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
JSON_START = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[]{[])")
LIST_LINE = re.compile(r"({0})(?:\s+(.*))?|(\S+)\s+({0})\s+[0-9]+\s+\S+".replace("{0}", PUBLIC_KEY.pattern))
JSON_FIELDS = ("publicKey", "public_key", "PublicKey"), ("name", "Name", "hostname", "Hostname")
PEER_START, SETTING = re.compile(r"(?i)\[(?:wireguard)?peer\]\s*(?:#.*)?"), re.compile(r"(\w+)\s*=\s*([^#]*)(#.*)?")
# Comments with which a tool's block begins or ends, and those of a peer that is commented out.
MARK = re.compile(r"(?i)(#+ (?:begin|begin_peer|client):? )|(### end |# end_peer )|([#;]+ ?\[|.*peer\])")
# The forms in which tools and people write a peer's name X into a configuration, in the order of precedence, and where.
NAME_FORMS = (
    ("inside", "# friendly_name = X", '# friendly_json = {..."name": "X"...}', "#Name# = X", "# Name = X", "# NAME: X"),
    ("inside", "#+Alias = X", "# -WGP- Display name: X"),
    ("before", "### begin X ###", "# BEGIN_PEER X", "### Client X", "# Client: X (...)", "# Name: X"),
    ("before", "# X / ... / Updated: ...", "# 10: X > ..."),
    ("description", "Description = X"),
)
ONLY_COMMENT = {"before": "before [Peer]", "after": "after [Peer]", "allowedips": "behind AllowedIPs"}  # if it is alone
FORM_PARTS = {" ": " ?", "X": "(.+)", '"X"': r'"((?:[^"\\]|\\.)+)"', "...": ".*", "10": "[0-9]+"}

LEVELS, INFORMATION = {"ERROR": 3, "WARN": 4, "DEBUG": 7}, 6  # of syslog(3)
HOOK_NONE, HOOK_DUE, HOOK_DONE, HOOK_DROPPED = range(4)
EVENT_KINDS = ("ONLINE", "OFFLINE", "ROAMING", "CHANGED", "REMOVED", "IFDOWN", "IFUP")
# The MESSAGE_ID of each kind of line in the journal, and of each warning by a part of its text; the first one counts.
# They are random, and never change.
MESSAGE_IDS = {
    "ONLINE": "6d030e6d14e04c07b1bfe81254f25670", "OFFLINE": "81b76e4152394a1f8af732b482c3d041",
    "ROAMING": "cbe269cc44d840f688ec36953fdddb3e", "CHANGED": "7d411d4d67514ccaa9da4afe17c03ec3",
    "REMOVED": "b93f8acb2a41482f999d46d89a812bf9", "IFDOWN": "ccf629ffe1684cc0bf21df2c0306a879",
    "IFUP": "e546d452d0e04ee3b52f4e81218ffcb8", "START": "c77e06b6b34b4d7abe3302bc83031291",
    "STOP": "26cc2cf454b04e4fa2ee789dc07612e6",
}  # fmt: skip
WARNING_IDS = {
    "Hook for ": "ef6ecc72963d49308d5201cfcaf1bbad", "No reading: ": "115c16fad2ee4a21b0b52c2568c7054c",
    "Readings resumed": "c0b0b771a98344a0881feea5b40e035e", " cannot be read: ": "55c07b6e4bfd4364a680844185be128a",
    " can be read again": "b872d5cf5fc84850a80d33f54cb08719", " invalid: no peer ": "156b806c3ef54a0a893d54d54ad7350a",
    " is valid again": "f068335f3fe24ed4b47dc7719987fc4d", " no such WireGuard ": "2f62cb90ae524cdd87491c9a196bab6c",
    "Not watching from ": "257f335ece7542ba971fc26d2498dc2d", "Readings are more": "4a710612223a4879a1bf7dca3cd02bbe",
    "Readings are on time": "131b7b366d2e4b7aaf9d9be881857ef0",
    "The wall clock was ": "79081973086a44adb3239ab8744b8628", "Local time is now ": "54b1451fa27b4a85b2aa0fd6580cd035",
    " healthy peers flap": "4e98d56de7bb4fce914e5bdc38c0da74", " is not a setting ": "37364625a4864ab7810c651ff5a15d94",
    " is in use by another ": "63027b1b689d4c30a129e3274fdb777e",
    "; its lines are ": "45657958661b4dd7b3afb5b163473a32", " can be written again": "71bc922f45bd4a37a7c4d4f3229e0bc9",
    "The trail lacks ": "7449f0a0b01348f9a9aa85eb51c23fb7", "; changes are ": "e957cc626c0b4aac94082c907d617f3c",
    " can be used again": "2d1fc3b049774bafb44a2fff49225f00", "The store lacks ": "91d9a31b5dd1443fb49c37206fced74e",
    "The damaged store ": "7cbe52721fca433c902a2f309b47bd41", " was replaced and ": "db1f9ad247714095b830bba397f4a452",
    " may be duplicated": "ce1588596c104c949b50c15c19760762", " is not run: ": "59e08ce857114abdbcb7d7944f432925",
    " runs again after ": "c73363f4a9834ab3ab8452d463a3f648", " hook runs are ": "94a393280f1f4019a0ee61167acf6030",
    " dropped": "07ecfe056aed40cc8da0a9114b89ae62", " held back": "08cb6ed908314e7b9a615f215d267bff",
    " did not finish": "ac3dcd493c7d43ad9268c230e3cc827f", " stay as they are: ": "926fc299822746ffba33718f45ca1983",
    "Names are read from ": "f9a65fdfc5f6416d8088c2906016826d",
}  # fmt: skip
REPORTS = ("status", "sessions", "names", "metrics")  # the commands of wg_report.py

# --- Values -------------------------------------------------------------------------------------------------------

Identity = Tuple[str, str]  # interface, public key
Moved = Tuple[Identity, int, int]  # a line with new counters: bytes received and sent
Renewed = Tuple[Identity, int, int, int]  # and with a new handshake


# One instant on two clocks.
class Moment(NamedTuple):
    wall: float  # seconds since the epoch: what people read, and what `wg` prints
    boot: float  # CLOCK_BOOTTIME in seconds, for ages: it counts suspend and knows no steps


NOT_YET = Moment(NEVER, NEVER)


# A peer's line that is new, or shows more than new counters and a new handshake.
class PeerLine(NamedTuple):
    identity: Identity
    rx: int  # bytes, as printed
    tx: int
    handshake: int  # seconds since the epoch; 0 = never
    endpoint: str  # "" = none
    allowed_ips: str  # as printed, separated by commas; "" = none


Line = Union[Moved, Renewed, PeerLine]


# One successful run of `wg show all dump`, as its difference from the last one. Or, while that hangs, one run of
# `wg show NAME dump` or `wg show interfaces`.
class Reading(NamedTuple):
    interfaces: frozenset[str]  # read, as their own lines prove
    peers: list[Line]  # those whose lines changed, in the order of the lines
    present: set[Identity] | None  # every peer in the output; None = the same peers as at the last reading
    unreadable: frozenset[str] = frozenset()
    invalid: Mapping[str, int] = {}  # lines that do not parse, by interface; "" = the interface is unclear
    others: frozenset[str] = frozenset()  # the run was not about these: interfaces that exist, and "" as above


class Block(NamedTuple):
    end: int  # the number of the line after it
    digest: int | None  # of all its lines; None = some had changed, and some probably change again
    lines: list[int] | None  # the digests of each; None = not kept. An array would compare at half the speed
    rest: int  # readings during which they are not kept, because most lines change


# What the last output leaves behind for the next one: digests, and no secret. The digest is Python's own for bytes:
# SipHash under a key that is random for each process, so that nobody outside can aim for a collision, at a quarter
# of the price of any digest in hashlib.
class Memo:
    __slots__ = ("owners", "heads", "stems", "blocks", "interfaces")

    def __init__(self) -> None:
        # Per line: whose it is (an interface's own line has an empty key, a foreign line is None's), and the digests
        # of what precedes its counters and of what precedes its handshake.
        self.owners: list[Identity | None] = []
        self.heads, self.stems = array("q"), array("q")
        self.blocks: dict[int, Block] = {}  # lines that were read at once, by the number of the first
        self.interfaces: frozenset[str] = frozenset()

    def add(self, owner: Identity | None, line: bytes) -> None:
        # The digest of more than a line equals none of a part of it: only a peer's line has the fast path.
        whole = owner is None or not owner[1]
        self.owners.append(owner)
        self.heads.append(hash(line + b"\n" if whole else line.rsplit(b"\t", 3)[0]))
        self.stems.append(hash(line + b"\n" if whole else line.rsplit(b"\t", 4)[0]))

    def cut(self, end: int) -> None:
        # Discards the lines from this number on.
        del self.owners[end:], self.heads[end:], self.stems[end:]
        self.blocks = {first: block for first, block in self.blocks.items() if block.end <= end}


# From the handshake that brought a peer online to its last sign of life.
class Session(NamedTuple):
    number: int
    start: float  # wall clock
    began: float  # boot clock
    received_before: int  # the row's totals when it began
    sent_before: int
    unwatched: float  # seconds of it in which nobody watched
    endpoints: str  # in the order of use, separated by spaces
    name: str = ""  # the peer's when it began


# A finished session, with the figures of its end.
class Ended(NamedTuple):
    session: Session
    last_seen: float  # wall clock
    length: float  # seconds on the boot clock
    received: int
    sent: int
    reason: str  # idle, unreachable, interface-down, removed, reset, unknown


class Row:
    """Everything known about one peer. Only the decisions change it, and set `unsaved` when they do; the store
    clears `unsaved` when it has the row. A peer is online while it has a session."""

    __slots__ = (
        "identity", "endpoint", "allowed_ips", "handshake", "shown", "made", "rx", "tx", "past_rx", "past_tx",
        "heard", "sent", "session", "ended", "name", "unsaved",
    )  # fmt: skip

    def __init__(self, identity: Identity, rx: int = 0, tx: int = 0) -> None:
        self.identity = identity
        self.endpoint = self.allowed_ips = ""
        # `handshake`: as last printed; 0 = never, or not since the interface was created. `shown`: the last one that was
        # not 0.
        self.handshake = self.shown = 0
        # `made`: boot time of `handshake`. `heard`: boot time of the reading that last saw `rx` grow.
        self.made = self.heard = NEVER
        self.rx, self.tx = rx, tx  # as last printed
        self.past_rx = self.past_tx = 0  # what the counters had reached before they fell
        self.sent = tx  # `tx` at the last sign of life
        self.session: Session | None = None
        self.ended = NOT_YET  # the last sign of life in the former session
        self.name = ""
        self.unsaved = True

    @property
    def received(self) -> int:
        # The total of all counters: a lower bound, since what a counter reached before it fell is known in part.
        return min(self.past_rx + self.rx, COUNTER_MAX) if self.past_rx else self.rx

    @property
    def transmitted(self) -> int:
        return min(self.past_tx + self.tx, COUNTER_MAX) if self.past_tx else self.tx


class Interface(NamedTuple):
    up: bool
    read: float  # boot time of its last reading without an invalid line
    wall: float  # wall clock of its last reading


# The state table. A row lives as long as its peer is known.
class Table:
    def __init__(self) -> None:
        self.names: Mapping[str, str] = {}  # by public key; also of peers that are not known
        self.rows: dict[Identity, Row] = {}
        self.interfaces: dict[str, Interface] = {}
        self.last: Moment | None = None  # the last reading of this run
        self.seen: dict[str, float] = {}  # boot time at which this run last read an interface
        self.watched = float("inf")  # boot time of the last reading before this run; infinite = there was none
        self.unread: dict[str, float] = {}  # how long before that the run had not read an interface any more
        self.gaps: Mapping[str, float] = {}  # how long nobody watched an interface before the reading that is decided on
        # `due`: boot time before which no online peer can age out. `sessions`: the number of the last one.
        self.due, self.sessions, self.online = NEVER, 0, 0


# What a line of the trail reports, as values: rows move on. Any other line than a peer's lacks the peer's fields,
# and one that is no event has no interface either.
class Event(NamedTuple):
    kind: str  # one of EVENT_KINDS, or START, STOP, WARN, ERROR, DEBUG
    wall: float
    interface: str | None = None
    public_key: str | None = None
    endpoint: str | None = None
    allowed_ips: str | None = None
    handshake: int | None = None  # the last one known; 0 = never
    online: int | None = None  # 1 or 0, after the event
    new: bool = False  # the peer was not known
    name: str | None = None  # the peer's, if it has one
    session: Session | None = None  # the open one, after the event
    before: str = ""  # ROAMING: the former endpoint, CHANGED: the former allowed IPs
    ended: Ended | None = None
    peers: int = 0  # IFUP, IFDOWN
    online_peers: int = 0  # IFDOWN
    # ONLINE, ROAMING: whether the store had never seen this address of the peer. None = nobody knows.
    first_seen: bool | None = None

    @property
    def session_told(self) -> Session | None:
        # The one that is open after the event, or ended with it.
        return self.session if self.ended is None else self.ended.session


# What a file says about a name: the number of the line, the public key, the name and the rule by which it was found.
# Without a key, a line is malformed, and instead of a name it has the words for that.
Named = Tuple[int, str, str, str]


# Something that is wrong for a while.
class Fault(NamedTuple):
    kind: str
    subject: str  # what it concerns, an interface for example; "" = there is one of its kind
    begins: str
    ends: str  # "" = its end is reported by other means
    since: float = NEVER  # boot time; NEVER = it begins when it is reported


# One line on its way to the store, the trail, the console and the hook.
class Record(NamedTuple):
    seq: int
    event: Event
    line: bytes
    hook: int  # HOOK_DUE = it runs the hook

    @property
    def peer(self) -> tuple[str | None, str | None]:
        return self.event.interface, self.event.public_key

    def continuing(self, sessions: Mapping[int, Session]) -> "Record":
        # With the session that its own, by number, goes on as.
        session = self.event.session
        session = sessions.get(session.number, session) if session is not None else None
        return self._replace(event=self.event._replace(session=session))


# Where the next line of the trail goes.
class Position(NamedTuple):
    device: int
    inode: int
    size: int


# What the trail has: every line up to number `last` except the `missing` ranges, first and last included.
class Delivered(NamedTuple):
    last: int
    missing: tuple[tuple[int, int], ...] = ()
    position: Position | None = None  # None = unknown

    @property
    def complete(self) -> int:
        # The trail has every line up to this number.
        return self.missing[0][0] - 1 if self.missing else self.last

    def expecting(self) -> "Delivered":
        number, missing = self.last + 1, self.missing
        if missing and missing[-1][1] == self.last:
            return self._replace(last=number, missing=(*missing[:-1], (missing[-1][0], number)))
        return self._replace(last=number, missing=(*missing, (number, number)))

    def without(self, first: int, last: int) -> "Delivered":
        # The trail has these lines now, or will never get them.
        parts = (((begin, min(end, first - 1)), (max(begin, last + 1), end)) for begin, end in self.missing)
        return self._replace(missing=tuple((begin, end) for begin, end in chain(*parts) if begin <= end))


# Fields and units are those of the table OPTIONS.
class Settings(NamedTuple):
    log_path: str
    log_format: str
    interval: int
    threshold: int
    liveness: str
    stats_interval: int
    interface: frozenset[str]  # empty = all
    on_change_script: str
    script_timeout: int
    script_delay: int
    script_events: frozenset[str]
    state_path: str
    history_days: int
    peer_names: tuple[str, ...]
    debug: bool
    names: Mapping[str, str]  # each field as the administrator named it: --interval or INTERVAL


# The administrator has to change something. One line: what was found, why it matters, how to fix it.
class Refusal(Exception):
    def __init__(self, found: str, why: str, remedy: str, code: int = EXIT_USAGE) -> None:
        super().__init__("%s: %s; %s" % (found, why, remedy))
        self.code = code


# --- Text safety --------------------------------------------------------------------------------------------------


def printable(text: str, limit: int = 200) -> str:
    """Text from outside, made safe for one line: bounded, without keys and without control, separator and direction
    characters."""
    text = KEY_LIKE.sub("(key)", text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c in "\t\n\r" else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def reason_of(error: BaseException) -> str:
    # An error's message without the file name, which the sentence around it names.
    return error.strerror if isinstance(error, OSError) and error.strerror else printable(str(error))


def short_key(key: str) -> str:
    return key[:8] + "..." + key[-8:]


def safe_name(text: str) -> str:
    """A peer's name from outside, so that it forges no field, label, column or formula; "" = it is none.

    It has letters of any script with their marks, digits and ._@+-; anything else becomes `_`. It begins with a letter or
    a digit. It has no `...`, which would pose as a short key."""
    text = text.strip()[: 11 * NAME_MAX]  # a key takes up to 64 characters: one that begins in the name is whole
    text = "" if HOLDS_KEY.search(text) else INVISIBLE.sub("_", text[: 10 * NAME_MAX])
    safe, marks = re.sub("[^A-Za-z0-9._@+-]", "_", text) if text.isascii() else "", MARKS_MAX + 1  # on the last letter
    if not text.isascii():
        import unicodedata

        for c in unicodedata.normalize("NFC", text):
            kind = unicodedata.category(c)
            marks = 0 if kind[0] == "L" else marks + 1 if kind in ("Mn", "Mc") else MARKS_MAX + 1
            safe += c if marks <= MARKS_MAX or kind == "Nd" or c in "._@+-" else "_"
    return re.sub(r"\.{3,}", "_", safe).lstrip("._@+-")[:NAME_MAX]


def duration(seconds: float) -> str:
    # Two units at most: 45s, 2m 10s, 3h 5m, 2d 4h.
    s = int(max(0.0, seconds))
    for text, unit, lesser in (("%dd %dh", DAY_S, 3600), ("%dh %dm", 3600, 60), ("%dm %ds", 60, 1)):
        if s >= unit:
            return text % (s // unit, s % unit // lesser)
    return "%ds" % s


def counted(number: int, noun: str) -> str:
    return "%d %s%s" % (number, noun, "" if number == 1 else "s")


def local(wall: float) -> time.struct_time:
    # Local time; a clock beyond the calendar's last year shows the end of that year.
    return time.localtime(min(max(wall, 0.0), EPOCH_MAX - DAY_S))


@lru_cache(maxsize=256)  # the lines of a storm share their seconds, and the calendar is the dearest part of a line
def stamp(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", local(second))


def utc_offset(wall: float) -> str:
    # +02:00
    minutes = local(wall).tm_gmtoff // 60
    return "%s%02d:%02d" % ("-" if minutes < 0 else "+", abs(minutes) // 60, abs(minutes) % 60)


def rfc3339(wall: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", local(wall)) + utc_offset(wall)


def handshake_text(handshake: int, line_date: str) -> str:
    # HH:MM:SS on the line's own date, otherwise with its date.
    if not handshake:
        return "Never"
    text = stamp(handshake)
    return text[11:] if text[:10] == line_date else text


def host_of(ip: str) -> str:
    # The bare address of a single host, "" for a network.
    return ip.partition("/")[0] if ip.endswith("/128" if ":" in ip else "/32") else ""


def ips_text(allowed_ips: str) -> str:
    # [IP: a], [IPs: a, b]; networks only if there is no host address; [IP: N/A].
    return listed_ips(hosts_or_all(allowed_ips.split(",") if allowed_ips else []))


def hosts_or_all(ips: list[str]) -> list[str]:
    return [ip for ip in ips if host_of(ip)] or ips


def listed_ips(ips: Sequence[str]) -> str:
    more = ["%d more" % (len(ips) - IPS_SHOWN)] if len(ips) > IPS_SHOWN else []
    shown = [(host_of(ip) or ip)[:50] for ip in ips[:IPS_SHOWN]] + more
    return "[%s: %s]" % ("IP" if len(ips) < 2 and all(map(host_of, ips)) else "IPs", ", ".join(shown) or "N/A")


def changed_ips_text(after: str, before: str) -> str:
    # [IP: new] from [IP: old] if that shows every address and network that came or went; otherwise all of them, the
    # difference first.
    new, old = (text.split(",") if text else [] for text in (after, before))
    texts, sides = [ips_text(after), ips_text(before)], [(new, old), (old, new)]
    hidden = [set(ips).difference(others, hosts_or_all(ips)[:IPS_SHOWN]) for ips, others in sides]
    if any(hidden) or texts[0] == texts[1]:
        texts = [listed_ips(sorted(ips, key=set(others).__contains__)) for ips, others in sides]
    return " from ".join(texts)


# --- Parsing ------------------------------------------------------------------------------------------------------


def parse_complaints(text: str, wanted: frozenset[str]) -> tuple[frozenset[str], int]:
    """From the standard error of `wg`: the interfaces that it could not read, and how many names are unclear.

    `wg show all` exits with 0 and leaves such an interface out."""
    names = [match.group(1) for match in map(UNREADABLE.match, text.splitlines()) if match is not None]
    clear = {name for name in names if INTERFACE_NAME.fullmatch(name)}
    return frozenset(clear & wanted if wanted else clear), sum(name not in clear for name in names)


def parse(blocks: Iterable[bytes], errors: str, memo: Memo, names: Iterable[str], wanted: frozenset[str]) -> Reading:
    """The output of `wg show all dump`, in blocks of whole lines, as a Reading. Brings the memo up to this output.

    Shapes: an interface's own line has 5 fields, a peer's 9, separated by tabs; any other line is skipped and
    counted. `errors`: the standard error. `names`: the interfaces of known peers, looked at only if a line is
    invalid. `wanted`: empty = all. Source: wg(8), "dump"."""
    unreadable, unclear = parse_complaints(errors, wanted)
    if unclear:
        memo.cut(0)
    parser = Parser(memo, names, wanted)
    for text in blocks:
        parser.take(text)
    if parser.end < len(memo.owners) or not memo.owners:
        parser.compare_no_longer(parser.end)
    if parser.present is not None:
        memo.interfaces = frozenset(parser.interfaces)
    if unclear:
        parser.invalid[""] += unclear
    if parser.invalid:
        # The memo lacks the peer of an invalid line: every reading is parsed in full until all lines are valid.
        memo.cut(0)
    return Reading(memo.interfaces, parser.peers, parser.present, unreadable, parser.invalid)


# One pass over the lines of a reading. It skims lines that are where they were; from the first one on that is not,
# it parses every line in full.
class Parser:
    def __init__(self, memo: Memo, names: Iterable[str], wanted: frozenset[str]) -> None:
        self.memo, self.names, self.wanted = memo, names, wanted
        self.former, memo.blocks = memo.blocks, {}
        self.end = 0  # the number of the next line
        self.peers: list[Line] = []
        self.present: set[Identity] | None = None  # None = so far the same peers as before
        self.interfaces: set[str] = set()
        self.invalid: Counter[str] = Counter()
        self.trusted: AbstractSet[str] = frozenset()

    def take(self, text: bytes) -> None:
        block = self.former.get(self.end) if self.present is None else None
        if block is None or block.digest is None or block.digest != hash(text):
            block = self.read_block(text, block)
        self.memo.blocks[self.end] = block
        self.end = block.end

    def read_block(self, text: bytes, before: Block | None) -> Block:
        lines = text.split(b"\n")
        lines.pop()  # the last newline ends the last line
        # The digests of lines that all change cost 2 of 10 ms at 10,000 peers: they are only kept now and then.
        rest = max(0, before.rest - 1) if before is not None else 0
        digests = None if rest else list(map(hash, lines))
        changed: Iterable[bool] | None = None
        if digests is not None and before is not None and before.lines is not None and len(before.lines) == len(lines):
            changed = map(ne, digests, before.lines)
        known = len(self.peers)
        same = self.skim(lines, changed) if self.present is None else 0
        moved = len(self.peers) - known
        if same < len(lines):
            self.compare_no_longer(self.end + same)
            self.parse_in_full(lines[same:])
        elif changed is not None and moved > len(lines) // 2:
            digests, rest = None, HOT_READINGS
        return Block(self.end + len(lines), None if moved else hash(text), digests, rest)

    def skim(self, lines: list[bytes], changed: Iterable[bool] | None) -> int:
        """The fast path: of a line that changed, it looks only at the counters and the handshake, unless something else
        changed. Returns how many lines, up to the first one that is not, are where they were.

        At 10,000 peers it takes 4 ms if all moved bytes; every field of every line would take 30."""
        memo, peers, first = self.memo, self.peers, self.end
        owners, heads = memo.owners[first : first + len(lines)], memo.heads[first : first + len(lines)]
        entries: Iterable[tuple[int, bytes, Any, int]]
        if changed is None:
            entries = zip(range(len(owners)), lines, owners, heads)
        else:
            entries = ((n, lines[n], owners[n], heads[n]) for n in compress(range(len(owners)), changed))
        number = 0
        try:
            for number, line, owner, digest in entries:
                head, rx, tx, keepalive = line.rsplit(b"\t", 3)
                steady = keepalive == b"off" or (keepalive.isdigit() and len(keepalive) < 6)
                if steady and rx.isdigit() and tx.isdigit():
                    moved = (owner, int(rx), int(tx))
                    if moved[1] <= COUNTER_MAX >= moved[2]:
                        if hash(head) == digest:
                            peers.append(moved)
                            continue
                        stem, _, handshake = head.rpartition(b"\t")
                        if hash(stem) == memo.stems[first + number] and handshake.isdigit() and len(handshake) < 12:
                            peers.append((owner, moved[1], moved[2], int(handshake)))
                            memo.heads[first + number] = hash(head)
                            continue
                if owner is not None and owner[1]:
                    peer = parse_peer(line)
                    if peer is None or peer.identity != owner:
                        return number
                    peers.append(peer)
                    memo.heads[first + number], memo.stems[first + number] = hash(head), hash(head.rpartition(b"\t")[0])
                elif hash(line + b"\n") != digest:
                    name = LINE_START.match(line)
                    if owner is not None or name is None or name.group(1).decode() in self.wanted:
                        return number
        except ValueError:
            return number  # fewer fields than a peer's line has
        return len(owners)

    def compare_no_longer(self, end: int) -> None:
        # Only the lines before this number are where they were. The lines from there on show who else is present.
        if self.present is None:
            self.memo.cut(end)
            owners = [owner for owner in self.memo.owners if owner is not None]
            self.interfaces = {owner[0] for owner in owners}
            self.present = {owner for owner in owners if owner[1]}

    def parse_in_full(self, lines: Iterable[bytes]) -> None:
        assert self.present is not None
        for line in lines:
            match = LINE_START.match(line)
            name = sys.intern(match.group(1).decode()) if match else ""
            owner: Identity | None = None
            if name in self.interfaces or not INTERFACE_LINE.fullmatch(line):
                owner = self.parse_peer_line(name, line)
            elif not self.wanted or name in self.wanted:
                owner = (name, "")
                self.interfaces.add(name)
            self.memo.add(owner, line)

    def parse_peer_line(self, name: str, line: bytes) -> Identity | None:
        # Whose line it is; None if it is foreign or invalid.
        if name and self.wanted and name not in self.wanted:
            return None
        peer = parse_peer(line) if name in self.interfaces else None
        if peer is None or self.present is None or peer.identity in self.present:
            # The name at the beginning of an invalid line may be the end of a key: only a known name is trusted.
            self.trusted = self.trusted or self.wanted.union(self.names)
            self.invalid[name if name in self.interfaces or name in self.trusted else ""] += 1
            return None
        self.present.add(peer.identity)
        self.peers.append(peer)
        return peer.identity


def parse_peer(line: bytes) -> PeerLine | None:
    # All fields of a peer's line; None if it is invalid.
    match = PEER_LINE.fullmatch(line)
    if match is None:
        return None
    name, key, endpoint, ips, handshake, rx, tx = match.groups()
    identity, numbers = (sys.intern(name.decode()), key.decode()), (int(rx), int(tx), int(handshake))
    texts = ["" if text == b"(none)" else text.decode() for text in (endpoint, ips)]
    valid = numbers[0] <= COUNTER_MAX and numbers[1] <= COUNTER_MAX and numbers[2] <= EPOCH_MAX
    return PeerLine(identity, *numbers, *texts) if valid else None


def parse_names(file: TextIO) -> Iterable[Named]:
    """The names in a file that a tool or a person wrote, and its malformed lines. Line by line: what one large text
    leaves free in memory, the C library does not give back.

    Nothing else of the file leaves the parser: it may hold private keys."""
    is_json = JSON_START.match(file.read(COMMENT_MAX))
    file.seek(0)
    return filter(itemgetter(2), parse_json(file.read(NAMES_MAX)) if is_json else parse_lines(file))


def parse_json(text: str) -> list[Named]:
    # Every object with a public key and a name, at any depth. The numbers of their lines are unknown.
    import json

    found: list[Named] = []

    def collect(values: dict[str, Any]) -> None:
        texts = [[values[field] for field in fields if isinstance(values.get(field), str)] for fields in JSON_FIELDS]
        found.extend((0, key, safe_name(name), "JSON") for key, name in zip(*texts) if PUBLIC_KEY.fullmatch(key))

    try:
        json.loads(text, object_hook=collect, parse_int=len)
    except (ValueError, RecursionError) as error:  # a ValueError has the whole text
        found = [(0, "", "line %d is not valid JSON" % getattr(error, "lineno", 1), "")]
    return found


def parse_lines(lines: Iterable[str]) -> Iterator[Named]:
    """Lines with a key and a name, and the peers of wg-quick(8) or systemd.netdev(5), each with the comments that belong
    to it: directly above its [Peer], and below that up to the first blank line after the public key."""
    start, key, run, commented_out = 0, "", [], False  # type: int, str, list[str], bool
    peer: dict[str, list[str]] = {}  # its comments by place; empty = there is none
    # Only a line feed ends a line, as it does for `wg`: a name may hold whatever else str.splitlines() takes for an end.
    for number, line in enumerate(map(str.strip, chain(lines, [""])), 1):
        if line.startswith(("#", ";")):
            mark = MARK.match(line)
            if mark is not None:
                run, commented_out = comment(line) if mark.group(1) else [], mark.group(3) is not None
            elif not commented_out:
                run = run[-COMMENTS_MAX:] + comment(line)
            continue
        listed, opens = LIST_LINE.fullmatch(line), line.startswith("[")
        setting = None if listed else SETTING.fullmatch(line)
        word, value, behind = setting.groups("") if setting else ("", "", "")
        word, value = word.lower(), value.rstrip()
        wrong = word == "publickey" and (not peer or key != "" or not PUBLIC_KEY.fullmatch(value))
        if listed:
            first, name, other_name, second = listed.groups("")
            yield number, first or second, safe_name(name or other_name), "list" if first else "clients.txt"
        elif wrong:
            yield 0, "", "the public key in line %d is invalid, or not the only one of a [Peer]" % number, ""
        elif line and not start and not opens:
            yield 0, "", "line %d is neither KEY NAME nor NAME KEY EPOCH ADDRESS, and before any section" % number, ""
        elif peer and (setting or not line):
            peer.setdefault("after", run)
            peer["inside"] += run
            peer.setdefault(word, []).extend(comment(line if word == "description" else behind))
            key = value if word == "publickey" else key
        if opens or wrong or (key and not setting):
            yield from named(start, key, peer)
            start, key, peer = number, "", {"before": run, "inside": []} if PEER_START.fullmatch(line) else {}
        run, commented_out = [], False
    yield from named(start, key, peer)


def comment(text: str) -> list[str]:
    # None if it holds a key: one that begins in the part that counts is looked at as a whole.
    text = " ".join(text.split(None, COMMENT_MAX))[: COMMENT_MAX + NAME_MAX]
    return [] if not text or HOLDS_KEY.search(text) else [text[:COMMENT_MAX]]


@lru_cache(maxsize=None)  # compiled only where names are read
def name_rules() -> list[tuple[str, str, "re.Pattern[str]"]]:
    def compiled(form: str) -> "re.Pattern[str]":
        parts = re.split(r'("X"|X|\.\.\.|10| )', form)
        return re.compile("(?i)" + "".join(FORM_PARTS.get(part) or re.escape(part) for part in parts))

    return [(place, form, compiled(form)) for place, *forms in NAME_FORMS for form in forms]


def named(number: int, key: str, peer: Mapping[str, list[str]]) -> Iterable[Named]:
    # The name of a peer, if it has a key and a name. Comments with an `=` are settings without effect.
    tried = ((form, rule.fullmatch(text)) for place, form, rule in name_rules() for text in peer.get(place, ()))
    found = ((form, match.group(1)) for form, match in tried if match)
    bare = ((form, [text for text in peer.get(place, ()) if "=" not in text]) for place, form in ONLY_COMMENT.items())
    only = (("the only comment " + form, texts[0].strip("#;*~- ")) for form, texts in bare if len(texts) == 1)
    names = ((number, key, safe_name(text), form) for form, text in chain(found, only) if key)
    return islice(filter(itemgetter(2), names), 1)


# --- Decisions ----------------------------------------------------------------------------------------------------


def decide(table: Table, reading: Reading, now: Moment, settings: Settings) -> list[Event]:
    """Brings the table up to a reading and returns what happened. It never refuses a reading."""
    events = [*follow_interfaces(table, reading, now), *remove_peers(table, reading, now)]
    events += [*follow_peers(table, reading, now, settings), *age_out_peers(table, reading, now, settings)]
    for name in reading.interfaces:
        # From here on, a handshake that moves forward is known to be younger than this reading, if every line is valid.
        read = table.interfaces[name].read if reading.invalid.keys() & {"", name} else now.boot
        table.interfaces[name] = Interface(True, read, now.wall)
        table.seen[name] = now.boot
    # Of two runs at once, the one that began first may end last.
    if is_whole(reading) and (table.last is None or now.boot > table.last.boot):
        table.last = now
    return events


def is_whole(reading: Reading) -> bool:
    # Whether it read all that it was about. Otherwise `wg show NAME dump` failed, or only listed the interfaces.
    return not reading.others or reading.interfaces != frozenset()


def follow_interfaces(table: Table, reading: Reading, now: Moment) -> Iterator[Event]:
    """Interfaces that came or went. An interface about which the reading says nothing keeps its state."""
    unknown = (reading.unreadable | reading.invalid.keys() | reading.others) - {""}
    for name in sorted(reading.interfaces):
        before = table.interfaces.get(name)
        appeared = table.last is not None if before is None else not before.up
        if appeared:
            peers = [identity for identity in reading.present or () if identity[0] == name]
            yield Event("IFUP", now.wall, name, peers=len(peers))
        table.interfaces[name] = Interface(True, NEVER if before is None else before.read, now.wall)
    if table.last is None:
        for name in unknown:
            table.interfaces.setdefault(name, Interface(True, NEVER, now.wall))
    if "" in reading.invalid:
        return
    down = {name for name, interface in table.interfaces.items() if interface.up} - reading.interfaces - unknown
    for name in sorted(down):
        table.interfaces[name] = table.interfaces[name]._replace(up=False)
        rows = [row for row in table.rows.values() if row.identity[0] == name]
        online = [row for row in rows if row.session is not None]
        yield Event("IFDOWN", now.wall, name, peers=len(rows), online_peers=len(online))
    if down:
        for row in table.rows.values():
            if row.identity[0] in down and row.session is not None:
                yield event_of("OFFLINE", row, now, ended=end_session(table, row, row.session, "interface-down", now))


def remove_peers(table: Table, reading: Reading, now: Moment) -> Iterator[Event]:
    """Peers that went. A missing peer is not gone if an invalid line may be its own."""
    if reading.present is None or "" in reading.invalid:
        return
    certain = reading.interfaces - reading.invalid.keys()
    for identity in [i for i in table.rows if i[0] in certain and i not in reading.present]:
        row = table.rows.pop(identity)
        ended = None if row.session is None else end_session(table, row, row.session, "removed", now)
        yield event_of("REMOVED", row, now, ended=ended)


def follow_peers(table: Table, reading: Reading, now: Moment, settings: Settings) -> Iterator[Event]:
    """Peers whose lines changed, in the order of the lines."""
    by_traffic, rows, limit = settings.liveness == "traffic", table.rows, now.boot - settings.threshold
    # If all lines changed, as at a busy gateway, they have the order of the rows: looking up each row would cost 5 %.
    expected = list(rows.values()) if len(rows) == len(reading.peers) else repeat(None)
    for line, row in zip(reading.peers, expected):
        rx, tx = line[1], line[2]
        if row is None or row.identity is not line[0]:
            row = rows.get(line[0])
        if row is None:
            if isinstance(line, PeerLine):  # as the line of an unknown peer always is
                yield add_peer(table, line, now, settings)
        elif rx < row.rx or tx < row.tx or (row.session is None and (by_traffic or len(line) > 3)):
            yield from follow_peer(table, row, line, now, settings)
        elif len(line) > 3 and (isinstance(line, PeerLine) or line[3] < row.handshake):
            yield from follow_peer(table, row, line, now, settings)
        else:
            # Most lines of a busy gateway come here. What follows is the short form of follow_peer, for counters that
            # did not fall and a handshake that moved forward: without it, the own CPU would be half as much again.
            if rx > row.rx:
                row.heard, row.sent, row.unsaved = now.boot, tx, True
            elif tx > row.tx:
                row.unsaved = True
            row.rx, row.tx = rx, tx
            if len(line) > 3:
                renew(row, line[3], table.interfaces[row.identity[0]].read, now)
                if row.made <= limit:  # nothing was read for so long
                    yield from follow_peer(table, row, (row.identity, rx, tx), now, settings)


def add_peer(table: Table, line: PeerLine, now: Moment, settings: Settings) -> Event:
    # A peer that was not known.
    row = table.rows[line.identity] = Row(line.identity, line.rx, line.tx)
    row.endpoint, row.allowed_ips = line.endpoint, line.allowed_ips
    row.handshake = row.shown = line.handshake
    row.name = table.names.get(line.identity[1], "")
    row.made = place(row.handshake, None, NEVER, now)
    if is_alive(row, now, settings):
        begin_session(table, row, (row.received, row.transmitted), now, settings)
    return event_of("OFFLINE" if row.session is None else "ONLINE", row, now, new=True)


def follow_peer(table: Table, row: Row, line: Line, now: Moment, settings: Settings) -> list[Event]:
    events: list[Event] = []
    session, endpoint, allowed_ips, made = row.session, row.endpoint, row.allowed_ips, row.made
    handshake = row.handshake if len(line) == 3 else line[3]
    # With the handshake at 0, the interface was created anew: its new counters do not belong to this session.
    ended = end_session(table, row, session, "reset", now) if session is not None and handshake == 0 else None
    totals = (row.received, row.transmitted) if session is None else None
    count(row, line[1], line[2], now.boot)
    if handshake != row.handshake:
        renew(row, handshake, table.interfaces[row.identity[0]].read, now)
    if isinstance(line, PeerLine):
        readdress(row, line)
    alive = is_alive(row, now, settings)
    if totals is not None and alive:
        begin_session(table, row, totals, now, settings)
        events.append(event_of("ONLINE", row, now))
    elif session is not None and not alive:
        ended = ended or end_session(table, row, session, silence(row), now)
        events.append(event_of("OFFLINE", row, now, ended=ended))
    elif session is not None and row.endpoint != endpoint:
        add_endpoint(row, session)  # a new port, too: behind carrier-grade NAT, only the port identifies the peer
        if endpoint and address(row.endpoint) != address(endpoint):
            events.append(event_of("ROAMING", row, now, before=endpoint))
    if row.made < made:
        table.due = NEVER  # this peer may age out earlier than any other
    if row.allowed_ips != allowed_ips and set(row.allowed_ips.split(",")) != set(allowed_ips.split(",")):
        events.append(event_of("CHANGED", row, now, before=allowed_ips))
    return events


def age_out_peers(table: Table, reading: Reading, now: Moment, settings: Settings) -> Iterator[Event]:
    """Online peers whose last sign of life became too old. A peer that was not read keeps its state."""
    if now.boot < table.due:
        return
    limit, oldest, present = now.boot - settings.threshold, float("inf"), reading.present
    for row in table.rows.values():
        if row.session is not None:
            sign = row.made if row.made > limit else sign_of_life(row, settings)
            if sign <= limit and row.identity[0] in reading.interfaces and (present is None or row.identity in present):
                yield event_of("OFFLINE", row, now, ended=end_session(table, row, row.session, silence(row), now))
            elif sign < oldest:
                oldest = sign
    table.due = oldest + settings.threshold


def count(row: Row, rx: int, tx: int, boot: float) -> None:
    # Takes over the counters of a reading at `boot`. A counter that fell has restarted: what it had reached stays in
    # the total, and the new value is added.
    if tx < row.tx:
        row.past_tx = min(row.past_tx + row.tx, COUNTER_MAX)
        row.sent = 0
    if rx < row.rx:
        row.past_rx = min(row.past_rx + row.rx, COUNTER_MAX)
    if rx != row.rx and rx:
        row.heard, row.sent = boot, tx
    row.unsaved = row.unsaved or (rx, tx) != (row.rx, row.tx)
    row.rx, row.tx = rx, tx


def renew(row: Row, handshake: int, read: float, now: Moment) -> None:
    # Takes over a new handshake. `read`: boot time of the interface's last reading.
    row.made = place(handshake, row.handshake, read, now)
    row.handshake = handshake
    row.shown = handshake or row.shown
    row.sent = row.tx
    row.unsaved = True


def readdress(row: Row, line: PeerLine) -> None:
    endpoint = line.endpoint or row.endpoint  # an interface created anew has forgotten from where the peer came
    row.unsaved = row.unsaved or (endpoint, line.allowed_ips) != (row.endpoint, row.allowed_ips)
    row.endpoint, row.allowed_ips = endpoint, line.allowed_ips


def place(handshake: int, before: int | None, read: float, now: Moment) -> float:
    """The boot time of a handshake that was `before` until now; None = it is seen for the first time.

    A handshake that moved forward completed since the interface's last reading, at boot time `read`, whatever the
    wall clock says. Any other is placed by the wall clock; one in the future completed now."""
    if not handshake:
        return NEVER
    age = max(0.0, now.wall - handshake)
    if before is not None and handshake > before:
        age = min(age, max(0.0, now.boot - read))
    return now.boot - age


def sign_of_life(row: Row, settings: Settings) -> float:
    # The boot time from which a peer's age is counted.
    return max(row.made, row.heard) if settings.liveness == "traffic" else row.made


def is_alive(row: Row, now: Moment, settings: Settings) -> bool:
    return row.handshake != 0 and sign_of_life(row, settings) > now.boot - settings.threshold


def address(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]


def silence(row: Row) -> str:
    # Why a peer aged out: was anything sent to it that it did not answer?
    return "unreachable" if row.tx > row.sent else "idle"


def event_of(kind: str, row: Row, now: Moment, **more: Any) -> Event:
    peer = (*row.identity, row.endpoint, row.allowed_ips, row.shown, int(row.session is not None))
    return Event(kind, now.wall, *peer, name=row.name or None, session=row.session, **more)


def begin_session(table: Table, row: Row, totals: tuple[int, int], now: Moment, settings: Settings) -> None:
    # `totals`: what was received and sent up to the last reading, when the session had not begun.
    start, began = Moment(row.handshake, row.made)
    if now.boot - began >= settings.threshold:  # not the handshake but received bytes brought the peer online
        began = sign_of_life(row, settings)
        start = now.wall - (now.boot - began)
    if row.ended.boot > began:  # a higher threshold or another sign of life than before: sessions do not overlap
        start, began = row.ended
    table.sessions += 1
    table.online += 1
    table.due = min(table.due, sign_of_life(row, settings) + settings.threshold)
    row.session = Session(table.sessions, start, began, *totals, 0.0, row.endpoint, row.name)
    row.unsaved = True


def end_session(table: Table, row: Row, session: Session, reason: str, now: Moment) -> Ended:
    """Ends it at the peer's last sign of life: the handshake or received bytes, whichever came later."""
    last, last_seen, heard = session.began, session.start, row.heard
    if heard == now.boot:  # of bytes that came while nobody watched, only the beginning of that time is certain
        heard -= table.gaps.get(row.identity[0], 0.0)
    if row.made > last:
        last, last_seen = row.made, float(row.shown)
    if heard > last:
        last, last_seen = heard, now.wall - (now.boot - heard)
        if last < 0:  # before this boot, when the wall clock may have been another
            last_seen = session.start + last - session.began
    table.online -= 1
    row.session, row.ended = None, Moment(last_seen, last)
    row.unsaved = True
    received = min(max(0, row.received - session.received_before), COUNTER_MAX)
    sent = min(max(0, row.transmitted - session.sent_before), COUNTER_MAX)
    return Ended(session, last_seen, last - session.began, received, sent, reason)


def add_endpoint(row: Row, session: Session) -> None:
    endpoints = [*dict.fromkeys((session.endpoints + " " + row.endpoint).split())]
    row.session = session._replace(endpoints=" ".join(endpoints[-ENDPOINTS_MAX:]))
    row.unsaved = True


def gaps_of(table: Table, names: Iterable[str], now: Moment, limit: float) -> dict[str, float]:
    # Those of the interfaces, now read, that nobody watched for more than `limit` seconds, and for how long. Before the
    # first reading of a run, any time counts. One that was down was not unwatched.
    up = {name for name, interface in table.interfaces.items() if interface.up}
    gaps = {n: now.boot - table.seen.get(n, table.watched - table.unread.get(n, 0.0)) for n in up.intersection(names)}
    return {name: gap for name, gap in gaps.items() if gap > (limit if name in table.seen else 0.0)}


def add_gaps(table: Table, events: list[Event], last: int, gaps: Mapping[str, float], now: Moment) -> list[Event]:
    # Adds gaps that end now to the sessions up to number `last` that span them: they are still open, or their last sign
    # of life came after the beginning.
    for row in table.rows.values():
        gap = gaps.get(row.identity[0], 0.0)
        row.unsaved |= gap > 0  # what was saved at another time may be dated by another wall clock
        if gap and row.session is not None and row.session.number <= last:
            row.session = row.session._replace(unwatched=row.session.unwatched + gap)
    spanning = []
    for event in events:
        ended, gap = event.ended, gaps.get(str(event.interface), 0.0)
        # The millisecond: a sign of life at the beginning is not after it.
        if gap and ended is not None and ended.session.number <= last and ended.last_seen > now.wall - gap + 0.001:
            session = ended.session._replace(unwatched=ended.session.unwatched + gap)
            event = event._replace(ended=ended._replace(session=session))
        spanning.append(event)
    return spanning


def take_over(table: Table, past: Table, gone: AbstractSet[Any], last: int, gap: float) -> dict[int, Session]:
    """Adds what a store remembers, `past`, to the table of a run that began without it, `gap` seconds later.

    A session of the store goes on as the one that the first reading of this run began, if that one, up to number
    `last`, is still open. `gone`: the peers that this run has removed. Returns the sessions that go on, by number."""
    sessions: dict[int, Session] = {}
    for identity, old in past.rows.items():
        row, session = table.rows.get(identity), old.session
        if row is None and identity not in gone:  # the next reading says what has become of it
            table.rows[identity] = old
            table.online += session is not None
            table.names = {}  # the peer may have another name by now
        if row is not None:
            row.shown, row.endpoint = row.shown or old.shown, row.endpoint or old.endpoint
            row.ended = max(row.ended, old.ended, key=attrgetter("boot"))
            own = row.session
            if own is not None and session is not None and own.number <= last:
                row.session = sessions[own.number] = joined(session, old, own, gap)
    for name, interface in past.interfaces.items():
        table.interfaces.setdefault(name, interface)
    table.sessions, table.due = max(table.sessions, past.sessions), NEVER
    return sessions


def joined(session: Session, old: Row, own: Session, gap: float) -> Session:
    # A session of the store that goes on as `own`, on the counters of this run: one that was lower had restarted.
    rx = min(old.past_rx + (old.rx if own.received_before < old.rx else 0), COUNTER_MAX)
    tx = min(old.past_tx + (old.tx if own.sent_before < old.tx else 0), COUNTER_MAX)
    endpoints = [*dict.fromkeys((session.endpoints + " " + own.endpoints).split())]
    session = session._replace(received_before=session.received_before - rx, sent_before=session.sent_before - tx)
    unwatched = session.unwatched + gap + own.unwatched
    return session._replace(unwatched=unwatched, endpoints=" ".join(endpoints[-ENDPOINTS_MAX:]))


def rename(table: Table, names: Mapping[str, str], complete: bool) -> None:
    # A name that changes makes no event. If these are not all names, a peer without one keeps its own.
    table.names = names
    for row in table.rows.values():
        name = names.get(row.identity[1], "" if complete else row.name)
        if name != row.name:
            row.name, row.unsaved = name, True


def forget(table: Table, now: Moment, history_days: int) -> list[str]:
    # Removes the interfaces that have been gone for so long, with their peers. Returns their names.
    limit = now.wall - history_days * DAY_S
    names = [name for name, interface in table.interfaces.items() if not interface.up and interface.wall < limit]
    for name in names:
        del table.interfaces[name]
    for identity in [identity for identity in table.rows if identity[0] in names]:
        del table.rows[identity]
    return names


def clock_step(before: Moment, now: Moment) -> float:
    # How far the wall clock jumped between two moments, in seconds; 0 if it only ran faster or slower, which a
    # disciplined clock does by up to a tenth.
    elapsed = now.boot - before.boot
    step = now.wall - before.wall - elapsed
    return step if abs(step) > max(1.0, elapsed / 10) else 0.0


def faults_of(reading: Reading, table: Table, settings: Settings) -> list[Fault]:
    # What a reading could not say. `table` is the one before the reading.
    faults = []
    for name in sorted(reading.unreadable):
        read = table.interfaces[name].read if name in table.interfaces else NEVER
        begins = "[%s] cannot be read: its peers keep their state" % name
        faults.append(Fault("unreadable", name, begins, "[%s] can be read again" % name, read))
    for name, number in sorted(reading.invalid.items()):
        lines = "%s from wg %s invalid" % (counted(number, "line"), "is" if number == 1 else "are")
        rule = "no peer is reported as REMOVED" + ("" if name else " and no interface as IFDOWN")
        whose = "[%s] " % name if name else ""
        begins = "%s%s: %s until every line is valid" % (whose, lines, rule)
        faults.append(Fault("invalid", name, begins, whose + "every line from wg is valid again"))
    told = reading.interfaces | reading.unreadable | reading.invalid.keys() | reading.others
    for name in sorted(settings.interface - told):
        before = table.interfaces.get(name)
        # An interface that goes while it is watched is an event, not a fault.
        absent = before is None or (table.last is None and not before.up)
        if absent and "" not in reading.invalid:
            faults.append(Fault("absent", name, "[%s] no such WireGuard interface yet" % name, ""))
    return faults


# --- Decisions about hook runs --------------------------------------------------------------------------------------


class HookQueue:
    """The hook runs that wait, in the order of their events, and what has become of the others. Times are the boot clock's.

    With a delay, the run for an OFFLINE is held back, and so is what follows it for its peer. If the peer returns in time,
    neither that run nor the one for its return takes place. Any other end of its absence ends the delay."""

    def __init__(self, delay_s: int) -> None:
        self.delay_s = delay_s
        self.waiting: dict[int, Record] = {}  # by number
        self.held: dict[Any, tuple[int, float]] = {}  # by peer: the last OFFLINE that was held back, and until when
        self.marks: dict[int, int] = {}  # what the store does not know yet
        # `dropped`: all of them. `lost`: because too many were waiting, since the last report.
        self.dropped = self.lost = 0

    def add(self, record: Record, at: float) -> bool:
        # Any record, whose event happened at `at`: a return counts even if it runs no hook. Returns whether it was in time.
        event, (number, until) = record.event, self.held.get(record.peer, (0, NEVER))
        if record.hook == HOOK_DUE:
            self.waiting[record.seq] = record
        if event.kind in ("ONLINE", "OFFLINE", "REMOVED"):
            self.held.pop(record.peer, None)
        returned = event.kind == "ONLINE" and not event.new and number in self.waiting and at < until
        if returned:
            self.close(number, record.seq)
        elif event.kind == "OFFLINE" and record.hook == HOOK_DUE and self.delay_s:
            self.held[record.peer] = (record.seq, at + self.delay_s)
        if len(self.waiting) > HOOKS_WAITING_MAX:
            self.lost += 1
            self.close(next(iter(self.waiting)))
        return returned

    def close(self, *numbers: int, mark: int = HOOK_DROPPED) -> None:
        for number in filter(self.waiting.__contains__, numbers):
            del self.waiting[number]
            self.marks[number] = mark
            self.dropped += mark == HOOK_DROPPED

    def ready(self, busy: AbstractSet[Any], now: float) -> Iterator[Record]:
        # Those that may start. `busy`: the peers for which one runs, which may become more meanwhile.
        for record in tuple(self.waiting.values()):
            number, until = self.held.get(record.peer, (0, NEVER))
            if record.peer not in busy and (record.seq < number or until <= now):
                yield record

    def rest(self, now: float) -> float:
        # In how many seconds the next one may start that is held back now.
        return min((until - now for _, until in self.held.values() if until > now), default=float("inf"))


# --- Renderings ---------------------------------------------------------------------------------------------------


def event_text(event: Event) -> str:
    # The line of an event, without its time stamp.
    text = "%-7s [%s] " % (event.kind, event.interface)
    if event.public_key is None:
        text += counted(event.peers, "peer")
        if event.kind == "IFDOWN":
            text += ", %d %s online" % (event.online_peers, "was" if event.online_peers == 1 else "were")
        return text
    text += event.name + " " if event.name else ""
    text += "%s (%s) " % (short_key(event.public_key), event.endpoint or "N/A")
    if event.kind == "CHANGED":
        return text + changed_ips_text(event.allowed_ips or "", event.before)
    text += ips_text(event.allowed_ips or "")
    if event.kind == "ROAMING":
        return "%s from %s" % (text, event.before)
    handshake = handshake_text(event.handshake or 0, stamp(int(event.wall))[:10])
    return "%s%s (handshake: %s)" % (text, " new" if event.new else "", handshake)


def event_fields(event: Event) -> dict[str, Any]:
    # What a JSON line says of an event beside its number, time and kind.
    fields: dict[str, Any] = {"interface": event.interface}
    if event.public_key is None:
        fields["peers"] = event.peers
        if event.kind == "IFDOWN":
            fields["online_peers"] = event.online_peers
        return fields
    fields.update(peer=event.public_key, **({"name": event.name} if event.name else {}))
    fields.update(endpoint=event.endpoint or None, allowed_ips=event.allowed_ips)
    fields.update(handshake=rfc3339(event.handshake) if event.handshake else None, online=bool(event.online))
    fields.update((name, True) for name in ("new", "first_seen") if getattr(event, name))
    if event.kind in ("ROAMING", "CHANGED"):
        fields["from"] = event.before
    session, ended = event.session_told, event.ended
    if session is not None:
        fields.update(session=session.number, session_start=rfc3339(session.start))
    if ended is not None:
        fields.update(last_seen=rfc3339(ended.last_seen), length_s=round(ended.length))
        fields.update(received_bytes=ended.received, sent_bytes=ended.sent)
        fields.update(unwatched_s=round(ended.session.unwatched), reason=ended.reason)
    return fields


def render(seq: int, event: Event, text: str, log_format: str) -> bytes:
    if log_format == "json":
        import json

        more = {"message": text} if event.interface is None else event_fields(event)
        fields = {"seq": seq, "time": rfc3339(event.wall), "event": event.kind, **more}
        return json.dumps(fields, ensure_ascii=True).encode() + b"\n"
    if event.kind in LEVELS:
        text = "[%s] %s" % (event.kind, text)
    return ("%s %s\n" % (stamp(int(event.wall)), text)).encode("utf-8", "replace")


def runs_hook(event: Event, settings: Settings) -> bool:
    # A new peer that is offline did not go offline.
    went = not (event.kind == "OFFLINE" and event.new)
    return settings.on_change_script != "" and event.kind in settings.script_events and went


def hook_environment(record: Record) -> dict[str, str]:
    # All that the hook gets. It inherits nothing: the monitor's own environment is the service manager's. What does not
    # apply is empty.
    event, session, ended = record.event, record.event.session_told, record.event.ended
    values: dict[str, Any] = {"SEQ": record.seq, "EVENT": event.kind, "TIME": int(event.wall), "IFACE": event.interface}
    values.update(PUBKEY=event.public_key, NAME=event.name, ENDPOINT=event.endpoint, ALLOWED_IPS=event.allowed_ips)
    values.update(HANDSHAKE=event.handshake or 0, ONLINE=event.online or 0, TEXT=event_text(event))
    values.update(NEW=1 if event.new else None, FIRST_SEEN=1 if event.first_seen else None)
    values.update(PREVIOUS_ENDPOINT=event.before if event.kind == "ROAMING" else None)
    values.update(SESSION=session and session.number, SESSION_START=session and int(session.start))
    values.update(REASON=ended and ended.reason, LAST_SEEN=ended and int(ended.last_seen))
    values.update(SESSION_RX=ended and ended.received, SESSION_TX=ended and ended.sent)
    values.update(SESSION_SECONDS=ended and round(ended.length))
    variables = {"PEER_" + name: "" if value is None else str(value) for name, value in values.items()}
    return {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "HOME": "/", **variables}


def journal_fields(record: Record, line: str) -> dict[str, str]:
    # What the journal gets: the line without its time, and its facts. Source: systemd.journal-fields(7).
    event, ended, ips = record.event, record.event.ended, record.event.allowed_ips or ""
    warnings = (name for part, name in WARNING_IDS.items() if part in line)
    name = next(warnings, "") if event.kind in ("WARN", "ERROR") else MESSAGE_IDS.get(event.kind, "")
    fields = {"MESSAGE": line, "PRIORITY": str(LEVELS.get(event.kind, INFORMATION)), "SYSLOG_IDENTIFIER": "wg-monitor"}
    fields.update(MESSAGE_ID=name, WG_EVENT=event.kind, WG_SEQ=str(record.seq), WG_INTERFACE=event.interface or "")
    if event.public_key is not None:
        ips = ips if len(ips) <= JOURNAL_IPS_MAX else ips[:JOURNAL_IPS_MAX].rpartition(",")[0]
        fields.update(WG_PEER=event.public_key, WG_ENDPOINT=event.endpoint or "", WG_ALLOWED_IPS=ips)
        fields.update(WG_NAME=event.name or "", WG_HANDSHAKE=str(event.handshake))
    if ended is not None:
        fields.update(WG_SESSION_SECONDS="%d" % ended.length, WG_RX=str(ended.received), WG_TX=str(ended.sent))
        fields.update(WG_REASON=ended.reason)
    return {name: value for name, value in fields.items() if value}


def started_text(settings: Settings) -> str:
    seconds = (settings.interval, settings.threshold, settings.stats_interval)
    interfaces = ", Interface: " + ",".join(sorted(settings.interface)) if settings.interface else ""
    return "Monitor started | Interval: %ds, Threshold: %ds, Stats: %ds" % seconds + interfaces


# --- Effects: running wg ------------------------------------------------------------------------------------------


def moment() -> Moment:
    return Moment(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


def read_text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def boot_id() -> str:
    return read_text("/proc/sys/kernel/random/boot_id").strip()


def find_wg() -> str:
    for path in (directory + "/wg" for directory in SEARCH_PATH.split(":")):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise Refusal("wg is not installed", "it is not in " + SEARCH_PATH, "install wireguard-tools", EXIT_NO_WG)


def exit_words(status: int) -> str:
    # How a child ended: its exit status, or as a negative number the signal that ended it.
    if status >= 0:
        return "exited with status %d" % status
    names = {int(number): number.name for number in signal.Signals}
    return "was ended by %s" % names.get(-status, "signal %d" % -status)


def kill_group(pid: int) -> None:
    # Kills a child that leads its own session, and its whole process group. A process that left the group (setsid,
    # a job of a shell with job control) survives: the limits of the unit hold it, and it ends with the service.
    # The child may have ended, or run as a user whose processes we may not kill.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def anonymous_file() -> int:
    # A file in memory without a path; every write appends. A pipe costs twice the CPU at 50,000 peers, and a process
    # that `wg` leaves behind would hold it open. Python 3.7 has no memfd_create, so it uses /dev/shm.
    if sys.version_info >= (3, 8):
        descriptor = os.memfd_create("wg_monitor")
    else:
        descriptor = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return descriptor


def start_wg(command: list[str], output: int, errors: int) -> int:
    # Starts it in a session of its own and returns its process id. Errors: OSError. posix_spawn takes 0.2 ms less than
    # subprocess, a third of the cost of a reading of few peers; Python 3.7 lacks it.
    environment = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8"}
    if sys.version_info >= (3, 8):
        stdin = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
        actions = [stdin, (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, errors, 2)]
        defaults = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores them, and children inherit that
        return os.posix_spawn(command[0], command, environment, file_actions=actions, setsid=True, setsigdef=defaults)
    from subprocess import DEVNULL, Popen

    child = Popen(command, stdin=DEVNULL, stdout=output, stderr=errors, env=environment, start_new_session=True)
    child.returncode = 0  # the monitor waits for the process id, not for this object
    return child.pid


# What `wg` printed.
class Answer(NamedTuple):
    size: int  # of the output, in bytes
    complaints: str  # standard error
    why: str  # why it is no reading; "" = it is one
    at: Moment  # when it was started: what it printed was true then or later


# Runs `wg show`, one run at a time, and never waits for it. The files stay open and are emptied after each run:
# creating them again would take a tenth of a reading of few peers.
class Probe:
    def __init__(self, wg: str) -> None:
        self.wg = wg
        self.output = self.errors = -1
        self.pid, self.interface = 0, ""  # 0 = wg does not run; the interface that it is about, "" = all
        self.started = Moment(0.0, 0.0)
        self.overdue, self.deadline = False, float("inf")  # monotonic; infinite = wg does not run, or was killed

    def start(self, *question: str, interface: str = "") -> None:
        # Errors: OSError.
        if self.output < 0:
            self.errors = anonymous_file() if self.errors < 0 else self.errors  # there may be only one left
            self.output = anonymous_file()
        self.interface, self.started = interface, moment()
        self.pid = start_wg([self.wg, "show", *question], self.output, self.errors)
        self.deadline, self.overdue = time.monotonic() + WG_TIMEOUT_S, False
        with suppress(ProcessLookupError, PermissionError):  # as above: the timeout still bounds it
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (WG_OUTPUT_MAX, WG_OUTPUT_MAX))

    def answer(self) -> Answer | None:
        # None = wg is still running, or was killed: the answer was that it takes too long.
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            if time.monotonic() < self.deadline:
                return None
            self.kill()
            return Answer(0, "", "wg did not answer within %ds" % WG_TIMEOUT_S, self.started)
        self.pid, self.deadline = 0, float("inf")
        if self.overdue:
            self.clear()
            return None
        # If the wall clock was set meanwhile, the earlier time counts: it makes no handshake older than it is.
        ended, (wall, boot) = moment(), self.started
        at = Moment(min(wall, ended.wall - (ended.boot - boot)), boot)
        size, more = os.fstat(self.output).st_size, os.fstat(self.errors).st_size
        complaints = os.pread(self.errors, WG_ERRORS_MAX, 0).decode("utf-8", "replace") if more else ""
        if more > WG_ERRORS_MAX:
            complaints += "\nUnable to access interface (cut off): "  # an unclear name: it may be any of the others
        if status:
            said = printable(" ".join(complaints[:BLOCK].split()))
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
            return Answer(0, "", "wg %s%s" % (exit_words(code), ": " + said if said else ""), at)
        if size and os.pread(self.output, 1, size - 1) != b"\n":
            return Answer(0, "", "the output of wg breaks off", at)
        return Answer(size, complaints, "", at)

    def blocks(self, size: int) -> Iterator[bytes]:
        # The output in blocks of whole lines, so that memory holds only one block at a time. `wg show NAME dump` leaves
        # out the first column.
        offset, wanted, column = 0, BLOCK, self.interface.encode() + b"\t"
        while offset < size:
            data = os.pread(self.output, min(wanted, size - offset), offset)
            end = data.rfind(b"\n") + 1
            if end:
                yield column + data[: end - 1].replace(b"\n", b"\n" + column) + b"\n" if self.interface else data[:end]
                offset, wanted = offset + end, BLOCK
            else:
                wanted *= 2  # one line is longer than that

    def clear(self) -> None:
        # Discards the output. A killed `wg` may have left a process that still writes: it keeps the old files.
        for descriptor in (self.output, self.errors):
            os.ftruncate(descriptor, 0)
            if self.overdue:
                os.close(descriptor)
        if self.overdue:
            self.output = self.errors = -1

    def kill(self) -> None:
        if self.pid:
            self.overdue, self.deadline = True, float("inf")
            kill_group(self.pid)


# Takes the place of `wg show all dump` while that hangs: each tick of the grid asks for every interface alone, and for
# the list of them. Nobody waits for an interface that hangs.
class Round:
    def __init__(self, wg: str) -> None:
        self.probes = [Probe(wg) for _ in range(QUERIES_AT_ONCE)]
        self.names: frozenset[str] = frozenset()  # the interfaces that exist, and "" for the list; empty = no round
        self.waiting: deque[str] = deque()  # those of them that are still to be asked
        self.listed: frozenset[str] | None = None  # what the list said last; None = it failed

    def add(self, names: frozenset[str]) -> None:
        asked = {probe.interface for probe in self.probes if probe.pid}.union(self.waiting, self.names)
        self.waiting.extend(sorted(filter(ASKABLE.fullmatch, names - asked)))
        self.names |= names


# --- Effects: names -----------------------------------------------------------------------------------------------


def open_names(path: str) -> TextIO:
    # A file with names. Opens no device, and waits for no FIFO. Errors: OSError.
    def descriptor(name: str, flags: int) -> int:
        number = os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)
        if status.st_size and not os.path.samestat(status, os.fstat(number)):
            os.close(number)
            raise OSError("it was replaced just now")
        return number

    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_size > NAMES_MAX:
        raise OSError("neither a regular file of at most %d MiB nor a directory that can be listed" % (NAMES_MAX >> 20))
    # The kernel's own files have no size either, and some never answer.
    name = path if status.st_size else os.devnull
    return open(name, encoding="utf-8-sig", errors="replace", newline="\n", opener=descriptor)


NameFile = Tuple[Tuple[int, ...], Mapping[str, str], str]  # time, size and inode; names by public key; what is wrong


class Names:
    """What the files of PEER_NAMES say. A file with a fault keeps the names that it had."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self.files: dict[str, NameFile] = {}  # in the order of their precedence
        self.known: Mapping[str, str] = {}  # of all files; another object after each change

    def list_files(self) -> Iterator[str]:
        # In the order of their precedence. A directory that cannot be listed keeps its files.
        for path in self.paths:
            try:
                names = [name for name in os.listdir(path) if name[0] != "." and name.endswith((".conf", ".netdev"))]
                yield from (path + "/" + name for name in sorted(names))
            except OSError:
                yield from [path, *(file for file in self.files if file.startswith(path + "/"))]

    def look(self) -> list[Fault]:
        # Reads the files that changed.
        files = {path: self.read(path, self.files.get(path, ((), {}, ""))) for path in self.list_files()}
        if files != self.files:
            self.files, found = files, [names for _, names, _ in files.values() if names][::-1]
            # A copy of the only one would take 30 bytes a name.
            self.known = {k: v for names in found for k, v in names.items()} if len(found) != 1 else found[0]
        begins, ends = "The names from %s stay as they are: %s", "Names are read from %s again"
        wrong = [(path, printable(path), why) for path, (_, _, why) in files.items() if why]
        return [Fault("names", path, begins % (words, why), ends % words) for path, words, why in wrong]

    def read(self, path: str, former: NameFile) -> NameFile:
        names: dict[str, str] = {}
        try:
            status = os.stat(path)
            signature = (status.st_mtime_ns, status.st_size, status.st_ino)
            if signature == former[0]:
                return former
            with open_names(path) as file:
                for _, key, name, _ in parse_names(file):
                    names.setdefault(key, name)
        except OSError as error:
            return (), former[1], reason_of(error)
        why = names.pop("", "")
        names = {**former[1], **names} if why else names
        # No second copy of the same names: sessions would keep a part of the first.
        return signature, former[1] if names == former[1] else names, why


# --- Effects: the console -----------------------------------------------------------------------------------------


# Standard error, or the journal. It never stops the monitor: it drops what it cannot write in time.
class Console:
    def __init__(self, journal_stream: str) -> None:
        self.descriptor, self.journal = 2, False
        self.socket: Any = None  # of the journal
        for descriptor in (1, 2):
            status = os.fstat(descriptor)
            if journal_stream == "%d:%d" % (status.st_dev, status.st_ino):
                self.descriptor, self.journal = descriptor, True
        self.send = nonblocking_writer(self.descriptor)
        self.rest, self.dropped = b"", 0  # the rest of a line that was written in part
        self.patience = 0.0  # monotonic time until which the monitor waits for a slow reader

    def begin(self) -> None:
        # Starts a batch of lines: the wait for a slow reader is bounded for all of them together.
        self.patience = time.monotonic() + CONSOLE_PATIENCE_S

    def write(self, record: Record, stamped: bool) -> None:
        # One whole line. The journal adds its own time stamps. On standard error, it takes the level as in sd-daemon(3).
        line = record.line[20:] if self.journal and stamped else record.line
        if self.journal:
            # When journald gets the last line, this process may have ended, and a datagram would belong to no unit.
            last = record.event.kind == "STOP"
            if not last and self.tell_journal(journal_fields(record, line.decode("utf-8", "replace")[:-1])):
                return
            line = b"<%d>%s" % (LEVELS.get(record.event.kind, INFORMATION), line)
        unsent = self.rest + line
        while unsent:
            try:
                unsent = unsent[self.send(unsent) :]
            except BlockingIOError:
                if not ready_for(select.POLLOUT, self.descriptor, self.patience - time.monotonic()):
                    break
            except OSError:
                break
        if len(unsent) >= len(line):  # nothing of this line was written
            unsent = unsent[: len(unsent) - len(line)]
            self.dropped += 1
        self.rest = unsent

    def tell_journal(self, fields: Mapping[str, str]) -> bool:
        # By the journal's native protocol: one datagram. False = it was not taken, and standard error gets the line.
        import socket

        data = "".join("%s=%s\n" % field for field in fields.items()).encode("utf-8", "replace")
        tries = 2  # after the first failure, the socket may be a new one
        while tries:
            try:
                if self.socket is None:
                    self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                    self.socket.connect(JOURNAL)
                self.socket.send(data, socket.MSG_DONTWAIT)
                return True
            except BlockingIOError:
                if not ready_for(select.POLLOUT, self.socket.fileno(), self.patience - time.monotonic()):
                    return False
            except OSError:
                if self.socket is not None:  # no descriptor may be left for one
                    self.socket.close()
                self.socket = None
                tries -= 1
        return False


def nonblocking_writer(descriptor: int) -> Callable[[bytes], int]:
    # A function that writes to a descriptor without blocking. Other processes may share the descriptor, so its own
    # flags stay: a socket gets the flag at each call, a pipe or a terminal is opened again.
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        import socket

        connection = socket.socket(fileno=os.dup(descriptor))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with suppress(OSError):  # another user's terminal: written to as it is
            descriptor = os.open("/proc/self/fd/%d" % descriptor, flags)
    return partial(os.write, descriptor)


def milliseconds(seconds: float) -> int:
    # A timeout for poll(2), rounded up: never too early, one day at most.
    return -int(-1000 * min(max(0.0, seconds), DAY_S) // 1)


def ready_for(event: int, descriptor: int, timeout_s: float = 0.0) -> bool:
    # Whether a descriptor can be read or written without blocking, at the latest after the timeout.
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(milliseconds(timeout_s)))


# --- Effects: the trail -------------------------------------------------------------------------------------------


class TrailBusy(OSError):
    """Another monitor holds the trail."""


def open_file(path: str, mode: int, group: int = -1) -> int:
    """A descriptor of the trail or of a lock; mode and group are those of a new file. Errors: OSError, whose message
    tells the administrator what to do.

    Whoever can write to the directory must not be able to make root append to /etc/shadow: the file is no link, no
    device, no second name of another file, and no other user's file."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.readlink("/proc/self/fd/%d" % directory) != os.path.dirname(path):
            raise OSError("a directory above it was replaced")
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(os.path.basename(path), flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory)
        except FileExistsError:
            descriptor = os.open(os.path.basename(path), flags, dir_fd=directory)
        else:
            with suppress(OSError):  # the units' sandbox forbids it, and has Group= instead
                os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, mode)  # regardless of the umask
            os.fsync(directory)
    finally:
        os.close(directory)
    complaint = judge_trail(os.fstat(descriptor))
    if complaint:
        os.close(descriptor)
        raise OSError(complaint)
    return descriptor


def has_name(descriptor: int, path: str) -> bool:
    # Whether an open file still is what stands there.
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    return False


def judge_trail(status: os.stat_result) -> str:
    # Why a file cannot be the trail, or its lock; "" = it can.
    if not stat.S_ISREG(status.st_mode):
        return "it is a link" if stat.S_ISLNK(status.st_mode) else "it is not a regular file"
    if status.st_nlink > 1:
        return "it has %d names, a trail has one" % status.st_nlink
    return "" if status.st_uid == os.geteuid() else "it belongs to %s" % user_name(status.st_uid)


def lock_file(path: str) -> int:
    # A descriptor that holds the lock, in a file with our process id. Errors: BlockingIOError if another process holds
    # it, and OSError.
    complaint = judge_trail(os.lstat(path)) if os.path.lexists(path) else ""
    if complaint:  # `open_file` judges as well, but its errors do not name the lock
        raise OSError("its lock %s cannot be used: %s" % (path, complaint))
    lock = open_file(path, 0o600)
    try:
        os.fchmod(lock, 0o600)  # whoever can open it can take it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not has_name(lock, path):
            raise OSError("its lock was replaced")
    except OSError:
        os.close(lock)
        raise
    with suppress(OSError):  # the disk is full: the lock holds without a process id
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())
    return lock


def instead_of(former: int, descriptor: int) -> int:
    if former >= 0:
        os.close(former)
    return descriptor


def keep_lock(lock: int, path: str) -> int:
    # The lock, taken anew if its file was removed or replaced; -1 = it was not taken yet. Errors: those of `lock_file`.
    return lock if lock >= 0 and has_name(lock, path) else instead_of(lock, lock_file(path))


class Trail:
    """The log file. It notices that it was moved or deleted, and goes on in a new file. Its lock is a file beside it,
    which no rotation moves and only its owner can open: one writer, whatever happens to the trail."""

    def __init__(self, path: str) -> None:
        self.path = path
        # `group`: of the last file, so that whoever could read it can read the next one.
        self.descriptor = self.lock = self.group = -1
        self.cut = b""  # the part of the next line that a full disk accepted; the rest goes to the same file

    def open(self) -> None:
        self.take_lock()
        self.descriptor = open_file(self.path, 0o640, self.group)

    def take_lock(self) -> None:
        # Held until `close`; taken anew if the lock file was removed or replaced. Errors: OSError.
        try:
            self.lock = keep_lock(self.lock, "%s/.%s.lock" % os.path.split(self.path))
        except BlockingIOError:
            raise TrailBusy("another monitor writes to it") from None

    def position(self) -> Position:
        # Where the next line goes; opens the file for it. Errors: OSError.
        self.take_lock()
        if self.descriptor >= 0 and not (self.has_cut() if self.cut else has_name(self.descriptor, self.path)):
            self.cut = b""
            self.reopen()
        if self.descriptor < 0:
            self.open()
            self.mend()
        status = os.fstat(self.descriptor)
        self.group = status.st_gid
        return Position(status.st_dev, status.st_ino, status.st_size - len(self.cut))

    def has_cut(self) -> bool:
        # Whether the open file still ends with the part of a line. If not, the line is written whole.
        status, length = os.fstat(self.descriptor), len(self.cut)
        end = os.pread(self.descriptor, length + 1, max(0, status.st_size - length - 1))
        return status.st_nlink > 0 and end in (self.cut, b"\n" + self.cut)

    def probe(self) -> None:
        # Whether lines would reach the disk. Errors: OSError. After a failed fsync the next one succeeds, since the
        # kernel reports an error once to each descriptor. So the last byte is written again, where it is: O_APPEND
        # cannot do that.
        last = max(0, self.position().size - 1)
        with open("/proc/self/fd/%d" % self.descriptor, "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), os.pread(file.fileno(), 1, last), last)
        os.fsync(self.descriptor)

    def mend(self) -> None:
        # Ends a last line that another program left unfinished, so that the next line begins a line.
        try:
            size = os.fstat(self.descriptor).st_size
            if size and not self.cut and os.pread(self.descriptor, 1, size - 1) != b"\n":
                os.write(self.descriptor, b"\n")
        except OSError:
            self.reopen()
            raise

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        # Writes lines at `position`. Returns how many the file has in full, and the error that stopped the rest.
        written = len(self.cut)  # bytes of all lines
        error: OSError | None = None
        try:
            for first in range(0, len(lines), LINES_AT_ONCE):
                data = memoryview(b"".join(lines[first : first + LINES_AT_ONCE]))[0 if first else written :]
                while data:
                    count = os.write(self.descriptor, data)
                    written += count
                    data = data[count:]
            os.fsync(self.descriptor)
        except OSError as caught:
            error = caught
        whole = len(list(takewhile(lambda end: end <= written, accumulate(map(len, lines)))))
        self.cut = b"".join(lines[whole : whole + 1])[: written - sum(map(len, lines[:whole]))]
        return whole, error

    def resume(self, position: Position, lines: Sequence[bytes]) -> int:
        # After a crash: how many of `lines`, in order, the trail has from this position on. If it has a part of the
        # next one, that line will be finished in this file, whatever its name is now. Errors: OSError.
        descriptor = find_inode(os.path.dirname(self.path), position)
        end = os.fstat(descriptor).st_size
        *found, torn = os.pread(descriptor, end - position.size, position.size).split(b"\n")
        struck = 0
        for line in found:
            if lines[struck : struck + 1] == [line + b"\n"]:
                struck += 1
        if torn and struck < len(lines) and lines[struck].startswith(torn):
            if self.descriptor < 0 or not os.path.sameopenfile(self.descriptor, descriptor):
                self.reopen()
                self.descriptor = os.dup(descriptor)
            self.cut = torn
        os.close(descriptor)
        return struck

    def reopen(self) -> None:
        # The next line opens the file again, unless it has to finish a line.
        if self.descriptor >= 0 and not self.cut:
            os.close(self.descriptor)
            self.descriptor = -1

    def close(self) -> None:
        for descriptor in {self.descriptor, self.lock} - {-1}:
            os.close(descriptor)
        self.descriptor, self.lock, self.cut = -1, -1, b""


def find_inode(directory: str, position: Position) -> int:
    # A descriptor of a file by its inode, since rotated files have many naming schemes. Errors: FileNotFoundError if it
    # is gone, or if a younger file has its inode.
    device = os.stat(directory).st_dev  # a reboot may have given the disk another number
    for name in os.listdir(directory):
        path = directory + "/" + name
        with suppress(FileNotFoundError):  # logrotate is at work
            status = os.lstat(path)
            if (status.st_dev, status.st_ino) == (device, position.inode) and stat.S_ISREG(status.st_mode):
                descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                status = os.fstat(descriptor)
                if status.st_ino == position.inode and status.st_size >= position.size:
                    return descriptor
                os.close(descriptor)
    raise FileNotFoundError("the former trail file is gone")


# --- Effects: the store -------------------------------------------------------------------------------------------

SCHEMA = 3

# What events say about the addresses of peers, in tables of their own. The time of an address that stays in use is
# written once a day: that keeps a storm cheap.
FILL_IPS = """INSERT INTO allowed_ips SELECT NULL, interface, public_key, wall,
    CASE WHEN kind <> 'REMOVED' THEN allowed_ips END FROM events WHERE seq >= ? AND (new OR kind IN ('CHANGED', 'REMOVED'))"""
ADDRESS = "trim(rtrim(rtrim(endpoint, '0123456789'), ':'), '[]')"
FILL_ADDRESSES = f"""INSERT INTO addresses SELECT interface, public_key, {ADDRESS}, wall, wall FROM events
    WHERE seq >= ? AND kind IN ('ONLINE', 'ROAMING') AND endpoint <> '' ON CONFLICT (interface, public_key, address)
    DO UPDATE SET last_seen = excluded.last_seen WHERE excluded.last_seen > last_seen + 86400"""
ASK_ADDRESS = "SELECT 1 FROM addresses WHERE interface = ? AND public_key = ? AND address = ?"

# Plain SQL that SQLite 3.27 knows. Times are seconds; `wall` since the epoch, `boot` since the machine's start.
# Inodes and devices are text: they are unsigned 64-bit numbers, which SQLite's integers cannot hold.
MIGRATIONS = (
    """CREATE TABLE monitor (one INTEGER PRIMARY KEY CHECK (one = 1), boot_id TEXT NOT NULL, wall REAL NOT NULL,
        boot REAL NOT NULL, complete REAL, steady REAL NOT NULL, device TEXT, inode TEXT, size INTEGER,
        written INTEGER NOT NULL);
    CREATE TABLE interfaces (name TEXT PRIMARY KEY, up INTEGER NOT NULL, read REAL, wall REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE peers (interface TEXT NOT NULL, public_key TEXT NOT NULL, endpoint TEXT NOT NULL,
        allowed_ips TEXT NOT NULL, handshake INTEGER NOT NULL, shown INTEGER NOT NULL, made REAL, rx INTEGER NOT NULL,
        tx INTEGER NOT NULL, past_rx INTEGER NOT NULL, past_tx INTEGER NOT NULL, heard REAL, heard_wall REAL,
        sent INTEGER NOT NULL, session INTEGER, PRIMARY KEY (interface, public_key)) WITHOUT ROWID;
    CREATE TABLE sessions (number INTEGER PRIMARY KEY, interface TEXT NOT NULL, public_key TEXT NOT NULL,
        start REAL NOT NULL, began REAL NOT NULL, received_before INTEGER NOT NULL, sent_before INTEGER NOT NULL,
        endpoints TEXT NOT NULL, unwatched REAL NOT NULL, last_seen REAL, detected REAL, length REAL,
        received INTEGER, sent INTEGER, reason TEXT);
    CREATE INDEX sessions_of_peer ON sessions (public_key, interface, start);
    CREATE INDEX sessions_open ON sessions (number) WHERE reason IS NULL; CREATE INDEX sessions_ended ON sessions (detected);
    CREATE TABLE events (seq INTEGER PRIMARY KEY, wall REAL NOT NULL, kind TEXT NOT NULL, interface TEXT,
        public_key TEXT, endpoint TEXT, allowed_ips TEXT, handshake INTEGER, online INTEGER, was TEXT, session INTEGER,
        hook INTEGER NOT NULL, line BLOB NOT NULL);
    CREATE INDEX events_due ON events (seq) WHERE hook = 1; CREATE INDEX events_by_time ON events (wall);""",
    # Each index entry is a tenth of what a storm costs: an open session needs none here.
    """DROP INDEX sessions_open; DROP INDEX sessions_ended;
    CREATE INDEX sessions_ended ON sessions (detected) WHERE detected IS NOT NULL;""",
    # The history that `events` alone kept gets tables of its own.
    """ALTER TABLE monitor RENAME TO former;
    CREATE TABLE monitor (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, stamp INTEGER NOT NULL,
        boot_id TEXT NOT NULL, wall REAL NOT NULL, boot REAL NOT NULL, complete REAL, steady REAL NOT NULL,
        utc_offset TEXT NOT NULL, device TEXT, inode TEXT, size INTEGER, last_line INTEGER NOT NULL,
        missing TEXT NOT NULL, last_session INTEGER NOT NULL);
    INSERT INTO monitor SELECT 1, lower(hex(randomblob(8))), 1, boot_id, wall, boot, complete, steady, '', device,
        inode, size, max(written, last), CASE WHEN last > written THEN (written + 1) || '-' || last ELSE '' END, 0
        FROM former, (SELECT ifnull(max(seq), 0) AS last FROM events); DROP TABLE former;
    ALTER TABLE peers ADD COLUMN ended REAL; ALTER TABLE peers ADD COLUMN ended_wall REAL;
    ALTER TABLE peers ADD COLUMN name TEXT NOT NULL DEFAULT ''; ALTER TABLE events ADD COLUMN name TEXT;
    ALTER TABLE events ADD COLUMN new INTEGER; ALTER TABLE events ADD COLUMN first_seen INTEGER;
    ALTER TABLE sessions ADD COLUMN name TEXT NOT NULL DEFAULT '';
    CREATE TABLE runs (number INTEGER PRIMARY KEY, start REAL NOT NULL, version TEXT NOT NULL,
        interval INTEGER NOT NULL, threshold INTEGER NOT NULL, liveness TEXT NOT NULL, interfaces TEXT NOT NULL);
    CREATE TABLE unwatched (
        number INTEGER PRIMARY KEY, start REAL NOT NULL, stop REAL NOT NULL, interface TEXT, why TEXT NOT NULL);
    CREATE TABLE allowed_ips (
        number INTEGER PRIMARY KEY, interface TEXT NOT NULL, public_key TEXT NOT NULL, since REAL NOT NULL, ips TEXT);
    CREATE INDEX allowed_ips_of_peer ON allowed_ips (public_key, interface);
    CREATE TABLE addresses (interface TEXT NOT NULL, public_key TEXT NOT NULL, address TEXT NOT NULL,
        first_seen REAL NOT NULL, last_seen REAL NOT NULL, PRIMARY KEY (interface, public_key, address)) WITHOUT ROWID;
    UPDATE events SET new = 1
        WHERE kind IN ('ONLINE', 'OFFLINE') AND (instr(line, ' new (') OR instr(line, '"new": true'));
    %s; %s; INSERT INTO allowed_ips SELECT NULL, interface, public_key, wall, allowed_ips FROM peers, monitor;
    CREATE VIEW sessions_now AS SELECT number, s.interface AS interface, s.public_key AS public_key, s.name AS name,
        start, max(0, monitor.boot - began) AS length, unwatched, endpoints,
        past_rx + rx - received_before AS received, past_tx + tx - sent_before AS sent
        FROM peers AS p JOIN sessions AS s ON s.number = p.session JOIN monitor WHERE reason IS NULL;"""
    % (FILL_IPS.replace("?", "0"), FILL_ADDRESSES.replace("?", "0")),
)

KINDS = {"text": str, "int": int, "real": float, "blob": bytes}


class Relation:
    """A table and its columns, each `name type`, with a `?` if it may be NULL: the one place that knows their order.
    The `own` columns are attributes of the value that a row stores, the others come beside it."""

    def __init__(self, own: str, others: str = "") -> None:
        table, own = own.split(None, 1)
        columns = [column.split() for column in (own + "," + others).split(",") if column]
        self.names = [name for name, _ in columns]
        self.kinds = [(KINDS[kind.rstrip("?")], type(None) if kind.endswith("?") else ()) for _, kind in columns]
        self.own_names = self.names[: own.count(",") + 1]
        self.own = attrgetter(*self.own_names)
        self.select = "SELECT %s FROM %s " % (", ".join("%s.%s" % (table, name) for name in self.names), table)
        self.insert = "INTO %s (%s) VALUES (%s)" % (table, ", ".join(self.names), ", ".join("?" * len(columns)))

    def row(self, value: object, *others: Any) -> list[Any]:
        # SQLite has no infinity: NEVER is NULL.
        return [None if column == NEVER else column for column in (*self.own(value), *others)]


MONITOR = Relation(
    """monitor one int, id text, stamp int, boot_id text, wall real, boot real, complete real?, steady real,
    utc_offset text, device text?, inode text?, size int?, last_line int, missing text, last_session int"""
)
INTERFACES = Relation("interfaces up int, read real?, wall real", "name text")
PEERS = Relation(
    """peers endpoint text, allowed_ips text, handshake int, shown int, made real?, rx int, tx int, past_rx int,
    past_tx int, heard real?, sent int, name text""",
    "interface text, public_key text, heard_wall real?, session int?, ended_wall real?, ended real?",
)
SESSION = """sessions number int, start real, began real, received_before int, sent_before int, unwatched real, endpoints text,
    name text"""
SESSIONS = Relation(SESSION, "interface text, public_key text")
OUTCOME = "last_seen real?, length real?, received int?, sent int?, reason text?"
OUTCOMES = Relation(SESSION, OUTCOME)
ENDS = Relation("sessions " + OUTCOME, "detected real, endpoints text, unwatched real, number int")
EVENTS = Relation(
    """events kind text, wall real, interface text?, public_key text?, endpoint text?, allowed_ips text?,
    handshake int?, online int?, new int?, name text?, first_seen int?""",
    "seq int, was text?, session int?, hook int, line blob",
)
LINES = Relation("events seq int, line blob")
SCOPES = Relation("runs interfaces text")

UPDATES = "began = excluded.began, endpoints = excluded.endpoints, unwatched = excluded.unwatched"
SAVE_SESSION = "INSERT %s ON CONFLICT (number) DO UPDATE SET %s" % (SESSIONS.insert, UPDATES)
END_SESSION = "UPDATE sessions SET %s WHERE number = ?" % ", ".join(name + " = ?" for name in ENDS.names[:-1])
SAVE_IPS = "INSERT INTO allowed_ips (interface, public_key, since, ips) VALUES (?, ?, ?, ?)"
# A save that failed may be on the disk nevertheless: these two do no harm if they come again.
SAVE_RUN = """INSERT INTO runs (start, version, interval, threshold, liveness, interfaces) SELECT ?, ?, ?, ?, ?, ?
    EXCEPT SELECT start, version, interval, threshold, liveness, interfaces FROM runs"""
SAVE_GAP = """INSERT INTO unwatched (start, stop, interface, why) SELECT ?, ?, ?, ?
    EXCEPT SELECT start, stop, interface, why FROM unwatched"""
STORE_SUFFIXES = ("", "-wal", "-shm", ".lock", ".last")  # of its files
TABLES = {"monitor", "interfaces", "peers", "sessions", "events"}  # of all versions
# Runs that are due (hook = 1), and what runs no hook but ends the delay of one. SQLite uses the index of due runs only if
# the number stands in the text.
DUE_SESSIONS = "SELECT session FROM events WHERE hook = 1 AND session IS NOT NULL"
DUE = """WHERE seq >= (SELECT min(seq) FROM events WHERE hook = 1) AND (hook = 1 OR (hook = 0 AND kind IN ('ONLINE', 'REMOVED')
    AND (interface, public_key) IN (SELECT interface, public_key FROM events WHERE hook = 1 AND kind = 'OFFLINE')))
    ORDER BY seq"""
UNSAVED = (0, "", 0.0, 0.0, None, 0.0, "", None, None, None, 0, "", 0)  # of `monitor`, after number and id
PRUNE = (
    """DELETE FROM events WHERE seq IN (
        SELECT seq FROM events WHERE wall < :before AND seq <= :written AND hook <> :due ORDER BY wall LIMIT :most)""",
    f"""DELETE FROM sessions WHERE number IN (
        SELECT number FROM sessions WHERE detected < :before AND number NOT IN ({DUE_SESSIONS}) LIMIT :most)""",
    "DELETE FROM unwatched WHERE stop < :before",
    "DELETE FROM runs WHERE number < (SELECT max(number) FROM runs WHERE start < :before)",
    # Where a known peer was last is no news, however long ago its session began.
    f"""DELETE FROM addresses AS a WHERE last_seen < :before AND NOT EXISTS (SELECT 1 FROM peers AS p
        WHERE p.interface = a.interface AND p.public_key = a.public_key AND {ADDRESS} = address)""",
    """DELETE FROM allowed_ips AS a WHERE (ips IS NULL AND since < :before) OR number < (SELECT max(number)
        FROM allowed_ips AS b WHERE b.interface = a.interface AND b.public_key = a.public_key AND b.since < :before)""",
)


# The store cannot be used right now.
class StoreFault(Exception):
    def __init__(self, message: str, damaged: bool = False) -> None:
        super().__init__(message)
        self.damaged = damaged  # a retry does not help: the store has to be moved aside
        self.locked = "locked" in message


# What a store remembers.
class Loaded(NamedTuple):
    table: Table
    watched: Moment | None  # the last reading; None = there was none
    same_boot: bool
    delivered: Delivered
    jobs: list[Record]  # hook runs that are due, and events that end a delay


# What the small file beside the store says.
class Note(NamedTuple):
    id: str = ""  # of the store
    stamp: int = 0  # of the save that the reading follows
    boot_id: str = ""
    wall: float = 0.0  # the last reading
    boot: float = 0.0
    line: int = 0  # the last numbers that were given away
    session: int = 0
    # Of this run: readings and those that failed, hook runs and those that failed, and writes that failed.
    readings: int = 0
    failed: int = 0
    hooks: int = 0
    hook_failures: int = 0
    trail_failures: int = 0
    store_failures: int = 0


NOTE_SIZE = 512


class Store:
    """State and history in SQLite. Every method raises StoreFault and nothing else that a disk can cause.

    A row of the table is `unsaved` from its first change until a checkpoint with it commits: a save that writes every
    unsaved row. Any other save writes the rows of its events only, so that a reading in which nothing but counters and
    handshakes moved touches no disk. The first save after `load` is always a checkpoint.

    Each save leaves a stamp that no other save has. If the database shows another one, somebody has replaced it: no
    transaction of this run goes into it until it was loaded."""

    def __init__(self, path: str, name: str = "STATE_PATH") -> None:
        self.path, self.name, self.existed = path, name, os.path.lexists(path)
        self.saved: dict[str, Any] | None = None  # the row of `monitor`; None = nothing was loaded yet
        self.stamps: set[int] = set()  # of the last save, and of later ones that failed: one may be on the disk
        self.pending: list[tuple[str, Any]] = []  # statements for the first save after `load`
        self.gaps: list[tuple[float, float, str | None, str]] = []  # that `unwatched` lacks
        self.boot_id = boot_id()
        self.note: Note | None = None  # None = there is none, or nobody can read it
        self.note_file = self.lock = -1
        self.inodes: dict[str, int] = {}  # of the open database and its logs, by suffix
        with suppress(OSError):  # reported when it is opened
            self.take_lock()
        self.database: Any = None  # a connection: sqlite3 is only imported if there is a store

    def take_lock(self) -> None:
        try:
            self.lock = keep_lock(self.lock, self.path + ".lock")
        except BlockingIOError:
            if self.saved is not None:  # the lock was removed, and another monitor was faster
                raise StoreFault("it is in use by another monitor") from None
            why, remedy = "a store has one writer", "stop it or choose another path"
            raise self.refusal("is in use by another monitor", why, remedy, EXIT_FAILURE) from None

    def refusal(self, what: str, why: str, remedy: str, code: int = EXIT_USAGE) -> Refusal:
        return Refusal("%s: '%s' %s" % (self.name, printable(self.path), what), why, remedy, code)

    def open(self) -> bool:
        """Opens the database; creates it or brings it to this version's schema. Returns whether it is as this run left
        it; if not, it has to be loaded. Errors: Refusal, if it is no store, or a newer one."""
        import sqlite3

        self.close_database()
        with self.faults():
            self.take_lock()
            if self.note_file < 0 or not has_name(self.note_file, self.path + ".last"):
                self.open_note()
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            self.database = sqlite3.connect(self.path, timeout=LOCKED_S, isolation_level=None)
            self.inodes = {"": os.stat(self.path).st_ino}
            version = self.examine()
            os.chmod(self.path, 0o600)
            pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -256"
            self.database.executescript(pragmas)
            if version < SCHEMA:
                script = ("BEGIN IMMEDIATE", *MIGRATIONS[version:], "PRAGMA user_version = %d" % SCHEMA, "COMMIT")
                self.database.executescript(";".join(script))
            self.database.executescript("BEGIN IMMEDIATE; ROLLBACK")  # somebody else may write to it right now
            recognized = self.recognizes()
            if self.saved is not None and not recognized:  # somebody put it there while this run goes on
                if self.database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    raise StoreFault("it is damaged", damaged=True)
            for suffix in ("-wal", "-shm"):
                with suppress(FileNotFoundError):  # the file system has no shared memory
                    self.inodes[suffix] = os.stat(self.path + suffix).st_ino
            return recognized

    def open_note(self) -> None:
        # Opens the small file, and reads what the last run left. Errors: OSError.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.note_file = instead_of(self.note_file, os.open(self.path + ".last", flags, 0o600))
        pairs = os.pread(self.note_file, NOTE_SIZE, 0).split() if self.note is None else []
        if len(pairs) in (7, len(Note._fields)):  # a version without the counts wrote 7
            with suppress(ValueError):
                name, save, boot_id, wall, boot, *numbers = (pair.partition(b"=")[2].decode() for pair in pairs)
                self.note = Note(name, int(save), boot_id, float(wall), float(boot), *map(int, numbers))
        if self.note is None and not self.existed:
            self.take_note(0, 0)  # the numbers begin at 1, even if this first start is interrupted

    def take_note(self, line: int, session: int, last: Moment | None = None, counts: Any = None) -> None:
        """Overwrites the small file: with the last numbers, before any line shows them, with the last reading, and with
        the counts of this run.

        It is one write, which SIGKILL does not tear. It does not wait for the disk: a power failure may lose it."""
        note = self.note or Note(boot_id=self.boot_id)
        if last is not None and self.saved is not None:
            note = Note(self.saved["id"], self.saved["stamp"], self.boot_id, *last)
        of_run = {} if counts is None else {name: counts[name] for name in Note._fields[7:]}
        self.note = note._replace(line=line, session=session, **of_run)
        text = " ".join("%s=%s" % pair for pair in zip(Note._fields, self.note))
        with self.faults():
            if last is not None and not self.is_whole():
                raise StoreFault("it or a file beside it was deleted or replaced")
            # It is opened together with the database. Without the lock, another monitor writes to it.
            if self.note_file >= 0 and (last is not None or has_name(self.lock, self.path + ".lock")):
                os.pwrite(self.note_file, b"%-*s\n" % (NOTE_SIZE - 1, text.encode()), 0)

    def examine(self) -> int:
        # The schema's version; 0 = a new database. Nothing was written to it yet.
        version = self.connection().execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in self.connection().execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not tables >= TABLES:
            why = "wg_monitor does not write into it"
            raise self.refusal("is a database of another program", why, "choose another path")
        if version < 0 or bool(version) != bool(tables):
            raise StoreFault("its schema has an invalid version", damaged=True)
        if version > SCHEMA:
            why = "it has schema %d, this one knows %d" % (version, SCHEMA)
            remedy = "install that version or choose another path"
            raise self.refusal("was written by a newer wg_monitor", why, remedy, EXIT_FAILURE)
        if self.saved is not None and version:  # while this run goes on, only its own history may come back
            other, own = "SELECT 1 FROM monitor WHERE id <> ? OR last_line > ?", (self.saved["id"], self.saved["last_line"])
            if version < SCHEMA or (not self.recognizes() and self.connection().execute(other, own).fetchone()):
                raise self.refusal("has another history", "numbers would repeat", "stop the monitor first")
        return int(version)

    @contextmanager
    def faults(self) -> Iterator[None]:
        # Turns what SQLite and the file system raise into a StoreFault.
        import sqlite3

        try:
            yield
        except (StoreFault, Refusal, sqlite3.Error, OSError, ValueError, ArithmeticError) as error:
            self.close_database()  # until it is opened again, so that one fault causes one wait
            if isinstance(error, (StoreFault, Refusal)):
                raise
            # "malformed" and "not a database" arrive as plain DatabaseError, damaged numbers as the last two. SQLite
            # reports foreign tables like a fault that passes; only the message tells them apart.
            passes = isinstance(error, (sqlite3.OperationalError, sqlite3.IntegrityError, OSError))
            foreign = re.match("no such (table|column|index)|(table|index) .* (has|already)", str(error))
            raise StoreFault(reason_of(error), not passes or foreign is not None) from None

    def connection(self) -> Any:
        if self.database is None:
            raise StoreFault("it is not open")
        return self.database

    def rows(self, relation: Relation, rest: str = "", *arguments: Any) -> Iterator[Any]:
        # SQLite's columns hold any type, so a flipped bit can change one: the types are checked.
        for row in self.connection().execute(relation.select + rest, arguments):
            if not all(map(isinstance, row, relation.kinds)):
                raise StoreFault("a row has a foreign shape", damaged=True)
            yield row

    def highest(self, table: str, column: str) -> int:
        number = self.connection().execute("SELECT max(%s) FROM %s" % (column, table)).fetchone()[0] or 0
        if not isinstance(number, int):
            raise StoreFault("a row has a foreign shape", damaged=True)
        return number

    def transact(self, statements: list[tuple[str, Any]], durable: bool = True, wal_pages: int = WAL_PAGES) -> None:
        """Statements, each with the rows of values that it is executed for: all or nothing, since `faults` closes the
        database after any error. `durable`: they survive a power failure as soon as this returns. The write-ahead log
        goes into the database when it has more than `wal_pages` pages."""
        pragmas = ("FULL" if durable else "NORMAL", wal_pages)
        with self.faults():
            database = self.connection()
            database.executescript("PRAGMA synchronous = %s; PRAGMA wal_autocheckpoint = %d; BEGIN IMMEDIATE" % pragmas)
            if not self.recognizes() or not self.is_whole():
                raise StoreFault("it or a file beside it was deleted or replaced")
            for statement, rows in statements:
                database.executemany(statement, rows)
            database.execute("COMMIT")
            if not self.is_current():  # it went to a file that nobody finds
                raise StoreFault("it was deleted or replaced")

    def recognizes(self) -> bool:
        # Whether the open database has the last save of this run.
        found = self.connection().execute("SELECT id, stamp FROM monitor").fetchone()
        saved = self.saved
        return saved is not None and (found or (saved["id"], 0)) in {(saved["id"], stamp) for stamp in self.stamps}

    def is_whole(self) -> bool:
        # Whether the store, its lock and its small file still have their names.
        beside = ((self.lock, ".lock"), (self.note_file, ".last"))
        return self.is_current() and all(has_name(file, self.path + suffix) for file, suffix in beside)

    def is_current(self) -> bool:
        # Whether the open database still has the store's name.
        with suppress(OSError):
            return os.stat(self.path).st_ino == self.inodes[""]
        return False

    def load(self, settings: Settings, now: Moment, since: float) -> Loaded:
        """Everything that outlives a run. After a reboot, positions on the boot clock come from the wall clock.
        `since`: wall clock from which on this run knows what happened."""
        with self.faults():
            found, note = list(self.rows(MONITOR)), self.note
            saved = dict(zip(MONITOR.names, found[0] if found else (1, os.urandom(8).hex(), *UNSAVED)))
            # Interfaces whose last reading is older than this could not be read when the last run ended.
            unread = (saved["wall"] or 0.0) - 2 * settings.interval - 1
            line, session = self.numbers(now) if not found else (saved["last_line"], saved["last_session"])
            if note is not None:
                line, session = max(line, note.line), max(session, note.session)
                if (note.id, note.stamp, note.boot_id) == (saved["id"], saved["stamp"], self.boot_id):
                    saved.update(wall=note.wall, boot=note.boot)
            same_boot = saved["boot_id"] in ("", self.boot_id)
            if not same_boot:
                saved["complete"] = None
            table, lost = self.load_table(settings.interface, saved["complete"], None if same_boot else now)
            table.sessions = max(session, self.highest("sessions", "number"), self.highest("peers", "session"))
            rows = self.rows(OUTCOMES, "WHERE number IN (%s)" % DUE_SESSIONS)
            outcomes = {row[0]: Ended(Session(*row[:-5]), *row[-5:]) for row in rows}
            jobs = [record_of(row, outcomes) for row in self.rows(EVENTS, DUE)]
            watched = Moment(saved["wall"], saved["boot"]) if saved["wall"] else None
            place = (saved["device"], saved["inode"], saved["size"])
            position = None if None in place else Position(*map(int, place))
            missing = tuple((int(a), int(b)) for a, b in re.findall("([0-9]+)-([0-9]+)", saved["missing"]))
            delivered = Delivered(max(line, self.highest("events", "seq")), missing, position)
            scope = "".join(row[0] for row in self.rows(SCOPES, "ORDER BY number DESC LIMIT 1"))  # of the last run
        links = {
            name: link.wall
            for name, link in table.interfaces.items()
            if link.up and link.wall < unread and name in (scope or name).split(",")
        }
        if watched is not None:
            table.unread = {name: watched.wall - wall for name, wall in links.items()}
            self.gaps += [(wall, watched.wall, name, "unreadable") for name, wall in links.items()]
        self.saved, self.stamps = saved, {saved["stamp"]}
        rule = (settings.interval, settings.threshold, settings.liveness, ",".join(sorted(settings.interface)))
        self.pending = [(SAVE_RUN, [(since, VERSION, *rule)])]
        self.lose(lost, now)
        return Loaded(table, watched, same_boot, delivered, jobs)

    def numbers(self, now: Moment) -> tuple[int, int]:
        # The last numbers of a line and of a session, if the store does not say.
        if self.note is not None:
            more = 0 if self.note.boot_id == self.boot_id else UNNOTED
            return self.note.line + more, self.note.session + more
        number = int(max(now.wall, UNREACHED_S) * 1000) if self.existed else 0  # no earlier run can have reached it
        return number, number

    def load_table(
        self, wanted: frozenset[str], complete: float | None, rebooted: Moment | None
    ) -> tuple[Table, list[Row]]:
        # The table, and the peers of interfaces that are not `wanted`.
        table = Table()
        open_sessions = self.rows(SESSIONS, "JOIN peers ON number = peers.session AND reason IS NULL")
        sessions = {row[0]: Session(*row[:-2]) for row in open_sessions}
        for *own, interface, public_key, heard_wall, session, ended_wall, ended in self.rows(PEERS):
            row = Row((sys.intern(interface), public_key))
            for name, value in zip(PEERS.own_names, own):
                setattr(row, name, NEVER if value is None else value)
            row.session, row.unsaved = sessions.get(session), rebooted is not None
            row.ended = NOT_YET if None in (ended, ended_wall) else Moment(ended_wall, ended)
            if rebooted is not None:
                place_after_reboot(row, heard_wall, rebooted)
            table.rows[row.identity] = row
        for up, read, wall, name in self.rows(INTERFACES):
            if not wanted or name in wanted:
                # A handshake that moved is known to be younger than the peer's row in the store, and every row is
                # at least as young as the last checkpoint.
                times = (read, complete)
                table.interfaces[name] = Interface(bool(up), NEVER if None in times else min(times), wall)
        others = [identity for identity in table.rows if wanted and identity[0] not in wanted]
        lost = [table.rows.pop(identity) for identity in others]
        table.online = len([row for row in table.rows.values() if row.session is not None])
        return table, lost

    def add_gap(self, start: float, stop: float, interface: str | None, why: str) -> None:
        if self.gaps and self.gaps[-1][1:] == (start, interface, why):  # `wg` is always too slow
            start = self.gaps.pop()[0]
        self.gaps.append((start, stop, interface, why))

    def lose(self, rows: Iterable[Row], now: Moment) -> None:
        # Has the next save end the sessions of these peers: nobody saw when they ended.
        for row in rows:
            if row.session is not None:
                ended = end_session(Table(), row, row.session, "unknown", now)
                self.pending.append((END_SESSION, [end_row(ended, now.wall)]))
            if row.unsaved:  # also of another boot
                self.pending.append(("REPLACE " + PEERS.insert, [peer_row(row, now)]))

    def make_room(self, past: Table, table: Table, now: Moment, anew: bool) -> None:
        # Has the first save turn what was loaded, `past`, into `table`. `anew`: the table has all there is.
        kept = {row.session.number for row in table.rows.values() if row.session is not None}
        self.lose([row for row in past.rows.values() if row.session and row.session.number not in kept], now)
        if anew:
            ips = [(*row.identity, now.wall, row.allowed_ips) for row in table.rows.values()]
            gone = [(*identity, now.wall, None) for identity in past.rows if identity not in table.rows]
            self.pending += [("DELETE FROM peers", [()]), ("DELETE FROM interfaces", [()]), (SAVE_IPS, [*ips, *gone])]
            self.pending.append(("UPDATE events SET hook = ? WHERE hook = ?", [(HOOK_DROPPED, HOOK_DUE)]))

    def look_up(self, events: Iterable[Event]) -> list[Event]:
        # Notes at each ONLINE and ROAMING whether the peer is at this address for the first time.
        found = []
        with self.faults():
            for event in events:
                if event.kind in ("ONLINE", "ROAMING") and event.endpoint:
                    place = (event.interface, event.public_key, address(event.endpoint).strip("[]"))
                    event = event._replace(first_seen=self.connection().execute(ASK_ADDRESS, place).fetchone() is None)
                found.append(event)
        return found

    def save(self, records: list[Record], table: Table, now: Moment, delivered: Delivered, **more: Any) -> None:
        """One transaction: lines with their events, the rows that these changed, what the trail has, and `more` columns
        of `monitor`. With statements that are pending, it is a checkpoint."""
        if self.saved is None:
            raise StoreFault("it was not loaded")
        checkpoint = more.pop("checkpoint") or bool(self.pending)
        # Nothing here keeps a tuple for each record. Python seldom gives the memory of small values back, and the first
        # reading has 10,000 records: it would stay 100 bytes a peer larger.
        known: Mapping[Any, Row] = table.rows
        gone = {record.peer for record in records if record.event.public_key and record.peer not in known}
        rows = known.values() if checkpoint else {known[record.peer] for record in records if record.peer in known}
        # In the order of the table's key, each page of a storm is written once: that saves a quarter of the time.
        unsaved = sorted((row for row in rows if row.unsaved), key=attrgetter("identity"))
        stamp = max(self.stamps - {self.saved["stamp"]}, default=time.time_ns())  # a save that failed comes again
        saved = {**self.saved, **more, **place_of(delivered), "stamp": stamp, "boot_id": self.boot_id}
        saved["last_session"] = table.sessions
        if table.last is not None:
            saved.update(wall=table.last.wall, boot=table.last.boot)
            if checkpoint:
                saved["complete"] = table.last.boot
        steps = [*self.pending, (SAVE_GAP, self.gaps), ("INSERT " + EVENTS.insert, map(event_row, records))]
        steps += [(statement, [(record.seq,)]) for record in records[:1] for statement in (FILL_IPS, FILL_ADDRESSES)]
        steps.append((SAVE_SESSION, session_rows(unsaved, known, records)))
        steps.append((END_SESSION, (end_row(r.event.ended, r.event.wall) for r in records if r.event.ended)))
        steps.append(("DELETE FROM peers WHERE interface = ? AND public_key = ?", sorted(gone)))
        steps.append(("REPLACE " + PEERS.insert, (peer_row(row, now) for row in unsaved)))
        interfaces = [INTERFACES.row(interface, name) for name, interface in table.interfaces.items()]
        steps += [("REPLACE " + INTERFACES.insert, interfaces), ("REPLACE " + MONITOR.insert, [list(saved.values())])]
        # The trail waits for these lines and no others: SQLite moves a large log only when the trail has them.
        next_for_trail = records and delivered.complete == records[0].seq - 1
        self.stamps.add(stamp)
        self.transact(steps, wal_pages=WAL_PAGES * 10 if next_for_trail else WAL_PAGES)
        self.saved, self.stamps, self.pending, self.gaps = saved, {saved["stamp"]}, [], []
        if checkpoint:
            for row in unsaved:
                row.unsaved = False

    def mark_trail(self, delivered: Delivered) -> None:
        saved = {**(self.saved or {}), **place_of(delivered)}
        self.transact([("REPLACE " + MONITOR.insert, [list(saved.values())])])
        self.saved = saved

    def mark_hooks(self, marks: Mapping[int, int]) -> None:
        # Does not wait for the disk: after a power failure a hook may run again, which PEER_SEQ tells it.
        rows = [(mark, seq) for seq, mark in marks.items()]
        self.transact([("UPDATE events SET hook = ? WHERE seq = ?", rows)], durable=False)

    def lines(self, first: int, last: int, limit: int) -> list[tuple[int, bytes]]:
        with self.faults():
            return list(self.rows(LINES, "WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?", first, last, limit))

    def prune(self, before: float, written: int) -> None:
        # Deletes a little of the history that is older than wall clock `before`. The trail has the lines up to number
        # `written`.
        values = {"before": before, "written": written, "due": HOOK_DUE, "most": PRUNE_ROWS}
        self.transact([(statement, [values]) for statement in PRUNE], durable=False)

    def forget(self, names: Sequence[str], now: Moment) -> None:
        rows = [(name,) for name in names]
        peers, interfaces = "DELETE FROM peers WHERE interface = ?", "DELETE FROM interfaces WHERE name = ?"
        ips = "INSERT INTO allowed_ips SELECT NULL, interface, public_key, ?, NULL FROM peers WHERE interface = ?"
        self.transact([(ips, [(now.wall, name) for name in names]), (peers, rows), (interfaces, rows)])

    def move_aside(self) -> str:
        # Moves a damaged store out of the way. Returns its new name.
        self.close_database()
        aside = "%s.damaged-%s" % (self.path, time.strftime("%Y%m%d-%H%M%S"))
        while os.path.lexists(aside):
            aside += "+"
        for suffix in ("", "-wal", "-shm"):
            if os.path.lexists(self.path + suffix):
                os.rename(self.path + suffix, aside + suffix)
        return aside

    def close_database(self) -> None:
        if self.database is None:
            return
        replaced = not self.is_current()
        with suppress(self.database.Error):
            self.database.rollback()
            if replaced:  # SQLite would leave its log, and play it into the new file
                self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.database.close()
        self.database = None
        for suffix, inode in self.inodes.items() if replaced else ():
            with suppress(OSError):
                if suffix and os.stat(self.path + suffix).st_ino == inode:
                    os.remove(self.path + suffix)

    def close(self) -> None:
        self.close_database()
        for descriptor in {self.lock, self.note_file} - {-1}:
            os.close(descriptor)


def place_of(delivered: Delivered) -> dict[str, Any]:
    # The columns of `monitor` that say what the trail has.
    p = delivered.position
    place = (None, None, None) if p is None else (str(p.device), str(p.inode), p.size)
    missing = ",".join("%d-%d" % span for span in delivered.missing)
    return dict(zip(("device", "inode", "size", "last_line", "missing"), (*place, delivered.last, missing)))


def place_after_reboot(row: Row, heard_wall: float | None, now: Moment) -> None:
    # The wall clock may be behind now (no clock chip), but distances in the past stay what they were.
    latest = max(row.handshake, heard_wall or 0.0)
    zero = now.boot - max(0.0, now.wall - latest) - latest
    row.made = zero + row.handshake if row.handshake else NEVER
    row.heard = NEVER if heard_wall is None else zero + heard_wall
    row.ended = row.ended._replace(boot=zero + row.ended.wall)
    if row.session is not None:
        row.session = row.session._replace(began=zero + row.session.start)


def event_row(record: Record) -> list[Any]:
    event, session = record.event, record.event.session_told
    was = event.before or None if event.ended is None else event.ended.reason
    if event.public_key is None and event.interface is not None:
        was = "%d %d" % (event.peers, event.online_peers)
    return EVENTS.row(event, record.seq, was, session and session.number, record.hook, record.line)


def record_of(row: Sequence[Any], outcomes: Mapping[int, Ended]) -> Record:
    # What `event_row` made a row of, with the sessions by number. The figures of those that are open are None.
    *own, seq, was, number, hook, line = row
    event, outcome = Event(**dict(zip(EVENTS.own_names, own))), outcomes.get(number)
    if event.kind in ("ROAMING", "CHANGED"):
        event = event._replace(before=was or "")
    elif event.public_key is None and was:
        peers, online = map(int, was.split())
        event = event._replace(peers=peers, online_peers=online)
    if outcome is not None:
        over = event.kind in ("OFFLINE", "REMOVED") and None not in outcome
        event = event._replace(ended=outcome) if over else event._replace(session=outcome.session)
    return Record(seq, event, line, hook)


def session_rows(unsaved: Iterable[Row], rows: Mapping[Any, Row], records: Iterable[Record]) -> Iterator[list[Any]]:
    # The open sessions of unsaved rows, and those of events that ended before they could be saved.
    for row in unsaved:
        if row.session is not None:
            yield SESSIONS.row(row.session, *row.identity)
    for record in records:
        session, now = record.event.session, rows[record.peer].session if record.peer in rows else None
        if session is not None and (now is None or now.number != session.number):
            yield SESSIONS.row(session, *record.peer)


def end_row(ended: Ended, wall: float) -> list[Any]:
    return ENDS.row(ended, wall, ended.session.endpoints, ended.session.unwatched, ended.session.number)


def peer_row(row: Row, now: Moment) -> list[Any]:
    heard_wall = now.wall - (now.boot - row.heard)
    return PEERS.row(row, *row.identity, heard_wall, row.session and row.session.number, *row.ended)


# --- Effects: the outbox ------------------------------------------------------------------------------------------


class Outbox:
    """Lines on their way: `unsaved` has those that the store lacks, `unwritten` those that the trail lacks. The trail
    gets a line after the store, or when the store has failed. Lines that memory has no room for are read back from
    the store."""

    def __init__(self, store: Store | None, trail: Trail | None) -> None:
        self.store = store
        self.trail = trail  # None = another monitor writes to it
        self.unsaved: deque[Record] = deque()
        self.unwritten: deque[Record] = deque()
        self.delivered = Delivered(0)
        self.lost: Counter[str] = Counter()  # lines that a sink will never get

    def put(self, record: Record) -> None:
        if self.trail is None:
            self.delivered = self.delivered._replace(last=record.seq)
        else:
            self.delivered = self.delivered.expecting()
            self.unwritten.append(record)
        if self.store is not None:
            self.unsaved.append(record)
        if len(self.unwritten) > BACKLOG_MAX:
            oldest = 1 if self.trail is not None and self.trail.cut else 0  # a line that is in the trail in part stays
            seq = self.unwritten[oldest].seq
            del self.unwritten[oldest]
            if self.store is None or (self.unsaved and self.unsaved[0].seq <= seq):
                self.lost["trail"] += 1
                self.delivered = self.delivered.without(seq, seq)
        if len(self.unsaved) > BACKLOG_MAX:
            self.unsaved.popleft()
            self.lost["store"] += 1

    def save(self, table: Table, now: Moment, **more: Any) -> None:
        # To the store, together with what the trail has. Errors: StoreFault.
        if self.store is None:
            return
        records = list(self.unsaved)
        with suppress(OSError):  # the position stays what it was; `write` reports the error
            if self.trail is not None:
                self.delivered = self.delivered._replace(position=self.trail.position())
        self.store.save(records, table, now, self.delivered, **more)
        self.unsaved.clear()

    def batch(self) -> tuple[Sequence[int], Sequence[bytes]]:
        # The next lines for the trail, after their numbers.
        stored = self.store is not None and self.store.database is not None
        for first, last in self.delivered.missing:
            if self.unsaved and stored:
                last = min(last, self.unsaved[0].seq - 1)
            in_memory = self.unwritten[0].seq if self.unwritten else last + 1
            if first < in_memory and self.store is not None and not stored:
                if self.trail is not None and self.trail.cut:
                    break  # the rest of a line comes first
                first = in_memory  # what only the store has waits for it, and delays nothing
            if first > last:
                continue
            if first >= in_memory:
                # Up to the first line that memory had no room for.
                numbered = zip(range(first, min(last + 1, first + LINES_IN_BATCH)), self.unwritten)
                lines = [record.line for seq, record in numbered if seq == record.seq]
                return range(first, first + len(lines)), lines
            last = min(last, in_memory - 1)
            found = [] if self.store is None else self.store.lines(first, last, LINES_IN_BATCH)
            if found:
                return [seq for seq, _ in found], [line for _, line in found]
            self.delivered = self.delivered.without(first, last)  # the store has lost them
            return self.batch()
        return [], []

    def write(self) -> None:
        # To the trail, all there is. Errors: OSError if the trail fails, StoreFault if the store does.
        fault: StoreFault | None = None
        while self.trail is not None:
            numbers, lines = self.batch()
            if not lines:
                break
            position = self.trail.position()
            if self.delivered.position != position:
                fault = self.mark(position) or fault  # before a byte is written: this is where a crash looks for it
            done, error = self.trail.write(lines)
            if done:
                last = numbers[done - 1]
                self.delivered = self.delivered.without(numbers[0], last)
                while self.unwritten and self.unwritten[0].seq <= last:
                    self.unwritten.popleft()
                fault = self.mark(position._replace(size=position.size + sum(map(len, lines[:done])))) or fault
            if error is not None:
                raise error
        if fault is not None:
            raise fault

    def mark(self, position: Position) -> StoreFault | None:
        # Tells the store what the trail has. A store that fails stops no line.
        self.delivered = self.delivered._replace(position=position)
        try:
            if self.store is not None:
                self.store.mark_trail(self.delivered)
        except StoreFault as fault:
            return fault
        return None

    def recover(self) -> str:
        """After a crash between the store and the trail: finds the lines that the trail has. Returns a warning or ""."""
        position, missing = self.delivered.position, self.delivered.missing
        if self.store is None or self.trail is None or position is None or not missing:
            return ""
        lines: list[tuple[int, bytes]] = []
        try:
            for first, last in missing:
                lines += self.store.lines(first, last, BACKLOG_MAX - len(lines))
            struck = self.trail.resume(position, [line for _, line in lines]) if lines else 0
        except StoreFault:
            return ""  # reported at the next use
        except OSError as error:
            return "%s may be duplicated: %s" % (counted(len(lines), "line"), reason_of(error))
        if struck:
            self.delivered = self.delivered.without(missing[0][0], lines[struck - 1][0])
        return ""

    def adopt(self, former: Delivered, sessions: Mapping[int, Session]) -> str:
        """Puts the lines that a store has and the trail lacks before those of this run, whose `sessions` got the store's
        numbers. Returns a warning or ""."""
        own, self.delivered = self.delivered, former
        warning = self.recover()
        missing = (*self.delivered.missing, *own.missing)
        self.delivered = Delivered(max(own.last, former.last), missing, own.position or former.position)
        for _ in range(len(self.unsaved) if sessions else 0):
            self.unsaved.append(self.unsaved.popleft().continuing(sessions))
        return warning


# --- Effects: the hook --------------------------------------------------------------------------------------------


def user_name(uid: int) -> str:
    import pwd

    with suppress(KeyError):
        return printable(pwd.getpwuid(uid).pw_name)
    return "user %d" % uid


def owner_of(path: str) -> str:
    # /a/path (root, mode 0755)
    status = os.stat(path)
    return "%s (%s, mode %04o)" % (printable(path), user_name(status.st_uid), status.st_mode & 0o7777)


def follow(path: str, owners: Iterable[int]) -> tuple[str, str]:
    """Walks an absolute path as the kernel does, name by name and link by link. Returns the file that it leads to, and
    why another user could lead it elsewhere; "" = nobody can. Errors: OSError.

    Each directory on the way has to belong to one of `owners`, and no other user may write to it, except to root's
    sticky ones: there, users can replace only what belongs to them."""
    place, names, links = "/", path.split("/")[::-1], 0
    while names:
        status = os.stat(place)
        sticky = status.st_mode & stat.S_ISVTX and status.st_uid == 0
        if status.st_uid not in owners:
            return place, "%s belongs to %s" % (printable(place), user_name(status.st_uid))
        if status.st_mode & 0o022 and not sticky:
            return place, "%s is writable by others (mode %04o)" % (printable(place), status.st_mode & 0o7777)
        name = os.path.join(place, names.pop())
        status = os.lstat(name)
        if not stat.S_ISLNK(status.st_mode):
            place = os.path.normpath(name)  # without the dots; no link is left in it
            continue
        if sticky and status.st_uid not in owners:
            return name, "%s belongs to %s" % (printable(name), user_name(status.st_uid))
        links += 1
        if links > LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(name)
        names += target.split("/")[::-1]
        place = "/" if target.startswith("/") else place
    return place, ""


def judge_script(path: str) -> tuple[str, str]:
    # The file that a hook's path leads to, which is the one to run, and why root must not run it; "" = it may.
    owners = {0, os.geteuid()}
    if not path.startswith("/"):
        return path, "it is not an absolute path"
    try:
        real, why = follow(path, owners)
        if why:
            return real, why
        status = os.stat(real)
        if not stat.S_ISREG(status.st_mode):
            return real, "it is not a regular file"
        if status.st_uid not in owners:
            return real, "it belongs to %s" % user_name(status.st_uid)
        if status.st_mode & 0o022:
            return real, "it is writable by others (mode %04o)" % (status.st_mode & 0o7777)
        return real, "" if os.access(real, os.X_OK) else "it is not executable"
    except (OSError, ValueError) as error:
        return path, reason_of(error)


# A hook that is running.
class Run:
    def __init__(self, record: Record, path: str, real: str, timeout_s: int) -> None:
        from subprocess import DEVNULL, PIPE, STDOUT, Popen

        self.record, self.said, self.overdue = record, b"", False
        # `executable` is the file that was judged, wherever a link leads by now.
        more: dict[str, Any] = {"executable": real, "cwd": "/", "start_new_session": True, "bufsize": 0}
        self.process = Popen([path], env=hook_environment(record), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, **more)
        assert self.process.stdout is not None
        self.output, self.reader = self.process.stdout, self.process.stdout.fileno()
        os.set_blocking(self.reader, False)
        self.deadline = time.monotonic() + timeout_s

    def read(self) -> bool:
        # Reads its output and keeps the beginning. False = there will be no more.
        data: bytes | None = self.output.read(65536)  # None = nothing right now
        self.said += (data or b"")[: HOOK_OUTPUT_MAX - len(self.said)]
        return data != b""

    def words(self) -> str:
        event = self.record.event
        peer = " " + short_key(event.public_key) if event.public_key else ""
        how = "took too long and was killed" if self.overdue else exit_words(self.process.returncode)
        said = printable(" ".join(self.said.decode("utf-8", "replace").split()), HOOK_OUTPUT_MAX)
        return "Hook for %s [%s]%s %s%s" % (event.kind, event.interface, peer, how, ": " + said if said else "")


# Runs the hook without waiting for it: several runs at once, those of one peer in order.
class HookRunner:
    def __init__(self, path: str, timeout_s: int, poll: "select.poll", delay_s: int) -> None:
        self.path, self.timeout_s, self.poll = path, timeout_s, poll
        self.queue = HookQueue(delay_s)
        self.readers: dict[int, Run] = {}  # the runs that may still print something, by descriptor
        self.running: dict[tuple[str | None, str | None], Run] = {}  # by interface and key: one run per peer
        # Why no run can be started (root must not run the script, or the kernel cannot), and until when on the
        # monotonic clock.
        self.unfit, self.retry_at = "", 0.0

    def start(self, now: float) -> Iterator[str]:
        # Starts as many runs as may run. Yields the report of each that can never be started. If `unfit` says why none
        # can, all wait for the next attempt. It must not come at once: the SIGCHLD of a failed one wakes the loop.
        for record in self.queue.ready(self.running.keys(), now):
            if len(self.running) == HOOKS_AT_ONCE or time.monotonic() < self.retry_at:
                return
            real, self.unfit = judge_script(self.path)  # right before the run
            try:
                run = None if self.unfit else Run(record, self.path, real, self.timeout_s)
            except OSError as error:
                if error.errno == errno.E2BIG:  # its own environment is too large
                    self.queue.close(record.seq, mark=HOOK_DONE)
                    event = record.event
                    yield "Hook for %s [%s] could not be run: %s" % (event.kind, event.interface, reason_of(error))
                    continue
                run, self.unfit = None, reason_of(error)
            if run is None:
                self.retry_at = time.monotonic() + HOOK_RETRY_S
                return
            del self.queue.waiting[record.seq]
            self.running[record.peer] = self.readers[run.reader] = run
            self.poll.register(run.reader, select.POLLIN)

    def hear(self, reader: int) -> None:
        if not self.readers[reader].read():
            self.forget(reader)

    def forget(self, reader: int) -> None:
        if self.readers.pop(reader, None) is not None:
            self.poll.unregister(reader)

    def reap(self) -> Iterator[Run]:
        # The runs that have ended. Kills those that took too long, with their process group.
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
            run.output.close()
            del self.running[identity]
            self.queue.marks[run.record.seq] = HOOK_DONE
            yield run

    def deadline(self) -> float:
        # On the monotonic clock. SIGCHLD reports the end of a run that was killed.
        return min((run.deadline for run in self.running.values() if not run.overdue), default=float("inf"))


# --- Effects: the service manager and signals ---------------------------------------------------------------------


# sd_notify(3), and the watchdog's time (sd_watchdog_enabled(3)). The variables leave the environment; children
# would not get them anyway.
class Notifier:
    def __init__(self, environment: "os._Environ[str]") -> None:
        self.address = re.sub("^@", "\0", environment.pop("NOTIFY_SOCKET", ""))
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self.watchdog_s = int(usec) / 1e6 if self.address and usec.isdigit() and pid in ("", str(os.getpid())) else 0.0

    def tell(self, *assignments: str) -> bool:
        # Whether the message was sent, or nobody listens.
        if not self.address:
            return True
        import socket

        # A service manager that does not listen does not stop the monitor.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(assignments).encode(), self.address)
            return True
        return False


# Signals leave their number in a pipe. The handlers do nothing, so nothing can go wrong in them.
class Wakeup:
    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self) -> None:
        self.reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in self.SIGNALS:
            signal.signal(number, lambda *_: None)
            signal.siginterrupt(number, False)


# --- The monitor --------------------------------------------------------------------------------------------------


# Times at whole multiples of an interval from the start, on the monotonic clock: they do not drift, and late ones
# are skipped, not queued.
class Grid:
    def __init__(self, interval: float, start: float) -> None:
        self.interval, self.next = interval, start
        self.skipped = 0

    def advance(self, now: float) -> None:
        steps = int((now - self.next) // self.interval) + 1
        self.next += steps * self.interval
        self.skipped += steps - 1


# The wall clock and local time. Both may change while the monitor runs.
class Clocks:
    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.last: Moment | None = None  # the last comparison
        self.steady, self.zone = 0.0, (0, 0)  # seconds without a step; inode and time of /etc/localtime
        self.offset = utc_offset(time.time())

    def compare(self, now: Moment) -> None:
        # The C library reads /etc/localtime again only on request; a look at the inode is cheaper than that.
        zone = (0, 0)
        with suppress(OSError):
            status = os.stat("/etc/localtime")
            zone = (status.st_ino, status.st_mtime_ns)
        if zone != self.zone:
            self.zone = zone
            time.tzset()
            stamp.cache_clear()
        step = 0.0 if self.last is None else clock_step(self.last, now)
        if step:
            self.steady = 0.0
            self.report("The wall clock was set %s by %s" % ("forward" if step > 0 else "back", duration(abs(step))))
        elif self.last is not None:
            self.steady += now.boot - self.last.boot
        offset = utc_offset(now.wall)
        if offset != self.offset:
            self.report("Local time is now UTC%s, it was UTC%s" % (offset, self.offset))
        self.last, self.offset = now, offset


# What is wrong right now. Each fault is reported when it begins and, with its length, when it ends.
class Faults:
    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.open: dict[tuple[str, str], tuple[Fault, float]] = {}  # kind and subject -> boot time of the beginning

    def __contains__(self, kind: str) -> bool:
        return (kind, "") in self.open

    def begin(self, fault: Fault) -> None:
        if (fault.kind, fault.subject) not in self.open:
            self.open[fault.kind, fault.subject] = (fault, moment().boot if fault.since == NEVER else fault.since)
            self.report(fault.begins)

    def end(self, kind: str, subject: str = "", silently: bool = False, more: str = "") -> None:
        if (kind, subject) in self.open:
            fault, since = self.open.pop((kind, subject))
            if fault.ends and not silently:
                self.report("%s after %s%s" % (fault.ends, duration(moment().boot - since), more))

    def compare(self, faults: Sequence[Fault], reading: Reading) -> None:
        # The faults of a reading. An interface that went cannot be read again.
        now = {(fault.kind, fault.subject) for fault in faults}
        for kind, subject in list(self.open):
            mine = kind in ("unreadable", "invalid", "absent", "names") and subject not in reading.others
            if mine and (kind, subject) not in now:
                self.end(kind, subject, silently=subject[:1] not in ("", "/") and subject not in reading.interfaces)
        for fault in faults:
            self.begin(fault)


# The loop that connects the steps.
class Monitor:
    def __init__(
        self, settings: Settings, wg: str, console: Console, trail: Trail | None, store: Store | None, manager: Notifier
    ) -> None:
        self.settings, self.console, self.manager = settings, console, manager
        self.trail, self.store, self.outbox = trail, store, Outbox(store, trail)
        self.poll = select.poll()
        self.wakeup = Wakeup()
        self.poll.register(self.wakeup.reader, select.POLLIN)
        self.hooks = HookRunner(settings.on_change_script, settings.script_timeout, self.poll, settings.script_delay)
        self.table, self.names = Table(), Names(settings.peer_names)
        self.memos: dict[str, Memo] = {}  # of `wg show all dump` (""), or of single interfaces while that hangs
        self.clocks, self.faults = Clocks(self.warn), Faults(self.warn)
        self.watched: Moment | None = None  # the last reading of the run before, until the first one of this run
        self.first: Moment | None = None  # the first reading of this run
        self.first_session = 0  # the number of its last session
        # Boot times of the last turn of the loop, of the last one that came after the loop had stood still, and of the
        # end of the last gap of all interfaces.
        self.turned, self.stalled, self.blinded = moment().boot, NEVER, NEVER
        # Whether the last reading was late, and the longest time between two readings that are not: two intervals, and
        # a second, so that a busy machine is not blind now and then.
        self.late, self.patience = False, 2 * settings.interval + 1
        self.reading_at: Moment | None = None  # all lines about a reading have its time
        # Whether this turn has a reading, None = it did not even try; and whether a crash must not lose it.
        self.read, self.urgent = None, False  # type: bool | None, bool
        self.fresh: list[Record] = []  # of this turn
        self.counts: Counter[str] = Counter()
        self.probe, self.round = Probe(wg), Round(wg)
        self.probes = (self.probe, *self.round.probes)
        self.stopping = self.ready = False
        self.status = ""  # as the service manager knows it
        self.started = self.fed = time.monotonic()  # fed: the watchdog
        self.grid = Grid(settings.interval, self.started)
        self.statistics = Grid(settings.stats_interval, self.started + settings.stats_interval)
        self.checkpoint = self.started + CHECKPOINT_S

    # Lines

    def note(self, kind: str, text: str) -> None:
        # A line that is no event.
        if kind != "DEBUG" or self.settings.debug:
            self.emit(Event(kind, time.time() if self.reading_at is None else self.reading_at.wall), text)

    def warn(self, text: str) -> None:
        self.note("WARN", text)

    def emit(self, event: Event, text: str) -> None:
        seq = self.outbox.delivered.last + 1
        hook = HOOK_DUE if runs_hook(event, self.settings) else HOOK_NONE
        record = Record(seq, event, render(seq, event, text, self.settings.log_format), hook)
        self.outbox.put(record)
        self.fresh.append(record)

    def flush(self, checkpoint: bool = False) -> None:
        # The lines of this turn go to the store, the trail, the console and the hook, in this order.
        if self.fresh or checkpoint or self.outbox.unsaved or self.outbox.unwritten or "store" in self.faults:
            for _ in range(4):  # a sink that fails or recovers adds lines, which go the same way
                last = self.outbox.delivered.last
                self.save(checkpoint)
                self.write()
                if last == self.outbox.delivered.last:
                    break
        records, self.fresh = self.fresh, []
        self.console.begin()
        for record in records:
            self.console.write(record, self.settings.log_format == "text")
        self.queue_hooks(records, WG_TIMEOUT_S)

    def queue_hooks(self, records: Iterable[Record], oldest: float = float("inf")) -> None:
        # A delay counts from the event, `oldest` seconds ago at most: the wall clock may have been set since.
        now = moment()
        for record in records if self.settings.on_change_script else ():
            if self.hooks.queue.add(record, now.boot - min(max(0.0, now.wall - record.event.wall), oldest)):
                self.note("DEBUG", "No hook runs, since the peer returned in time: %s" % event_text(record.event))

    def save(self, checkpoint: bool) -> None:
        now, store = moment(), self.store
        if store is None:
            return
        with self.store_faults():
            if "store" in self.faults:
                self.reopen(store, now)
                checkpoint = True  # it lacks what changed since
                for row in self.table.rows.values():
                    row.unsaved = True
            store.take_note(self.outbox.delivered.last, self.table.sessions)
            steady, zone = self.clocks.steady, self.clocks.offset
            self.outbox.save(self.table, now, checkpoint=checkpoint, steady=steady, utc_offset=zone)
            self.recovered("store")
        with suppress(StoreFault):  # the lines about the store have numbers as well, and go to the trail next
            store.take_note(self.outbox.delivered.last, self.table.sessions, counts=self.counts)

    def reopen(self, store: Store, now: Moment) -> None:
        # At the start, or after a fault. A store that is not as this run left it is adopted. Errors: StoreFault and
        # Refusal.
        known = store.saved is not None
        if not known and self.trail is not None and self.trail.cut:
            raise StoreFault("a line of the trail has to be finished first")
        if store.open():
            with store.faults():
                last = store.highest("events", "seq")  # a save that failed may be there nevertheless
            self.outbox.unsaved = deque(record for record in self.outbox.unsaved if record.seq > last)
        else:
            self.adopt(store, now, known)

    def adopt(self, store: Store, now: Moment, known: bool) -> None:
        # A store that comes back after the beginning of this run. `known`: this run has used it before, and knows more
        # than what somebody put there, which is a former state, or nothing.
        first = now if known else self.first
        loaded = store.load(self.settings, now, now.wall if first is None else first.wall)
        watched = loaded.watched
        if first is None:
            self.continue_from(loaded, store.saved or {})
            return
        sessions: Mapping[int, Session] = {}
        if known:
            self.table.sessions = max(self.table.sessions, loaded.table.sessions)
        else:
            gone = {record.peer for record in self.outbox.unsaved if record.event.kind == "REMOVED"}
            gap = 0.0
            if watched is not None:
                gap = max(0.0, first.boot - watched.boot if loaded.same_boot else first.wall - watched.wall)
                self.table.watched = first.boot - gap
            sessions = take_over(self.table, loaded.table, gone, self.first_session, gap)
            self.memos = {}  # the next reading shows which of the former peers are gone
            self.take_up_lines(loaded, sessions)
        store.make_room(loaded.table, self.table, now, known)
        if watched is not None and watched.wall < first.wall:
            self.blind(watched, first, "replaced" if known else "stopped")

    def continue_from(self, loaded: Loaded, saved: Mapping[str, Any]) -> None:
        # Before the first reading: everything is as the last run left it.
        now = moment()
        self.table, self.watched = loaded.table, loaded.watched
        self.clocks.last = self.watched if loaded.same_boot else None
        away = now.wall - self.watched.wall if self.watched else 0.0
        self.clocks.steady = saved["steady"] if loaded.same_boot or 0 <= away <= 7 * DAY_S else 0.0
        if self.watched:
            self.table.watched = self.watched.boot if loaded.same_boot else now.boot - max(0.0, away)
        self.clocks.offset = saved["utc_offset"] or self.clocks.offset
        self.take_up_lines(loaded, {})

    def take_up_lines(self, loaded: Loaded, sessions: Mapping[int, Session]) -> None:
        # The lines and hook runs that the last run left come before those of this one.
        warning = self.outbox.adopt(loaded.delivered, sessions)
        if warning:
            self.warn(warning)
        jobs, why = [job for job in loaded.jobs if job.hook == HOOK_DUE], ""
        if self.first is not None and time.monotonic() >= self.started + HOOKS_HELD_S:
            why = "the store came back too late"  # newer ones of the same peers may have run
        if not self.settings.on_change_script:
            why = "ON_CHANGE_SCRIPT is no longer set"
        queue = self.hooks.queue
        if not why:
            own = [record.continuing(sessions) for record in queue.waiting.values()]
            queue.waiting.clear()
            self.queue_hooks((*loaded.jobs, *own))
        elif jobs:
            queue.marks.update((job.seq, HOOK_DROPPED) for job in jobs)
            self.warn("%s dropped: %s" % (counted(len(jobs), "hook run"), why))

    def write(self) -> None:
        if self.trail is None:
            return
        missing = self.outbox.delivered.missing
        try:
            with self.store_faults():
                self.outbox.write()
        except OSError as error:
            self.counts["trail_failures"] += 1
            self.trail.reopen()
            path = printable(self.trail.path)
            begins = "%s cannot be written: %s; its lines are kept in memory" % (path, reason_of(error))
            self.faults.begin(Fault("trail", "", begins, "%s can be written again" % path))
            return
        if missing and not self.outbox.delivered.missing:  # where nothing was to be written, nothing is proven
            self.recovered("trail")

    def store_failed(self, fault: StoreFault) -> None:
        self.counts["store_failures"] += 1
        path = printable(self.settings.state_path)
        begins = "%s cannot be used: %s; changes are kept in memory" % (path, fault)
        self.faults.begin(Fault("store", "", begins, "%s can be used again" % path))
        if self.store is not None and fault.damaged:
            with suppress(OSError):  # the fault goes on, and so do the attempts
                self.warn("The damaged store is kept as %s" % printable(self.store.move_aside()))

    @contextmanager
    def store_faults(self) -> Iterator[None]:
        try:
            yield
        except StoreFault as fault:
            self.store_failed(fault)
        except Refusal as refusal:  # of what somebody put there
            damaged = self.store is not None and self.store.saved is not None
            self.store_failed(StoreFault(str(refusal), damaged))

    def recovered(self, sink: str) -> None:
        self.faults.end(sink)
        lost = self.outbox.lost.pop(sink, 0)
        if lost:
            self.warn("The %s lacks %s: more than %d were waiting" % (sink, counted(lost, "line"), BACKLOG_MAX))

    # The start

    def run(self, mistaken: Iterable[str] = ()) -> int:
        # `mistaken`: the variables that are nearly settings.
        self.open()
        self.note("START", started_text(self.settings))
        for name in mistaken:
            self.warn(no_setting(name))
        if self.settings.liveness == "handshake" and self.settings.threshold <= REKEY_AFTER_TIME_S:
            self.warn(
                "A threshold of %ds or less makes healthy peers flap: a WireGuard session in use renews its handshake"
                " only after %ds" % (REKEY_AFTER_TIME_S, REKEY_AFTER_TIME_S)
            )
        while not self.stopping:  # the first turn writes these lines while `wg` runs
            self.turn()
        self.finish()
        return 0

    def open(self) -> None:
        # Continues with the store and the trail where the last run ended.
        self.names.look()  # what it has read in vain leaves its memory to the table
        if self.store is not None:
            self.take_up(self.store)
        if self.trail is None:
            path = printable(self.settings.log_path)
            self.warn("%s is in use by another monitor: reporting to the console only" % path)
        elif self.trail.descriptor >= 0:
            with suppress(OSError):  # reported and retried at the first line
                self.trail.mend()  # after `take_up`, which finishes a line that a crash cut short

    def take_up(self, store: Store) -> None:
        # Takes over what the last run left. Reports nothing before it knows the number of the next line.
        problem, patience = StoreFault("it was not opened"), time.monotonic() + STORE_PATIENCE_S
        while not self.stopping:
            try:
                self.reopen(store, moment())
                return
            except StoreFault as fault:
                problem = fault
                if not fault.locked or time.monotonic() >= patience:
                    break
            self.stopping = bool(self.wait(time.monotonic() + LOCKED_S) & {signal.SIGTERM, signal.SIGINT})
        last, self.table.sessions = store.numbers(moment())
        self.outbox.delivered = Delivered(last)
        self.store_failed(problem)  # it may come back, with what it has

    # The loop

    def turn(self) -> None:
        # Waits until there is something to do, and does it.
        signals = self.wait(self.wake_at())
        turned, self.turned = self.turned, time.clock_gettime(time.CLOCK_BOOTTIME)
        self.stalled = self.turned if self.turned - turned > self.patience else self.stalled
        self.stopping = bool(signals & {signal.SIGTERM, signal.SIGINT})
        if signal.SIGHUP in signals:
            self.reload()
        self.look_after_probes()
        now = time.monotonic()
        if now >= self.grid.next and not self.stopping:
            self.grid.advance(now)
            self.start_reading()
        self.ask_waiting()
        if self.read is not None:
            self.conclude()
        if now >= self.statistics.next:
            self.statistics.advance(now)
            self.print_statistics()
        if self.manager.watchdog_s and now - self.fed >= self.manager.watchdog_s / 4:
            self.fed = now
            self.manager.tell("WATCHDOG=1")
        self.reap_hooks()
        if self.fresh:
            self.flush()  # events come before their hooks
        if not self.stopping:
            self.start_hooks()
        if self.fresh:
            self.flush()
        self.mark_hooks()

    def wait(self, until: float) -> set[int]:
        # Waits, and reads what hooks print. Returns the signals that came.
        signals: set[int] = set()
        for descriptor, _ in self.poll.poll(milliseconds(until - time.monotonic())):
            if descriptor == self.wakeup.reader:
                signals = set(os.read(descriptor, 4096))
            else:
                self.hooks.hear(descriptor)
        return signals

    def wake_at(self) -> float:
        at = [self.grid.next, self.statistics.next, self.hooks.deadline(), *(probe.deadline for probe in self.probes)]
        rest = min(self.hooks.queue.rest(moment().boot), HOOK_RETRY_S if self.hooks.unfit else float("inf"))
        fed = self.fed + self.manager.watchdog_s / 2 if self.manager.watchdog_s else float("inf")
        return min(*at, time.monotonic() + rest, fed)

    def start_reading(self) -> None:
        if not self.probe.pid:
            self.start(self.probe, "all", "dump")
        elif not self.round.names:
            self.grid.skipped += 1  # it takes longer than the interval, but not too long
        if self.round.names:
            self.round.names = frozenset()
            # At the start, only the list tells the interfaces that were there before from those that come later.
            self.round.add(frozenset({""}) if self.table.last is None else self.interfaces())

    def start(self, probe: Probe, *question: str, interface: str = "") -> None:
        try:
            probe.start(*question, interface=interface)
        except OSError as error:
            self.no_reading("%s cannot be run: %s" % (probe.wg, reason_of(error)))

    def interfaces(self) -> frozenset[str]:
        # Those that exist, as far as anybody knows.
        listed = self.round.listed
        names = {name for name, interface in self.table.interfaces.items() if interface.up}
        names |= self.settings.interface if listed is None else listed
        with suppress(OSError):
            names.update(name[:-5] for name in os.listdir(SOCKETS) if listed is None and name.endswith(".sock"))
        return self.watchable(names)

    def watchable(self, names: Iterable[str]) -> frozenset[str]:
        fit = frozenset(filter(INTERFACE_NAME.fullmatch, names))
        return fit & (self.settings.interface or fit) | {""}

    def look_after_probes(self) -> None:
        for probe in filter(attrgetter("pid"), self.probes):
            answer = probe.answer()
            if answer is not None:
                self.hear(probe, answer, probe.blocks(answer.size))
                if not probe.pid:
                    probe.clear()

    def ask_waiting(self) -> None:
        for probe in self.round.probes if self.round.waiting else ():
            if self.round.waiting and not probe.pid:
                name = self.round.waiting.popleft()
                self.start(probe, *((name, "dump") if name else ("interfaces",)), interface=name)

    def hear(self, probe: Probe, answer: Answer, blocks: Iterable[bytes]) -> None:
        if probe is not self.probe:
            if probe.interface in self.round.names:  # otherwise it is gone, or the round is over
                (self.take if probe.interface else self.take_list)(answer, blocks, probe.interface)
        elif not answer.why and not self.round.names:
            self.take(answer, blocks)
        elif not self.round.names:
            self.no_reading(answer.why)
            if probe.overdue:
                self.round.names, self.round.listed, self.memos = frozenset({""}), None, {}
                self.start_reading()
        elif not probe.overdue:
            # It hangs no more. What it printed may be older than what single interfaces have said since.
            self.round.names, self.round.waiting, self.memos = frozenset(), deque(), {}
            probe.clear()
            self.start_reading()

    def take_list(self, answer: Answer, blocks: Iterable[bytes], _: str) -> None:
        # Which interfaces exist. Nothing else proves that one is gone.
        names = b"".join(blocks).decode("ascii", "replace").split()
        self.round.listed = listed = None if answer.why else self.watchable(names)
        if listed is not None:
            self.round.names &= listed
            self.memos = {name: memo for name, memo in self.memos.items() if name in listed}
            self.enter(Reading(frozenset(), [], None, others=listed), answer)
        self.round.add(self.interfaces())

    def no_reading(self, why: str) -> None:
        self.counts.update(("readings", "failed"))
        self.clocks.compare(moment())
        begins = "No reading: %s; peers keep their state" % why
        self.faults.begin(Fault("reading", "", begins, "Readings resumed", (self.table.last or NOT_YET).boot))
        self.read = self.read or False

    def take(self, answer: Answer, blocks: Iterable[bytes], interface: str = "") -> None:
        # What `wg` printed about all interfaces, or about one: nothing if that failed.
        memo = self.memos[interface] = self.memos.get(interface) or Memo()
        reading = parse(blocks, answer.complaints, memo, (i[0] for i in self.table.rows), self.settings.interface)
        if interface:
            unreadable = frozenset({interface} - reading.interfaces - reading.invalid.keys())
            reading = reading._replace(unreadable=unreadable, others=self.round.names - {interface} | {""})
        self.enter(reading, answer)

    def enter(self, reading: Reading, answer: Answer) -> None:
        now = self.reading_at = answer.at
        self.counts.update(readings=1, failed=int(answer.why != ""))
        self.clocks.compare(moment())  # not with `now`: of several runs of `wg`, one that began earlier may end later
        if is_whole(reading):
            self.judge_gap(now)
            self.faults.end("reading")
        # After `wg` has answered: a peer is in its file before it is at the interface.
        unnamed, names = self.names.look(), self.names.known
        renamed = self.table.names is not names
        if renamed:
            rename(self.table, names, complete=False)
        faults, last = [*faults_of(reading, self.table, self.settings), *unnamed], self.table.sessions
        # A crash must lose neither the first reading, which may change every row, nor blind time. A `wg` that is always
        # late must not cause a checkpoint at each reading.
        first = not reading.interfaces <= self.table.seen.keys() or self.late and "late" not in self.faults
        unread = {name for kind, name in self.faults.open if kind == "unreadable"}
        self.table.gaps = gaps = gaps_of(self.table, reading.interfaces | unread, now, self.patience)
        events = decide(self.table, reading, now, self.settings)
        # An interface that goes while it cannot be read was not watched either.
        gaps = {n: gap for n, gap in gaps.items() if n in reading.interfaces or not self.table.interfaces[n].up}
        for name, gap in gaps.items():  # of one interface. Right after a gap of all, it is the same one.
            if name in unread or now.boot - self.blinded > self.patience:
                self.blind(Moment(now.wall - gap, now.boot - gap), now, "unreadable" if name in unread else "late", name)
        if renamed and not unnamed:  # now that a peer which was removed, in the file as well, has its last line
            rename(self.table, names, complete=True)
        if self.first is None:
            self.first, self.first_session = now, self.table.sessions
        events = add_gaps(self.table, events, last, gaps, now) if gaps else events
        if self.store is not None and "store" not in self.faults:
            with self.store_faults():
                events = self.store.look_up(events)  # before their own addresses are in it
        self.faults.compare(faults, reading)
        self.counts.update(skipped=sum(reading.invalid.values()), events=len(events))
        for event in events:
            self.emit(event, event_text(event))
        peers = counted(len(self.table.rows), "peer")
        self.note("DEBUG", "Reading: %d of %s online, %d bytes" % (self.table.online, peers, answer.size))
        self.reading_at = None
        self.read, self.urgent = True, self.urgent or first

    def judge_gap(self, now: Moment) -> None:
        # Reports the time before a reading in which nobody watched.
        watched, last, late = self.watched, self.watched or self.table.last, self.late
        self.watched, self.late = None, not watched and last is not None and now.boot - last.boot > self.patience
        if last is not None and (watched or self.late):
            why = "stopped" if watched else "failed" if "reading" in self.faults else "stalled"
            if why == "stalled" and (late or self.stalled <= last.boot):
                why = "late"
                begins = "Readings are more than two intervals apart: what happens between them is not seen"
                self.faults.begin(Fault("late", "", begins, "Readings are on time again", last.boot))
            self.blind(last, now, why)
            self.blinded = now.boot
        elif now.boot - self.blinded > self.settings.interval / 2:  # of two that come late together, the second is late
            self.faults.end("late")

    def blind(self, begin: Moment, end: Moment, why: str, interface: str = "") -> None:
        # Every gap between two readings, of all interfaces or of one, comes through here. Faults report some of them.
        period = "from %s to %s" % (stamp(int(begin.wall)), stamp(int(end.wall)))
        if why in ("stopped", "stalled"):
            self.warn("Not watching " + period)
        if why == "replaced":
            self.warn("%s was replaced and lacks what happened %s" % (printable(self.settings.state_path), period))
        if self.store is not None:
            self.store.add_gap(begin.wall, end.wall, interface or None, why)

    def conclude(self) -> None:
        # The end of a turn with readings, or with attempts.
        read, urgent, now = self.read, self.urgent, time.monotonic()
        self.read, self.urgent = None, False
        due = now >= self.checkpoint
        if due:
            self.checkpoint = now + CHECKPOINT_S
            self.prune_history()
        if self.trail is not None and "trail" in self.faults and not self.outbox.delivered.missing:
            with suppress(OSError):  # lines that wait are the better probe
                self.trail.probe()
                self.recovered("trail")
        self.flush(checkpoint=bool(read) and (due or urgent))
        if self.store is not None and "store" not in self.faults:
            last = self.table.last if read else None
            with self.store_faults():
                self.store.take_note(self.outbox.delivered.last, self.table.sessions, last, self.counts)
        if read and not gc.isenabled():
            gc.freeze()  # the table stays: the collector would look at each of its rows, again and again
            gc.set_threshold(VALUES_PER_COLLECTION)
            gc.enable()
        up = counted(sum(interface.up for interface in self.table.interfaces.values()), "interface")
        status = "STATUS=%d of %s online, %s" % (self.table.online, counted(len(self.table.rows), "peer"), up)
        status += "".join("; " + fault.begins for fault, _ in islice(self.faults.open.values(), 1))
        if not self.ready:
            self.ready = self.manager.tell("READY=1", status)
        elif status != self.status and self.manager.tell(status):
            self.status = status

    def prune_history(self) -> None:
        if self.clocks.steady < DAY_S or "store" in self.faults:
            return  # only a wall clock that has run this long without a step may delete history
        now = moment()
        names = forget(self.table, now, self.settings.history_days)
        if names:
            self.memos.clear()
        if self.store is not None:
            with self.store_faults():
                self.store.forget(names, now)
                self.store.prune(now.wall - self.settings.history_days * DAY_S, self.outbox.delivered.complete)

    def reap_hooks(self) -> None:
        for run in self.hooks.reap():
            failed = run.overdue or run.process.returncode != 0
            self.counts.update(hooks=1, hook_failures=int(failed))
            self.note("WARN" if failed else "DEBUG", run.words())

    def start_hooks(self) -> None:
        hooks, queue, store = self.hooks, self.hooks.queue, self.store
        held = store is not None and store.saved is None and store.existed
        if not (queue.waiting or "queue" in self.faults) or (held and time.monotonic() < self.started + HOOKS_HELD_S):
            return
        waited = counted(len(queue.waiting), "run")
        for report in hooks.start(moment().boot):
            self.counts.update(("hooks", "hook_failures"))
            self.warn(report)
        path = printable(hooks.path)
        if hooks.unfit:
            begins = "The hook %s is not run: %s; its runs wait" % (path, hooks.unfit)
            self.faults.begin(Fault("hook", "", begins, "The hook %s runs again" % path))
        else:
            self.faults.end("hook", more="; %s waited" % waited)
        if queue.lost:
            begins = "More than %d hook runs are waiting: the oldest are dropped" % HOOKS_WAITING_MAX
            self.faults.begin(Fault("queue", "", begins, ""))
        if "queue" in self.faults and not queue.waiting:
            self.faults.end("queue")
            self.report_dropped("; none is waiting now")

    def report_dropped(self, more: str = "") -> None:
        dropped, self.hooks.queue.lost = self.hooks.queue.lost, 0
        if dropped:
            self.warn("%s %s dropped%s" % (counted(dropped, "hook run"), "was" if dropped == 1 else "were", more))

    def mark_hooks(self) -> None:
        # Tells the store which hook runs are over, once it has their events.
        saved = self.outbox.unsaved[0].seq - 1 if self.outbox.unsaved else self.outbox.delivered.last
        marks = {seq: mark for seq, mark in self.hooks.queue.marks.items() if seq <= saved}
        if marks and "store" not in self.faults:
            with self.store_faults():
                if self.store is not None:
                    self.store.mark_hooks(marks)
                for seq in marks:
                    del self.hooks.queue.marks[seq]

    def reload(self) -> None:
        # SIGHUP: opens the trail again.
        self.manager.tell("RELOADING=1", "MONOTONIC_USEC=%d" % (time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))
        if self.trail is not None:
            self.trail.reopen()
            with suppress(OSError):  # reported at the next line
                self.trail.position()
        self.note("DEBUG", "The trail was opened again")
        self.flush()
        if self.ready:
            self.manager.tell("READY=1")

    def print_statistics(self) -> None:
        c, table, queue = self.counts, self.table, self.hooks.queue
        text = "Statistics | Readings: %d (%d failed, %d late), Events: %d, Skipped lines: %d, Peers: %d online of %d"
        text %= (c["readings"], c["failed"], self.grid.skipped, c["events"], c["skipped"], table.online, len(table.rows))
        more = (c["hooks"], c["hook_failures"], len(queue.waiting), queue.dropped, c["trail_failures"] + c["store_failures"])
        text += ", Hooks: %d run, %d failed, %d waiting, %d dropped, Writes: %d failed" % more
        kept = max(len(self.outbox.unsaved), len(self.outbox.unwritten))
        if kept or self.console.dropped:
            text += ", Lines: %d kept, %d dropped by the console" % (kept, self.console.dropped)
        self.console.begin()
        last, event = self.outbox.delivered.last, Event("STATS", time.time())
        record = Record(last, event, render(last, event, text, self.settings.log_format), HOOK_NONE)
        self.console.write(record, self.settings.log_format == "text")

    def finish(self) -> None:
        # Within 8 s: waits for running hooks for a while, and saves everything.
        self.manager.tell("STOPPING=1", "STATUS=Stopping")
        for probe in self.probes:
            probe.kill()
        deadline = time.monotonic() + HOOK_GRACE_S
        while self.hooks.running and time.monotonic() < deadline:
            self.wait(min(deadline, self.hooks.deadline()))
            self.reap_hooks()
        ready = len(list(self.hooks.queue.ready(frozenset(), moment().boot)))
        left, held = len(self.hooks.running) + ready, len(self.hooks.queue.waiting) - ready
        for run in self.hooks.running.values():
            kill_group(run.process.pid)
        self.report_dropped()
        kept = self.store is not None and self.store.saved is not None
        rest = " for the next start" if kept else ", and lost without a store"
        ends = (left, "did not finish" + "; they run again at the next start" * kept), (held, "held back" + rest)
        for count, how in ends:
            if count:
                self.warn("%s %s" % (counted(count, "hook run"), how))
        self.note("STOP", "Monitor stopped | Watched: %s, Readings: %d (%d failed), Events: %d" % (
            duration(time.monotonic() - self.started), *itemgetter("readings", "failed", "events")(self.counts)
        ))  # fmt: skip
        self.flush(checkpoint=self.table.last is not None)
        self.mark_hooks()
        for sink in (self.store, self.trail):
            if sink is not None:
                sink.close()


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


def a_boolean(text: str) -> bool:
    if text.lower() not in ("true", "yes", "1", "false", "no", "0"):
        raise ValueError("true, yes, 1, false, no or 0")
    return text.lower() in ("true", "yes", "1")


def interface_names(text: str) -> frozenset[str]:
    names = [name.strip() for name in text.split(",")] if text else []
    if not all(INTERFACE_NAME.fullmatch(name) for name in names):
        raise ValueError("interface names of 1 to 15 letters, digits and _=+.- separated by commas")
    return frozenset(names)


def kinds(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(","))
    if not names.issubset(EVENT_KINDS):
        raise ValueError("events separated by commas: " + ", ".join(EVENT_KINDS))
    return names


def a_path(text: str) -> str:
    if text and (not text.startswith("/") or text.endswith("/") or not text.isprintable()):
        raise ValueError("an absolute path, without a slash at its end and control characters")
    return text


def some_paths(text: str) -> tuple[str, ...]:
    return tuple(a_path(path.strip().rstrip("/") or "none") for path in text.split(",")) if text else ()


# One setting. Flags, variables, help, the default file, the manual page and the READMEs follow from it.
class Option(NamedTuple):
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


SECONDS, DELAY = whole_number(1, 31_536_000, "seconds"), whole_number(0, 31_536_000, "seconds")
SIGN = a_choice("handshake", "traffic")

OPTIONS = (
    Option("LOG_PATH", "/var/log/wg_monitor.log", "FILE", a_path, "the trail, under /var/log or /tmp"),
    Option("LOG_FORMAT", "text", "FORMAT", a_choice("text", "json"), "format of the trail: text or json"),
    Option("INTERVAL", "30", "SECONDS", SECONDS, "seconds between two readings"),
    Option("THRESHOLD", "180", "SECONDS", SECONDS, "age of the handshake at which a peer is offline, in seconds"),
    Option("LIVENESS", "handshake", "SIGN", SIGN, "sign of life: handshake, or traffic (received bytes count too)"),
    Option("STATS_INTERVAL", "3600", "SECONDS", SECONDS, "seconds between two lines of statistics on the console"),
    Option("INTERFACE", "", "NAMES", interface_names, "interfaces to watch, separated by commas; empty: all"),
    Option("ON_CHANGE_SCRIPT", "", "FILE", a_path, "the hook: a program to run when a peer changes; empty: none"),
    Option("SCRIPT_TIMEOUT", "30", "SECONDS", SECONDS, "seconds after which a hook is killed"),
    Option("SCRIPT_DELAY", "0", "SECONDS", DELAY, "seconds that the hook for OFFLINE waits for the peer's return"),
    Option("SCRIPT_EVENTS", "ONLINE,OFFLINE,REMOVED", "EVENTS", kinds, "events that run the hook, separated by commas"),
    Option("STATE_PATH", "", "FILE", a_path, "the store, under /var/lib, /run or /tmp; empty: none"),
    Option("HISTORY_DAYS", "365", "DAYS", whole_number(1, 36_500, "days"), "days of history that the store keeps"),
    Option("PEER_NAMES", "", "PATHS", some_paths, "files and directories with peers' names, separated by commas"),
    Option("DEBUG", "false", "", a_boolean, "report every step: true or false; the flag alone means true"),
)


def parse_settings(flags: Mapping[str, str | None], environment: Mapping[str, str], wrong: Any = None) -> Settings:
    # A flag overrides a variable, an empty value means unset. Errors: Refusal. `wrong`: a dictionary that takes them all
    # instead, by field, while the defaults replace the values.
    values: dict[str, Any] = {"names": {}}
    for option in OPTIONS:
        flag = flags.get(option.field)
        text = flag or environment.get(option.variable) or option.default
        name = values["names"][option.field] = option.flag if flag else option.variable
        try:
            values[option.field] = option.parse(text)
        except ValueError as allowed:
            found = "%s: '%s' is invalid" % (name, printable(text, 80))
            refusal = Refusal(found, "no default replaces it", "use %s" % allowed)
            if wrong is None:
                raise refusal from None
            wrong[option.field], values[option.field] = refusal, option.parse(option.default)
    return Settings(**values)


def meant_by(name: str) -> str:
    # The settings that the name of none probably means; "" = it means none.
    def resembles(ours: str) -> bool:
        # They differ in one place by two characters at most, or begin with the same word.
        same = len(os.path.commonprefix([name, ours])) + len(os.path.commonprefix([name[::-1], ours[::-1]]))
        return same >= max(len(name), len(ours)) - 2 or ours.startswith(name.partition("_")[0] + "_")

    name = name.upper()
    return ", ".join(option.variable for option in OPTIONS if resembles(option.variable))


def no_setting(name: str) -> str:
    return "%s is not a setting and has no effect; similar ones: %s" % (printable(name, 80), meant_by(name) or "none")


def mistaken(environment: Mapping[str, str]) -> list[str]:
    # The variables that are nearly settings. systemd itself sets the two at the end.
    others = environment.keys() - {option.variable for option in OPTIONS} - {"STATE_DIRECTORY", "LOG_NAMESPACE"}
    return sorted(filter(meant_by, others))


def find_place(name: str, path: str, roots: Sequence[str], judge: Callable[[str], str]) -> str:
    # The path of a file with its directory resolved. `judge` says why the file cannot be used; "" = it can. Errors:
    # Refusal. Root without CAP_DAC_OVERRIDE is subject to ownership.
    found = "%s: '%s' cannot be used" % (name, printable(path))
    try:
        directory, file = os.path.realpath(os.path.dirname(path)), os.path.basename(path)
        resolved = [os.path.realpath(root) for root in roots]
        if file in ("", ".", "..") or not any(os.path.commonpath((root, directory)) == root for root in resolved):
            raise Refusal(found, "it is not under %s" % " or ".join(roots), "choose a path there")
        if not os.path.isdir(directory):
            raise Refusal(found, "there is no directory %s" % printable(directory), "create it first")
        why = judge(directory + "/" + file)
        if why:
            raise Refusal(found, why, "choose another path")
        # A file system that is read-only now may be repaired while the monitor runs.
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
        if not read_only and not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            why = "%s may not write to %s" % (user_name(os.geteuid()), owner_of(directory))
            raise Refusal(found, why, "change its owner or choose another path", EXIT_NOT_PERMITTED)
    except OSError as error:
        raise Refusal(found, reason_of(error), "choose another path") from None
    return directory + "/" + file


def place_of_trail(settings: Settings) -> str:
    def judge(path: str) -> str:
        store = os.path.realpath(os.path.dirname(settings.state_path)) + "/" + os.path.basename(settings.state_path)
        lock = "%s/.%s.lock" % os.path.split(path)
        if settings.state_path and {path, lock} & {store + suffix for suffix in STORE_SUFFIXES}:
            return "it or its lock is a file of the store"
        return judge_trail(os.lstat(path)) if os.path.lexists(path) else ""

    return find_place(settings.names["log_path"], settings.log_path, TRAIL_ROOTS, judge)


def place_of_store(settings: Settings) -> str:
    # "" = there is none. Errors: Refusal.
    def judge(path: str) -> str:
        for file in (path + suffix for suffix in STORE_SUFFIXES):
            if os.path.lexists(file) and not stat.S_ISREG(os.lstat(file).st_mode):
                return "%s is not a regular file" % printable(file)
        directory = os.path.dirname(path)
        if os.stat(directory).st_mode & 0o022:  # nor may it be a sticky one
            return "others can write to %s" % owner_of(directory)
        why = follow(directory + "/", {0, os.geteuid()})[1]
        return why and "others can replace its directory: " + why

    path = settings.state_path
    return path and find_place(settings.names["state_path"], path, STORE_ROOTS, judge)


def fit_script(settings: Settings) -> str:
    # "" = there is none. Errors: Refusal.
    path = settings.on_change_script
    why = judge_script(path)[1] if path else ""
    if why:
        name, remedy = settings.names["on_change_script"], "make it an executable file that only root can change"
        raise Refusal("%s: '%s' is unfit" % (name, printable(path)), why, remedy)
    return path


def judge_permission() -> str:
    # The user's name. Errors: Refusal.
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", read_text("/proc/self/status"), re.M)
    capabilities = int(match.group(1), 16) if match else 0
    user = user_name(os.geteuid())
    if os.geteuid() != 0 and not capabilities >> CAP_NET_ADMIN & 1:
        found = "%s may not read WireGuard" % user
        raise Refusal(found, "the kernel shows it to root only", "run it with sudo", EXIT_NOT_PERMITTED)
    return user


def build_parser() -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise Refusal("invalid usage", printable(message), "see --help")

    parser = Parser("wg-monitor", allow_abbrev=False)
    parser.usage = "wg-monitor [check [INSTANCE] | test-hook [EVENT] | %s] [OPTION]..." % " | ".join(REPORTS)
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
    parser.description = "Watch WireGuard peers and record who was online when."
    parser.epilog = """Without a command, it watches until it receives SIGTERM. 'check' reports whether everything fits
        that wg-monitor.service uses, or wg-monitor@INSTANCE. 'test-hook' runs the hook once, for an event of a made-up
        peer. %s show what was recorded; each has a --help of its own.
        Exit codes: 0 done, 1 failure, 2 invalid usage or settings, 4 not permitted, 5 wg is not installed."""
    parser.epilog %= ", ".join("'%s'" % name for name in REPORTS)
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version="wg_monitor " + VERSION)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("instance", nargs="?", help=argparse.SUPPRESS)
    source.add_argument("--from-environment", action="store_true", help="also read the settings below from variables")
    for option in OPTIONS:
        default = "; default: " + option.default if option.default else ""
        words = "%s (%s%s)" % (option.meaning, option.variable, default)
        more: dict[str, Any] = {} if option.metavar else {"nargs": "?", "const": "true"}
        parser.add_argument(option.flag, metavar=option.metavar or "=BOOLEAN", help=words, **more)
    return parser


def parse_arguments(words: Sequence[str]) -> dict[str, Any]:
    # Flags, command and instance by name. Errors: Refusal, which names an unknown flag but not the value after it.
    # argparse would take the word after --debug for its value.
    known, unknown = build_parser().parse_known_args(["--debug=true" if word == "--debug" else word for word in words])
    wrong = [known.command] * (known.command not in (None, "check"))
    wrong = [*wrong, *unknown] if words[:1] == wrong else [*unknown, *wrong]  # in their order
    if wrong:
        what = "argument" if wrong[0][:1] == "-" else "command" if words[:1] == wrong[:1] else "word"
        raise Refusal("invalid usage", "unknown %s '%s'%s" % (
            what, printable(wrong[0]), "; flags come last" * (what == "word")
        ), "see --help")  # fmt: skip
    return dict(vars(known))


# --- The command check --------------------------------------------------------------------------------------------


# A line of a settings file: blank, a comment, or after `NAME=` quoted strings and then a bare word; otherwise it is
# refused. systemd before version 254 continues a comment after a backslash.
VALUE = r"""((?:'[^']*'|"(?:[^"\\$`]|\\["\\$`\n])*")*(?:[^\s'"\\$`|&;<>()~]|\\.)*)"""
LINE = r"(?as)[ \t]*(?:#[^\r\n\0]*(?<!\\)|([A-Za-z_]\w*)=" + VALUE + r"[ \t]*)?(?:\n|(?<!\\)\Z)|([^\n]+\n?)"


def assignments(text: str) -> Iterator[tuple[int, str, str]]:
    """The settings of a file as line number, name and value. Without a name: a line that is refused.

    It accepts what systemd (EnvironmentFile= in systemd.exec(5)) and a shell read alike, and runs nothing. The rest, such
    as `$`, `export`, `;` or a comment after a value, is code to a shell and text to systemd."""
    for line in re.finditer(LINE, text):
        name, value, refused = line.groups("")
        pieces = re.findall(r"""(?s)'([^']*)'|"((?:[^"\\]|\\.)*)"|(\\.|[^'"\\])""", value)
        value = "".join(single + re.sub(r"(?s)\\\n|\\(.)", r"\1", other + bare) for single, other, bare in pieces)
        # systemd drops values with control characters, or that are not UTF-8.
        if refused or not re.sub("[\t\n]", "", value).isprintable():
            name, value = "", line.group().strip(" \t\n")
        if name or value:
            yield text.count("\n", 0, line.start()) + 1, name, value


Finding = Tuple[str, Tuple[Any, int]]  # a thing, and in words how it is, with 0 or the exit code that it causes


def read_settings_file(path: str, environment: dict[str, str]) -> Iterator[Finding]:
    # Adds the settings of a unit's file, which need not exist.
    text, words, code = "", path, 0
    try:
        text = read_text(path)
    except OSError as error:
        words, code = "%s: %s" % (words, reason_of(error)), 0 if isinstance(error, FileNotFoundError) else EXIT_FAILURE
    yield "file", (words, code)
    for number, name, value in assignments(text):
        environment[name] = value
        invalid = "'%s' is invalid: a shell and systemd read it differently; use NAME='VALUE'" % printable(value, 80)
        if name != "TZ" and all(name != option.variable for option in OPTIONS):
            yield "file", ("line %d: %s" % (number, no_setting(name) if name else invalid), EXIT_USAGE)


def try_wg(wg: str, settings: Settings) -> tuple[str, int]:
    # What one reading shows and what is wrong with it, and the exit code.
    probe = Probe(wg)
    try:
        probe.start("all", "dump")
    except OSError as error:
        return "%s cannot be run: %s" % (wg, reason_of(error)), EXIT_FAILURE
    answer = None
    while answer is None:
        time.sleep(0.01)
        answer = probe.answer()
    if answer.why:
        return answer.why, EXIT_FAILURE
    reading = parse(probe.blocks(answer.size), answer.complaints, Memo(), (), settings.interface)
    words = [", ".join(sorted(reading.interfaces)) or "no interface", counted(len(reading.peers), "peer")]
    words += [fault.begins for fault in faults_of(reading, Table(), settings)]
    return "; ".join(words), EXIT_FAILURE if words[2:] else 0


def use_of(lock: str) -> str:
    # Which process holds the lock of a file; "" = none. It takes no lock itself, which a starting monitor would find. On
    # overlayfs and btrfs, /proc/locks has another device than stat(2): the process's open files tell. The kernel shows
    # its list in pieces of a page. A lock that moves up meanwhile falls between two of them, so that it takes more looks.
    import glob

    for _ in range(20):
        with suppress(OSError):
            pids = re.findall(r"(?m)^\d+: FLOCK .* WRITE (\d+) \S+:%d " % os.lstat(lock).st_ino, read_text("/proc/locks"))
            for pid, path in ((holder, path) for holder in pids for path in glob.glob("/proc/%s/fd/*" % holder)):
                with suppress(OSError):  # it was closed just now
                    if os.path.samefile(lock, path):
                        return ", in use by process %s (%s)" % (pid, printable(read_text("/proc/%s/comm" % pid)[:-1]))
    return ""


def outcome(judge: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    # A result and 0, or a refusal and its exit code.
    try:
        return judge(*arguments), 0
    except Refusal as refusal:
        return refusal, refusal.code


def findings(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Iterator[Finding]:
    wrong: dict[str, Refusal] = {}
    settings = parse_settings(flags, environment, wrong)
    if settings.threshold <= settings.interval and not wrong.keys() & {"threshold", "interval"}:
        found = "%s: '%d' is not above the interval" % (settings.names["threshold"], settings.threshold)
        wrong["threshold"] = Refusal(found, "a peer can come and go unseen", "use more than %d" % settings.interval)
    invalid: list[tuple[Any, int]] = [(refusal, refusal.code) for refusal in wrong.values()]
    yield from (("settings", result) for result in invalid or [(started_text(settings).partition(" | ")[2], 0)])
    if settings.peer_names:
        names = Names(settings.peer_names)
        missing = [fault.begins for fault in names.look()]
        yield "names", ("; ".join([counted(len(names.known), "name"), *missing]), EXIT_FAILURE if missing else 0)
    # The first start creates it.
    to_come = not os.path.lexists(STATE_DIRECTORY) and os.path.dirname(settings.state_path) == STATE_DIRECTORY
    permission, wg = outcome(judge_permission), outcome(find_wg)
    yield from (("permission", permission), ("wg", wg))
    if not permission[1] and not wg[1]:
        yield "reading", try_wg(wg[0], settings)
    places = (
        ("trail", place_of_trail, "log_path", "%s/.%s.lock" % os.path.split(settings.log_path)),
        ("store", place_of_store, "state_path", settings.state_path + ".lock"),
        ("hook", fit_script, "on_change_script", ""),
    )
    for what, judge, field, lock in places:
        if field not in wrong:
            words, code = outcome(judge, settings)
            if code and what == "store" and settings.names[field] == "STATE_PATH" and to_come:
                words, code = settings.state_path + ", whose directory the first start creates", 0
            yield what, ("%s%s" % (words or "none (%s is not set)" % field.upper(), use_of(lock)), code)


def check(flags: Mapping[str, str | None], environment: Mapping[str, str] | None, instance: str | None = None) -> int:
    # `wg-monitor check`: one line for each thing that has to be fit. The exit code is that of the first misfit. Without
    # an environment, it takes that of the service or of an instance.
    found: list[Finding] = [("settings", (no_setting(name), EXIT_USAGE)) for name in mistaken(environment or {})]
    if environment is None:
        environment, found = settings_of_unit(instance)
    found += findings(flags, environment)
    for what, (words, code) in found:
        print("%s  %-12s %s" % ("FAIL" if code else "ok  ", what, printable(str(words), 1000)))
    return next((code for _, (_, code) in found if code), 0)


def settings_of_unit(instance: str | None) -> tuple[dict[str, str], list[Finding]]:
    # The environment of the service or of an instance, and what is to be said about its file.
    suffix = "-" + instance if instance else ""
    environment = {"STATE_PATH": "%s/state%s.db" % (STATE_DIRECTORY, suffix)}
    if instance:
        environment.update(INTERFACE=instance, LOG_PATH="/var/log/wg_monitor%s.log" % suffix)
    return environment, list(read_settings_file("/etc/default/wg-monitor" + suffix, environment))


# --- The command test-hook ----------------------------------------------------------------------------------------

NOBODY = "test/hook/of/wg/monitor/this/is/no/peer///A="


def made_up(kind: str, now: float) -> Event:
    # An event of a peer that cannot exist: its addresses are for documentation (RFC 5737, RFC 3849).
    if kind in ("IFDOWN", "IFUP"):
        return Event(kind, now, "wg-test", peers=3, online_peers=2)
    gone, before = kind in ("OFFLINE", "REMOVED"), "198.51.100.23:51820" if kind == "ROAMING" else "192.0.2.9/32"
    peer = ("wg-test", NOBODY, "203.0.113.7:51820", "192.0.2.10/32,2001:db8::10/128", int(now) - 200, int(not gone))
    session = Session(1, now - 3600, 0.0, 0, 0, 0.0, "203.0.113.7:51820")
    ended = Ended(session, now - 200, 3400.0, 1_234_567, 7_654_321, "idle") if gone else None
    event = Event(kind, now, *peer, session=session, before=before, ended=ended, name="nobody")
    return event._replace(first_seen=kind in ("ONLINE", "ROAMING"))


def try_hook(words: Sequence[str]) -> int:
    # One run of the hook as the daemon would make it. The exit code is 0 if the hook's is. Errors: Refusal.
    kind = words[0] if words and not words[0].startswith("-") else "OFFLINE"
    if kind not in EVENT_KINDS:
        raise Refusal("invalid usage", "'%s' is no event" % printable(kind), "use one of " + ", ".join(EVENT_KINDS))
    flags = parse_arguments(words[words[:1] == [kind] :])
    settings = parse_settings(flags, os.environ if flags["from_environment"] else settings_of_unit(None)[0])
    runner = HookRunner(fit_script(settings), settings.script_timeout, select.poll(), 0)
    if not runner.path:
        raise Refusal("ON_CHANGE_SCRIPT is not set", "there is no hook", "set it, or use --on-change-script FILE")
    record, began = Record(0, made_up(kind, time.time()), b"", HOOK_DUE), time.monotonic()
    print("\n".join("%s=%s" % variable for variable in hook_environment(record).items()))
    os.umask(0o022)
    runner.queue.add(record, 0.0)
    said, failed = "".join(runner.start(0.0)) or "The hook is not run: " + runner.unfit, True
    while runner.running:
        for reader, _ in runner.poll.poll(20):
            runner.hear(reader)
        for run in runner.reap():
            said, failed = run.words(), run.overdue or run.process.returncode != 0
    print("%s (%.1f s)" % (said, time.monotonic() - began))
    return EXIT_FAILURE if failed else 0


def hand_over(words: Sequence[str]) -> int:
    # A command of the second file, which lies beside this one. Errors: Refusal.
    import importlib.util

    here = os.path.realpath(__file__)
    path = os.path.dirname(here) + "/wg_report.py"
    found, remedy = "%s needs %s" % (words[0], printable(path)), "copy it there from where wg_monitor.py comes from"
    try:
        own, status = os.stat(here), os.stat(path)
    except OSError as error:
        raise Refusal(found, reason_of(error), remedy, EXIT_FAILURE) from None
    if status.st_uid != own.st_uid or status.st_mode & ~own.st_mode & 0o022:
        raise Refusal(found, "others can change it, but not wg_monitor.py", "give it the same owner and mode")
    spec = importlib.util.spec_from_file_location("wg_report", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["wg_report"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return int(module.main(words))


def watch(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> int:
    # The daemon. It refuses all the administrator's mistakes before it touches anything.
    gc.disable()  # until the first reading: what it creates stays, and the collector would look for garbage in vain
    settings = parse_settings(flags, environment)
    judge_permission()
    path, state_path = place_of_trail(settings), place_of_store(settings)
    fit_script(settings)
    wg = find_wg()
    console, manager = Console(os.environ.pop("JOURNAL_STREAM", "")), Notifier(os.environ)
    os.umask(0o022)  # for the hook, too; what is not for others is created with a mode of its own
    os.chdir("/")
    store = Store(state_path, settings.names["state_path"]) if state_path else None
    trail = open_own_trail(path, waiting=store is not None)
    return Monitor(settings, wg, console, trail, store, manager).run(mistaken(environment))


def open_own_trail(path: str, waiting: bool) -> Trail | None:
    # The trail; None if another monitor writes to it, unless lines can wait for it in a store.
    trail = Trail(path)
    try:
        trail.open()
    except OSError as error:  # a fault of the environment: reported and retried at the first line
        if isinstance(error, TrailBusy) and not waiting:
            return None
    return trail


def report_bug(kind: Any, error: BaseException, trace: Any) -> None:
    # A traceback. Whatever looks like a key in the error's message is masked.
    import traceback

    sys.stderr.write("%s%s: %s\n" % ("".join(traceback.format_tb(trace)), kind.__name__, printable(str(error))))


def hold_standard_streams() -> None:
    # A standard stream that is closed leaves its number to the next file that is opened, which must not be the trail or
    # the store.
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open("/dev/null", os.O_RDWR)
    os.close(descriptor)
    # Python has no object for one that was closed, and print() then takes the other one.
    sys.stdout, sys.stderr = sys.stdout or open(1, "w"), sys.stderr or open(2, "w")


def main(argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the monitor handles it: Ctrl-C prints no traceback
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if the parent ignored it, nobody would know how a child ended
    signal.pthread_sigmask(signal.SIG_UNBLOCK, Wakeup.SIGNALS)  # a blocked signal is inherited, and would be lost
    hold_standard_streams()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # private keys pass through this memory
    sys.excepthook = report_bug
    try:
        words = sys.argv[1:] if argv is None else argv
        if words and words[0] in REPORTS:
            return hand_over(words)
        if words and words[0] == "test-hook":
            return try_hook(words[1:])
        arguments = parse_arguments(words)
        command, instance = arguments.pop("command"), arguments.pop("instance")
        environment = os.environ if arguments.pop("from_environment") else None
        return check(arguments, environment, instance) if command else watch(arguments, environment or {})
    except Refusal as refusal:
        print("wg_monitor: %s" % refusal, file=sys.stderr)
        return refusal.code


if __name__ == "__main__":
    sys.exit(main())
