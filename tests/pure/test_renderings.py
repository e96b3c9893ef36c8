"""What is written of an event: the line that people's scripts read, the JSON object, the hook's environment."""

import json
from typing import Any, Dict, Iterator, NamedTuple, Optional

import pytest

import wg_monitor
from values import chosen, ids, zone
from wg_monitor import Ended, Event, Known, Meter, Session

KEY = "AbC1dEf2" + "x" * 28 + "4xYz5678"  # its length is of no matter here; its ends are the example's
TEN = 1_698_400_800  # 2023-10-27 10:00:00 UTC


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    with zone("UTC"):
        yield


def clock(text: str) -> int:
    """10:01:25 of that day, in seconds since the epoch."""
    hours, minutes, seconds = map(int, text.split(":"))
    return TEN - 36_000 + hours * 3600 + minutes * 60 + seconds


SESSION = Session(7, clock("10:01:25"), 0.0, 0, 0, 0.0, "192.0.2.1:5")
ENDED = Ended(7, clock("10:01:25"), clock("10:30:00") + 0.5, 1715.5, 2**62, 42, "192.0.2.1:5", 60.4, "unreachable")


def peer(handshake: str = "10:01:25", session: Optional[Session] = None, **changes: Any) -> Known:
    shook = clock(handshake) if handshake else 0
    packed = session.packed() if session else b""
    meter = Meter(("wg0", KEY), 0, 0)
    known = Known("192.168.1.50:51820", "10.0.0.1/32", shook, shook, 0.0, packed, meter)
    return known._replace(**changes)


class Line(NamedTuple):
    name: str
    event: Event
    line: str


def line(event: Event) -> str:
    text = wg_monitor.event_text(event)
    return wg_monitor.render(1, event.wall, event.kind, text, event, "text").decode()


EXAMPLES = [
    Line(
        "a new peer online",
        Event("ONLINE", clock("10:01:30"), "wg0", peer(session=SESSION), new=True),
        "2023-10-27 10:01:30 ONLINE  [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] new (handshake: 10:01:25)\n",
    ),
    Line(
        "a peer offline",
        Event("OFFLINE", clock("10:45:00"), "wg0", peer(), ended=ENDED),
        "2023-10-27 10:45:00 OFFLINE [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: 10:01:25)\n",
    ),
    Line(
        "a peer online again",
        Event("ONLINE", clock("11:15:20"), "wg0", peer("11:15:15", SESSION)),
        "2023-10-27 11:15:20 ONLINE  [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: 11:15:15)\n",
    ),
    Line(
        "a new peer offline that never shook hands, with nothing else known",
        Event("OFFLINE", TEN, "site-b", peer("", endpoint="", allowed_ips=""), new=True),
        "2023-10-27 10:00:00 OFFLINE [site-b] AbC1dEf2...4xYz5678 (N/A) [IP: N/A] new (handshake: Never)\n",
    ),
    Line(
        "a handshake of another day",
        Event("OFFLINE", TEN + 86_400, "wg0", peer()),
        "2023-10-28 10:00:00 OFFLINE [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1]"
        " (handshake: 2023-10-27 10:01:25)\n",
    ),
    Line(
        "a handshake that fell to 0 shows the last one known",
        Event("OFFLINE", clock("10:45:00"), "wg0", peer()._replace(handshake=0)),
        "2023-10-27 10:45:00 OFFLINE [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: 10:01:25)\n",
    ),
    Line(
        "roaming",
        Event("ROAMING", TEN, "wg0", peer(endpoint="[2001:db8::1]:9"), before="192.168.1.50:51820"),
        "2023-10-27 10:00:00 ROAMING [wg0] AbC1dEf2...4xYz5678 ([2001:db8::1]:9) [IP: 10.0.0.1] from 192.168.1.50:51820\n",
    ),
    Line(
        "other allowed IPs",
        Event("CHANGED", TEN, "wg0", peer(allowed_ips="10.0.0.2/32,fd00::2/128"), before="10.0.0.1/32"),
        "2023-10-27 10:00:00 CHANGED [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IPs: 10.0.0.2, fd00::2]"
        " from [IP: 10.0.0.1]\n",
    ),
    Line(
        "no allowed IPs any more",
        Event("CHANGED", TEN, "wg0", peer(allowed_ips="", endpoint=""), before="10.0.0.0/8"),
        "2023-10-27 10:00:00 CHANGED [wg0] AbC1dEf2...4xYz5678 (N/A) [IP: N/A] from [IPs: 10.0.0.0/8]\n",
    ),
    Line(
        "removed",
        Event("REMOVED", TEN, "wg0", peer("")),
        "2023-10-27 10:00:00 REMOVED [wg0] AbC1dEf2...4xYz5678 (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: Never)\n",
    ),
    Line(
        "interface gone",
        Event("IFDOWN", TEN, "wg0", peers=12, online=3),
        "2023-10-27 10:00:00 IFDOWN  [wg0] 12 peers, 3 were online\n",
    ),
    Line(
        "interface gone, with one peer",
        Event("IFDOWN", TEN, "wg0", peers=1, online=1),
        "2023-10-27 10:00:00 IFDOWN  [wg0] 1 peer, 1 was online\n",
    ),
    Line("interface there", Event("IFUP", TEN, "wg0", peers=12), "2023-10-27 10:00:00 IFUP    [wg0] 12 peers\n"),
    Line("interface there, empty", Event("IFUP", TEN, "wg0"), "2023-10-27 10:00:00 IFUP    [wg0] 0 peers\n"),
]


