"""How an event is written: as a line of text, as a JSON object, and as the environment of a hook."""

import json
from typing import Any, Dict, NamedTuple, Optional

import pytest

import wg_monitor
from values import chosen, ids, zone
from wg_monitor import HOOK_DUE, Ended, Event, Moment, Record, Session

pytestmark = pytest.mark.usefixtures("utc")

KEY = "AbC1dEf2" + "x" * 28 + "4xYz5678"  # not a real key: only its ends appear in the lines
TEN = 1_698_400_800  # 2023-10-27 10:00:00 UTC


def clock(text: str) -> int:
    """A time of that day, such as 10:01:25, in seconds since the epoch."""
    hours, minutes, seconds = map(int, text.split(":"))
    return TEN - 36_000 + hours * 3600 + minutes * 60 + seconds


SESSION = Session(7, clock("10:01:25"), 0.0, 0, 0, 60.4, "192.0.2.1:5")
ENDED = Ended(SESSION, clock("10:30:00") + 0.5, 1715.5, 2**62, 42, "unreachable")


def peer_event(
    kind: str, wall: float, handshake: str = "10:01:25", session: Optional[Session] = None, **changes: Any
) -> Event:
    shook, online = clock(handshake) if handshake else 0, int(session is not None)
    event = Event(kind, wall, "wg0", KEY, "192.168.1.50:51820", "10.0.0.1/32", shook, online)
    return event._replace(session=session, **changes)


def after_a_reset(**more: Any) -> Event:
    row = wg_monitor.Row(("wg0", KEY))
    row.endpoint, row.allowed_ips = "192.168.1.50:51820", "10.0.0.1/32"
    row.handshake, row.shown = 0, clock("10:01:25")
    return wg_monitor.event_of("OFFLINE", row, Moment(clock("10:45:00"), 0.0), **more)


class Line(NamedTuple):
    name: str
    event: Event
    line: str


def line(event: Event) -> str:
    return wg_monitor.render(1, event, wg_monitor.event_text(event), "text").decode()


EXAMPLES = [
    Line(
        "a new peer online",
        peer_event("ONLINE", clock("10:01:30"), session=SESSION, new=True),
        "2023-10-27 10:01:30 ONLINE  [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] new (handshake: 10:01:25)\n",
    ),
    Line(
        "an offline peer",
        peer_event("OFFLINE", clock("10:45:00"), ended=ENDED),
        "2023-10-27 10:45:00 OFFLINE [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: 10:01:25)\n",
    ),
    Line(
        "a peer with a name",
        peer_event("ONLINE", clock("11:15:20"), "11:15:15", SESSION, name="alice-laptop"),
        "2023-10-27 11:15:20 ONLINE  [wg0] alice-laptop AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1]"
        " (handshake: 11:15:15)\n",
    ),
    Line(
        "roaming of a peer with a name",
        peer_event("ROAMING", TEN, endpoint="[2001:db8::1]:9", before="192.168.1.50:51820", name="Zoë"),
        "2023-10-27 10:00:00 ROAMING [wg0] Zoë AbC1dEf2...4xYz5678 ([2001:db8::1]:9) [IP: 10.0.0.1]"
        " from 192.168.1.50:51820\n",
    ),
    Line(
        "a known peer online",
        peer_event("ONLINE", clock("11:15:20"), "11:15:15", SESSION),
        "2023-10-27 11:15:20 ONLINE  [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: 11:15:15)\n",
    ),
    Line(
        "a new offline peer without a handshake, endpoint and allowed IPs",
        peer_event("OFFLINE", TEN, "", endpoint="", allowed_ips="", interface="site-b", new=True),
        "2023-10-27 10:00:00 OFFLINE [site-b] AbC1dEf2...4xYz5678 (N/A) [IP: N/A] new (handshake: Never)\n",
    ),
    Line(
        "a handshake on another day",
        peer_event("OFFLINE", TEN + 86_400),
        "2023-10-28 10:00:00 OFFLINE [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1]"
        " (handshake: 2023-10-27 10:01:25)\n",
    ),
    Line(
        "the last known handshake after it fell to 0",
        after_a_reset(),
        "2023-10-27 10:45:00 OFFLINE [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: 10:01:25)\n",
    ),
    Line(
        "roaming",
        peer_event("ROAMING", TEN, endpoint="[2001:db8::1]:9", before="192.168.1.50:51820"),
        "2023-10-27 10:00:00 ROAMING [wg0] AbC1dEf2...4xYz5678 ([2001:db8::1]:9) [IP: 10.0.0.1] from 192.168.1.50:51820\n",
    ),
    Line(
        "new allowed IPs",
        peer_event("CHANGED", TEN, allowed_ips="10.0.0.2/32,fd00::2/128", before="10.0.0.1/32"),
        "2023-10-27 10:00:00 CHANGED [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IPs: 10.0.0.2, fd00::2]"
        " from [IP: 10.0.0.1]\n",
    ),
    Line(
        "no allowed IPs left",
        peer_event("CHANGED", TEN, allowed_ips="", endpoint="", before="10.0.0.0/8"),
        "2023-10-27 10:00:00 CHANGED [wg0] AbC1dEf2...4xYz5678 (N/A) [IP: N/A] from [IPs: 10.0.0.0/8]\n",
    ),
    Line(
        "a removed peer",
        peer_event("REMOVED", TEN, ""),
        "2023-10-27 10:00:00 REMOVED [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: Never)\n",
    ),
    Line(
        "an interface goes down",
        Event("IFDOWN", TEN, "wg0", peers=12, online_peers=3),
        "2023-10-27 10:00:00 IFDOWN  [wg0] 12 peers, 3 were online\n",
    ),
    Line(
        "an interface with one peer goes down",
        Event("IFDOWN", TEN, "wg0", peers=1, online_peers=1),
        "2023-10-27 10:00:00 IFDOWN  [wg0] 1 peer, 1 was online\n",
    ),
    Line("an interface comes up", Event("IFUP", TEN, "wg0", peers=12), "2023-10-27 10:00:00 IFUP    [wg0] 12 peers\n"),
    Line("an interface without peers comes up", Event("IFUP", TEN, "wg0"), "2023-10-27 10:00:00 IFUP    [wg0] 0 peers\n"),
]


