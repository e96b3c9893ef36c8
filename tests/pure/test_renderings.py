"""How an event is written: as a line of text, as a JSON object, and as the environment of a hook."""

import json
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

import pytest

import wg_monitor
from values import chosen, ids, zone
from wg_monitor import HOOK_DUE, HOOK_NONE, Ended, Event, Moment, Record, Session

KEY = "AbC1dEf2" + "x" * 28 + "4xYz5678"  # not a real key: only its ends appear in the lines
TEN = 1_698_400_800  # 2023-10-27 10:00:00 UTC


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    with zone("UTC"):
        yield


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


class Object(NamedTuple):
    name: str
    event: Event
    fields: Dict[str, Any]


OBJECTS = [
    Object(
        "a new peer online",
        peer_event("ONLINE", clock("10:01:30"), session=SESSION, new=True),
        {**PEER, "time": "2023-10-27T10:01:30+00:00", "event": "ONLINE", "online": True, "new": True, "session": 7},
    ),
    Object(
        "the end of a session",
        peer_event("OFFLINE", clock("10:45:00"), ended=ENDED),
        {
            **PEER,
            "time": "2023-10-27T10:45:00+00:00",
            "event": "OFFLINE",
            "online": False,
            "session": 7,
            "session_start": "2023-10-27T10:01:25+00:00",
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
            "online": True,
            "session": 7,
            "from": "192.0.2.1:5",
        },
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


def test_the_environment_of_a_hook() -> None:
    event = peer_event("ONLINE", TEN, allowed_ips="10.0.0.1/32,10.1.0.0/24", session=SESSION, new=True)
    assert wg_monitor.hook_environment(Record(12, event, b"", HOOK_DUE)) == {
        "PATH": "/usr/bin:/usr/sbin:/bin:/sbin",
        "LANG": "C.UTF-8",
        "HOME": "/",
        "PEER_EVENT": "ONLINE",
        "PEER_IFACE": "wg0",
        "PEER_PUBKEY": KEY,
        "PEER_ENDPOINT": "192.168.1.50:51820",
        "PEER_ALLOWED_IPS": "10.0.0.1/32,10.1.0.0/24",
        "PEER_HANDSHAKE": str(clock("10:01:25")),
        "PEER_ONLINE": "1",
        "PEER_SEQ": "12",
    }


def test_the_environment_of_a_hook_for_an_interface() -> None:
    """It has every variable: those that an interface lacks are empty or 0."""
    record = Record(12, Event("IFDOWN", TEN, "wg0", peers=3), b"", HOOK_DUE)
    assert wg_monitor.hook_environment(record) == {
        "PATH": "/usr/bin:/usr/sbin:/bin:/sbin",
        "LANG": "C.UTF-8",
        "HOME": "/",
        "PEER_EVENT": "IFDOWN",
        "PEER_IFACE": "wg0",
        "PEER_PUBKEY": "",
        "PEER_ENDPOINT": "",
        "PEER_ALLOWED_IPS": "",
        "PEER_HANDSHAKE": "0",
        "PEER_ONLINE": "0",
        "PEER_SEQ": "12",
    }


def test_the_environment_of_a_hook_has_the_last_known_handshake() -> None:
    environment = wg_monitor.hook_environment(Record(1, after_a_reset(ended=ENDED), b"", HOOK_DUE))
    assert (environment["PEER_ONLINE"], environment["PEER_HANDSHAKE"]) == ("0", str(clock("10:01:25")))


FLAT = [
    ("a line that is no event", Event("WARN", TEN), ("WARN", "", "", "", "", "0", "0")),
    ("an event of an interface", Event("IFUP", TEN, "wg0", peers=3), ("IFUP", "wg0", "", "", "", "0", "0")),
    (
        "an event of a peer",
        peer_event("ONLINE", TEN, session=SESSION),
        ("ONLINE", "wg0", KEY, "192.168.1.50:51820", "10.0.0.1/32", str(clock("10:01:25")), "1"),
    ),
    (
        "an event of a peer without a handshake, endpoint and allowed IPs",
        peer_event("REMOVED", TEN, "", endpoint="", allowed_ips=""),
        ("REMOVED", "wg0", KEY, "", "", "0", "0"),
    ),
]


@pytest.mark.parametrize(("name", "event", "flat"), FLAT, ids=ids(FLAT))
def test_the_environment_has_every_field_of_an_event(name: str, event: Event, flat: Tuple[str, ...]) -> None:
    environment = wg_monitor.hook_environment(Record(5, event, b"", HOOK_NONE))
    fields = ("EVENT", "IFACE", "PUBKEY", "ENDPOINT", "ALLOWED_IPS", "HANDSHAKE", "ONLINE")
    assert tuple(environment["PEER_" + field] for field in fields) == flat
    assert environment["PEER_SEQ"] == "5"


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