@pytest.mark.parametrize("case", EXAMPLES, ids=ids(EXAMPLES))
def test_line(case: Line) -> None:
    assert line(case.event) == case.line


def test_the_first_line() -> None:
    text = wg_monitor.started_text(chosen())
    expected = b"2023-10-27 10:00:00 Monitor started | Interval: 30s, Threshold: 180s, Stats: 3600s\n"
    assert wg_monitor.render(1, TEN, "START", text, None, "text") == expected


def test_the_first_line_names_the_interfaces_that_are_set() -> None:
    only = wg_monitor.started_text(chosen(interface=frozenset(["wg0"]), interval=5, threshold=60, stats_interval=1))
    assert only == "Monitor started | Interval: 5s, Threshold: 60s, Stats: 1s, Interface: wg0"
    assert wg_monitor.started_text(chosen(interface=frozenset(["wg1", "wg0"]))).endswith(", Interface: wg0,wg1")


@pytest.mark.parametrize("kind", ["WARN", "ERROR", "DEBUG"])
def test_lines_that_are_no_events(kind: str) -> None:
    assert wg_monitor.render(1, TEN, kind, "words", None, "text") == b"2023-10-27 10:00:00 [%s] words\n" % kind.encode()


def test_local_time_is_that_of_the_machine() -> None:
    with zone("XXX-5:45"):
        assert line(EXAMPLES[0].event).startswith("2023-10-27 15:46:30 ")
        assert line(EXAMPLES[0].event).endswith("(handshake: 15:46:25)\n")


def test_what_cannot_be_written_as_text_does_not_stop_a_line() -> None:
    assert wg_monitor.render(1, TEN, "WARN", "a\udcffb", None, "text") == b"2023-10-27 10:00:00 [WARN] a?b\n"


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
        Event("ONLINE", clock("10:01:30"), "wg0", peer(session=SESSION), new=True),
        {**PEER, "time": "2023-10-27T10:01:30+00:00", "event": "ONLINE", "online": True, "new": True, "session": 7},
    ),
    Object(
        "the end of a session",
        Event("OFFLINE", clock("10:45:00"), "wg0", peer(), ended=ENDED),
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
        "nothing known",
        Event("OFFLINE", TEN, "wg0", peer("", endpoint="", allowed_ips=""), new=True),
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
        Event("ROAMING", TEN, "wg0", peer(session=SESSION), before="192.0.2.1:5"),
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
        "other allowed IPs where none were",
        Event("CHANGED", TEN, "wg0", peer(), before=""),
        {**PEER, "time": "2023-10-27T10:00:00+00:00", "event": "CHANGED", "online": False, "from": ""},
    ),
    Object(
        "interface gone",
        Event("IFDOWN", TEN, "wg0", peers=12, online=3),
        {
            "time": "2023-10-27T10:00:00+00:00",
            "event": "IFDOWN",
            "interface": "wg0",
            "peers": 12,
            "online_peers": 3,
        },
    ),
    Object(
        "interface there",
        Event("IFUP", TEN, "wg0", peers=12),
        {"time": "2023-10-27T10:00:00+00:00", "event": "IFUP", "interface": "wg0", "peers": 12},
    ),
]