@pytest.mark.parametrize("case", EXAMPLES, ids=ids(EXAMPLES))
def test_line(case: Line) -> None:
    assert line(case.event) == case.line


def test_the_start_line() -> None:
    text = wg_monitor.started_text(chosen())
    expected = b"2023-10-27 10:00:00 Monitor started | Interval: 30s, Threshold: 180s, Stats: 3600s\n"
    assert wg_monitor.render(1, Event("START", TEN), text, "text") == expected


def test_the_start_line_names_the_configured_interfaces() -> None:
    only = wg_monitor.started_text(chosen(interface=frozenset(["wg0"]), interval=5, threshold=60, stats_interval=1))
    assert only == "Monitor started | Interval: 5s, Threshold: 60s, Stats: 1s, Interface: wg0"
    assert wg_monitor.started_text(chosen(interface=frozenset(["wg1", "wg0"]))).endswith(", Interface: wg0,wg1")


@pytest.mark.parametrize("kind", ["WARN", "ERROR", "DEBUG"])
def test_a_line_that_is_no_event_shows_its_level(kind: str) -> None:
    assert wg_monitor.render(1, Event(kind, TEN), "words", "text") == b"2023-10-27 10:00:00 [%s] words\n" % kind.encode()


def test_lines_show_the_local_time_of_the_machine() -> None:
    with zone("XXX-5:45"):
        assert line(EXAMPLES[0].event).startswith("2023-10-27 15:46:30 ")
        assert line(EXAMPLES[0].event).endswith("(handshake: 15:46:25)\n")


def test_a_character_that_cannot_be_encoded_is_replaced() -> None:
    assert wg_monitor.render(1, Event("WARN", TEN), "a\udcffb", "text") == b"2023-10-27 10:00:00 [WARN] a?b\n"


# --- JSON ---------------------------------------------------------------------------------------------------------

PEER = {
    "interface": "wg0",
    "peer": KEY,
    "endpoint": "192.168.1.50:51820",
    "allowed_ips": "10.0.0.1/32",
    "handshake": "2023-10-27T10:01:25+00:00",
}
OPEN = {"session": 7, "session_start": "2023-10-27T10:01:25+00:00"}


class Object(NamedTuple):
    name: str
    event: Event
    fields: Dict[str, Any]


OBJECTS = [
    Object(
        "a new peer online",
        peer_event("ONLINE", clock("10:01:30"), session=SESSION, new=True),
        {
            **PEER,
            **OPEN,
            "time": "2023-10-27T10:01:30+00:00",
            "event": "ONLINE",
            "online": True,
            "new": True,
        },
    ),
    Object(
        "the end of a session",
        peer_event("OFFLINE", clock("10:45:00"), ended=ENDED),
        {
            **PEER,
            "time": "2023-10-27T10:45:00+00:00",
            "event": "OFFLINE",
            **OPEN,
            "online": False,
            "last_seen": "2023-10-27T10:30:00+00:00",
            "length_s": 1716,
            "received_bytes": 2**62,
            "sent_bytes": 42,
            "unwatched_s": 60,
            "reason": "unreachable",
        },
    ),
    Object(
        "a new peer without a handshake, endpoint and allowed IPs",
        peer_event("OFFLINE", TEN, "", endpoint="", allowed_ips="", new=True),
        {
            **PEER,
            "time": "2023-10-27T10:00:00+00:00",
            "event": "OFFLINE",
            "online": False,
            "new": True,
            "endpoint": None,
            "allowed_ips": "",
            "handshake": None,
        },
    ),
    Object(
        "roaming",
        peer_event("ROAMING", TEN, session=SESSION, before="192.0.2.1:5"),
        {
            **PEER,
            "time": "2023-10-27T10:00:00+00:00",
            "event": "ROAMING",
            **OPEN,
            "online": True,
            "from": "192.0.2.1:5",
        },
    ),
    Object(
        "roaming to an address where it never was",
        peer_event("ROAMING", TEN, session=SESSION, before="192.0.2.1:5", first_seen=True),
        {
            **PEER,
            "time": "2023-10-27T10:00:00+00:00",
            "event": "ROAMING",
            **OPEN,
            "online": True,
            "from": "192.0.2.1:5",
            "first_seen": True,
        },
    ),
    Object(
        "online at an address where it was before",
        peer_event("ONLINE", TEN, session=SESSION, first_seen=False),
        {**PEER, "time": "2023-10-27T10:00:00+00:00", "event": "ONLINE", **OPEN, "online": True},
    ),
    Object(
        "first allowed IPs",
        peer_event("CHANGED", TEN, before=""),
        {**PEER, "time": "2023-10-27T10:00:00+00:00", "event": "CHANGED", "online": False, "from": ""},
    ),
    Object(
        "an interface goes down",
        Event("IFDOWN", TEN, "wg0", peers=12, online_peers=3),
        {
            "time": "2023-10-27T10:00:00+00:00",
            "event": "IFDOWN",
            "interface": "wg0",
            "peers": 12,
            "online_peers": 3,
        },
    ),
    Object(
        "an interface comes up",
        Event("IFUP", TEN, "wg0", peers=12),
        {"time": "2023-10-27T10:00:00+00:00", "event": "IFUP", "interface": "wg0", "peers": 12},
    ),
]


@pytest.mark.parametrize("case", OBJECTS, ids=ids(OBJECTS))
def test_json(case: Object) -> None:
    written = wg_monitor.render(99, case.event, "", "json")
    assert written.endswith(b"}\n")
    assert written.count(b"\n") == 1
    found = json.loads(written)
    assert found == {**case.fields, "seq": 99}
    assert not any(isinstance(value, (dict, list)) for value in found.values())  # flat


def test_json_of_a_line_that_is_no_event() -> None:
    written = wg_monitor.render(5, Event("WARN", TEN), "wörds \u2028", "json")
    assert json.loads(written) == {
        "seq": 5,
        "time": "2023-10-27T10:00:00+00:00",
        "event": "WARN",
        "message": "wörds \u2028",
    }
    assert written.isascii() if hasattr(written, "isascii") else max(written) < 128


# --- The hook -----------------------------------------------------------------------------------------------------

WITH_HOOK = chosen(on_change_script="/usr/local/bin/hook")