@pytest.mark.parametrize("case", OBJECTS, ids=ids(OBJECTS))
def test_json(case: Object) -> None:
    written = wg_monitor.render(99, case.event.wall, case.event.kind, "", case.event, "json")
    assert written.endswith(b"}\n")
    assert written.count(b"\n") == 1
    found = json.loads(written)
    assert found == {**case.fields, "seq": 99}
    assert not any(isinstance(value, (dict, list)) for value in found.values())  # flat


def test_json_of_what_is_no_event() -> None:
    written = wg_monitor.render(5, TEN, "WARN", "wörds \u2028", None, "json")
    assert json.loads(written) == {
        "seq": 5,
        "time": "2023-10-27T10:00:00+00:00",
        "event": "WARN",
        "message": "wörds \u2028",
    }
    assert written.isascii() if hasattr(written, "isascii") else max(written) < 128


# --- The hook -----------------------------------------------------------------------------------------------------

WITH_HOOK = chosen(on_change_script="/usr/local/bin/hook")


def test_the_hook_s_environment() -> None:
    event = Event("ONLINE", TEN, "wg0", peer(allowed_ips="10.0.0.1/32,10.1.0.0/24", session=SESSION), new=True)
    job = wg_monitor.job_of(12, event, WITH_HOOK)
    assert job is not None
    assert wg_monitor.hook_environment(job) == {
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


def test_the_hook_s_environment_of_an_interface() -> None:
    settings = WITH_HOOK._replace(script_events=frozenset(["IFDOWN"]))
    job = wg_monitor.job_of(12, Event("IFDOWN", TEN, "wg0", peers=3), settings)
    assert job is not None
    environment = wg_monitor.hook_environment(job)
    assert (environment["PEER_EVENT"], environment["PEER_IFACE"], environment["PEER_PUBKEY"]) == ("IFDOWN", "wg0", "")
    assert (environment["PEER_HANDSHAKE"], environment["PEER_ONLINE"]) == ("0", "0")


def test_the_hook_s_environment_of_an_offline_peer_that_shook_hands_once() -> None:
    job = wg_monitor.job_of(1, Event("OFFLINE", TEN, "wg0", peer()._replace(handshake=0), ended=ENDED), WITH_HOOK)
    assert job is not None
    assert (job.online, job.handshake) == (0, clock("10:01:25"))


ALL_EVENTS = WITH_HOOK._replace(script_events=frozenset(wg_monitor.EVENT_KINDS))


@pytest.mark.parametrize(
    ("event", "settings", "runs"),
    [
        (Event("ONLINE", TEN, "wg0", peer()), WITH_HOOK, True),
        (Event("ONLINE", TEN, "wg0", peer(), new=True), WITH_HOOK, True),
        (Event("OFFLINE", TEN, "wg0", peer()), WITH_HOOK, True),
        (Event("REMOVED", TEN, "wg0", peer()), WITH_HOOK, True),
        (Event("ROAMING", TEN, "wg0", peer()), ALL_EVENTS, True),
        (Event("IFUP", TEN, "wg0"), ALL_EVENTS, True),
        (Event("OFFLINE", TEN, "wg0", peer(), new=True), WITH_HOOK, False),
        (Event("OFFLINE", TEN, "wg0", peer(), new=True), ALL_EVENTS, False),
        (Event("ROAMING", TEN, "wg0", peer()), WITH_HOOK, False),
        (Event("CHANGED", TEN, "wg0", peer()), WITH_HOOK, False),
        (Event("IFDOWN", TEN, "wg0"), WITH_HOOK, False),
        (Event("ONLINE", TEN, "wg0", peer()), chosen(), False),
    ],
    ids=[
        "online", "new and online", "offline", "removed", "roaming, where that is chosen", "interface there, where that is",
        "new and offline: nobody went offline", "new and offline, where all are chosen", "roaming", "changed",
        "interface gone", "no hook",
    ],
)  # fmt: skip
def test_which_events_run_the_hook(event: Event, settings: wg_monitor.Settings, runs: bool) -> None:
    assert (wg_monitor.job_of(1, event, settings) is not None) == runs