SYSTEM = {"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "LANG": "C.UTF-8", "HOME": "/"}
SHORT = "AbC1dEf2...4xYz5678"
SHAKEN = "(192.168.1.50:51820) [IP: 10.0.0.1] (handshake: 10:01:25)"
NOTHING = {
    "PEER_SEQ": "12", "PEER_TIME": str(TEN), "PEER_IFACE": "wg0", "PEER_PUBKEY": "", "PEER_NAME": "", "PEER_ENDPOINT": "",
    "PEER_ALLOWED_IPS": "", "PEER_HANDSHAKE": "0", "PEER_ONLINE": "0", "PEER_NEW": "", "PEER_FIRST_SEEN": "",
    "PEER_PREVIOUS_ENDPOINT": "", "PEER_REASON": "", "PEER_LAST_SEEN": "", "PEER_SESSION": "",
    "PEER_SESSION_START": "", "PEER_SESSION_SECONDS": "", "PEER_SESSION_RX": "", "PEER_SESSION_TX": "",
}  # fmt: skip
SOMEBODY = {
    **NOTHING,
    "PEER_PUBKEY": KEY,
    "PEER_ENDPOINT": "192.168.1.50:51820",
    "PEER_ALLOWED_IPS": "10.0.0.1/32",
    "PEER_HANDSHAKE": str(clock("10:01:25")),
}
IN_SESSION = {**SOMEBODY, "PEER_ONLINE": "1", "PEER_SESSION": "7", "PEER_SESSION_START": str(clock("10:01:25"))}
OVER = {
    **IN_SESSION,
    "PEER_ONLINE": "0",
    "PEER_REASON": "unreachable",
    "PEER_LAST_SEEN": str(clock("10:30:00")),
    "PEER_SESSION_SECONDS": "1716",
    "PEER_SESSION_RX": str(2**62),
    "PEER_SESSION_TX": "42",
}
AT_HOME = peer_event("ONLINE", TEN, session=SESSION, first_seen=False)
ROAMED = peer_event("ROAMING", TEN, session=SESSION, endpoint="[2001:db8::1]:9", before="192.0.2.1:5")

# Every variable is set. What does not apply is empty, but for the two numbers that version 1.0.0 had.
ENVIRONMENTS = [
    (
        "a new peer online",
        peer_event("ONLINE", TEN, session=SESSION, new=True),
        {**IN_SESSION, "PEER_NEW": "1", "PEER_TEXT": "ONLINE  [wg0] %s %s" % (SHORT, SHAKEN.replace("] (", "] new ("))},
    ),
    (
        "a known peer online",
        peer_event("ONLINE", TEN, session=SESSION),
        {**IN_SESSION, "PEER_TEXT": "ONLINE  [wg0] %s %s" % (SHORT, SHAKEN)},
    ),
    (
        "a peer with a name",
        peer_event("ONLINE", TEN, session=SESSION, name="Zoë"),
        {**IN_SESSION, "PEER_NAME": "Zoë", "PEER_TEXT": "ONLINE  [wg0] Zoë %s %s" % (SHORT, SHAKEN)},
    ),
    (
        "a known peer at an address where it was before",
        AT_HOME,
        {**IN_SESSION, "PEER_TEXT": "ONLINE  [wg0] %s %s" % (SHORT, SHAKEN)},
    ),
    (
        "a known peer at an address where it never was",
        AT_HOME._replace(first_seen=True),
        {**IN_SESSION, "PEER_FIRST_SEEN": "1", "PEER_TEXT": "ONLINE  [wg0] %s %s" % (SHORT, SHAKEN)},
    ),
    (
        "the end of a session",
        peer_event("OFFLINE", TEN, ended=ENDED),
        {**OVER, "PEER_TEXT": "OFFLINE [wg0] %s %s" % (SHORT, SHAKEN)},
    ),
    (
        "the end of a session without bytes and length",
        peer_event("OFFLINE", TEN, ended=ENDED._replace(length=0.0, received=0, sent=0, reason="idle")),
        {
            **OVER,
            "PEER_REASON": "idle",
            "PEER_SESSION_SECONDS": "0",
            "PEER_SESSION_RX": "0",
            "PEER_SESSION_TX": "0",
            "PEER_TEXT": "OFFLINE [wg0] %s %s" % (SHORT, SHAKEN),
        },
    ),
    (
        "an online peer is removed",
        peer_event("REMOVED", TEN, ended=ENDED),
        {**OVER, "PEER_TEXT": "REMOVED [wg0] %s %s" % (SHORT, SHAKEN)},
    ),
    (
        "a peer without a handshake, endpoint and allowed IPs is removed",
        peer_event("REMOVED", TEN, "", endpoint="", allowed_ips=""),
        {
            **NOTHING,
            "PEER_PUBKEY": KEY,
            "PEER_TEXT": "REMOVED [wg0] %s (N/A) [IP: N/A] (handshake: Never)" % SHORT,
        },
    ),
    (
        "roaming",
        ROAMED,
        {
            **IN_SESSION,
            "PEER_ENDPOINT": "[2001:db8::1]:9",
            "PEER_PREVIOUS_ENDPOINT": "192.0.2.1:5",
            "PEER_TEXT": "ROAMING [wg0] %s ([2001:db8::1]:9) [IP: 10.0.0.1] from 192.0.2.1:5" % SHORT,
        },
    ),
    (
        "changed allowed IPs",
        peer_event("CHANGED", TEN, before="10.0.0.9/32"),
        {**SOMEBODY, "PEER_TEXT": "CHANGED [wg0] %s (192.168.1.50:51820) [IP: 10.0.0.1] from [IP: 10.0.0.9]" % SHORT},
    ),
    (
        "an interface goes down",
        Event("IFDOWN", TEN, "wg0", peers=12, online_peers=3),
        {**NOTHING, "PEER_TEXT": "IFDOWN  [wg0] 12 peers, 3 were online"},
    ),
    ("an interface comes up", Event("IFUP", TEN, "wg0", peers=1), {**NOTHING, "PEER_TEXT": "IFUP    [wg0] 1 peer"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "event", "expected"), ENVIRONMENTS, ids=ids(ENVIRONMENTS))
def test_the_environment_of_a_hook(name: str, event: Event, expected: Dict[str, str]) -> None:
    found = wg_monitor.hook_environment(Record(12, event, b"", HOOK_DUE))
    assert found == {**SYSTEM, **expected, "PEER_EVENT": event.kind}


def test_the_environment_of_a_hook_has_the_last_known_handshake() -> None:
    environment = wg_monitor.hook_environment(Record(1, after_a_reset(ended=ENDED), b"", HOOK_DUE))
    assert (environment["PEER_ONLINE"], environment["PEER_HANDSHAKE"]) == ("0", str(clock("10:01:25")))


def test_a_fraction_of_a_second_changes_no_time_in_the_environment_of_a_hook() -> None:
    """A hook may compare and subtract them: they are whole numbers, as the lines show them."""
    event = peer_event("OFFLINE", TEN + 0.99, ended=ENDED._replace(last_seen=clock("10:30:00") + 0.99))
    environment = wg_monitor.hook_environment(Record(1, event, b"", HOOK_DUE))
    assert (environment["PEER_TIME"], environment["PEER_LAST_SEEN"]) == (str(TEN), str(clock("10:30:00")))


ALL_EVENTS = WITH_HOOK._replace(script_events=frozenset(wg_monitor.EVENT_KINDS))


@pytest.mark.parametrize(
    ("event", "settings", "runs"),
    [
        (peer_event("ONLINE", TEN), WITH_HOOK, True),
        (peer_event("ONLINE", TEN, new=True), WITH_HOOK, True),
        (peer_event("OFFLINE", TEN), WITH_HOOK, True),
        (peer_event("REMOVED", TEN), WITH_HOOK, True),
        (peer_event("ROAMING", TEN), ALL_EVENTS, True),
        (Event("IFUP", TEN, "wg0"), ALL_EVENTS, True),
        (peer_event("OFFLINE", TEN, new=True), WITH_HOOK, False),
        (peer_event("OFFLINE", TEN, new=True), ALL_EVENTS, False),
        (peer_event("ROAMING", TEN), WITH_HOOK, False),
        (peer_event("CHANGED", TEN), WITH_HOOK, False),
        (Event("IFDOWN", TEN, "wg0"), WITH_HOOK, False),
        (peer_event("ONLINE", TEN), chosen(), False),
    ],
    ids=[
        "online", "new and online", "offline", "removed", "roaming, if it is chosen", "IFUP, if it is chosen",
        "a new offline peer did not go offline", "a new offline peer, if all events are chosen", "roaming", "changed",
        "IFDOWN", "no hook",
    ],
)  # fmt: skip
def test_which_events_run_the_hook(event: Event, settings: wg_monitor.Settings, runs: bool) -> None:
    assert wg_monitor.runs_hook(event, settings) == runs
