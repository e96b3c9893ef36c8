"""The journal's native protocol, on a real socket that takes the place of journald's."""

import os
import resource
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

import wg_monitor
from wg_monitor import HOOK_NONE, Console, Ended, Event, Record, Session

KEY = "KIjzKP6fFe6inyPkurH0gR7g5bFgAKBizZPwxriWXQs="
SESSION = Session(7, 1_698_400_885.0, 0.0, 0, 0, 0.0, "192.0.2.1:5")
ENDED = Ended(SESSION, 1_698_402_600.5, 1715.5, 2**62, 42, "unreachable")
PEER = ("wg0", KEY, "192.0.2.1:51820", "10.0.0.1/32,10.1.0.0/24", 1_698_400_885)


def record(event: Event, text: str = "", log_format: str = "text", seq: int = 12) -> Record:
    return Record(seq, event, wg_monitor.render(seq, event, text or wg_monitor.event_text(event), log_format), HOOK_NONE)


ONLINE = record(Event("ONLINE", 1_698_400_890.0, *PEER, 1, session=SESSION))
WARNING = record(Event("WARN", 1_698_400_890.0), "Readings resumed after 1m 0s")


class Journal:
    """A socket that receives what journald would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listen()

    def listen(self) -> None:
        if self.path.exists():
            self.path.unlink()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)

    def entries(self) -> List[Dict[str, str]]:
        found: List[Dict[str, str]] = []
        while True:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                return found
            assert data.endswith(b"\n")
            pairs = [line.split("=", 1) for line in data.decode()[:-1].split("\n")]
            assert len({name for name, _ in pairs}) == len(pairs)
            found.append(dict(pairs))


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    monkeypatch.setattr(wg_monitor, "JOURNAL", str(tmp_path / "socket"))
    made = Journal(tmp_path / "socket")
    yield made
    made.socket.close()


class Error:
    """A standard error that the console finds to be the journal's stream."""

    def __init__(self, path: Path) -> None:
        self.path, self.saved = path, -1
        self.made: Optional[Console] = None

    def console(self, stream: str = "") -> Console:
        """pytest has a standard error of its own in each phase of a test, so it is replaced in the test itself."""
        self.saved = os.dup(2)
        with open(str(self.path), "ab") as file:
            os.dup2(file.fileno(), 2)
        status = os.fstat(2)
        self.made = Console(stream or "%d:%d" % (status.st_dev, status.st_ino))
        return self.made

    def lines(self) -> List[str]:
        return self.path.read_text().splitlines()

    def restore(self) -> None:
        os.dup2(self.saved, 2)
        os.close(self.saved)
        if self.made is not None and self.made.socket is not None:
            self.made.socket.close()


@pytest.fixture
def error(tmp_path: Path) -> Iterator[Error]:
    made = Error(tmp_path / "error")
    try:
        yield made
    finally:
        made.restore()


def tell(console: Console, *records: Record, stamped: bool = True) -> None:
    console.begin()
    for each in records:
        console.write(each, stamped)


def test_an_event_arrives_once_with_all_its_fields(journal: Journal, error: Error) -> None:
    tell(error.console(), ONLINE)
    (entry,) = journal.entries()
    assert entry == {
        "MESSAGE": ONLINE.line.decode()[20:-1],
        "MESSAGE_ID": wg_monitor.MESSAGE_IDS["ONLINE"],
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "wg-monitor",
        "WG_EVENT": "ONLINE",
        "WG_SEQ": "12",
        "WG_INTERFACE": "wg0",
        "WG_PEER": KEY,
        "WG_ENDPOINT": "192.0.2.1:51820",
        "WG_ALLOWED_IPS": "10.0.0.1/32,10.1.0.0/24",
        "WG_HANDSHAKE": "1698400885",
    }
    assert error.lines() == []


def test_the_end_of_a_session_has_its_figures(journal: Journal, error: Error) -> None:
    tell(error.console(), record(Event("OFFLINE", 1_698_403_000.0, *PEER, 0, ended=ENDED)))
    (entry,) = journal.entries()
    figures = {name: entry[name] for name in entry if name in ("WG_SESSION_SECONDS", "WG_RX", "WG_TX", "WG_REASON")}
    assert figures == {"WG_SESSION_SECONDS": "1715", "WG_RX": str(2**62), "WG_TX": "42", "WG_REASON": "unreachable"}


def test_what_does_not_apply_has_no_field(journal: Journal, error: Error) -> None:
    down = Event("IFDOWN", 1_698_403_000.0, "wg0", peers=3, online_peers=1)
    tell(error.console(), record(down), WARNING)
    fields = {"MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "WG_EVENT", "WG_SEQ"}
    assert [set(entry) for entry in journal.entries()] == [fields | {"WG_INTERFACE"}, fields]


def test_a_warning_has_the_priority_and_the_id_of_its_kind(journal: Journal, error: Error) -> None:
    tell(error.console(), WARNING)
    (entry,) = journal.entries()
    assert entry["PRIORITY"] == "4"
    assert entry["MESSAGE_ID"] == wg_monitor.WARNING_IDS["Readings resumed"]
    assert entry["MESSAGE"] == "[WARN] Readings resumed after 1m 0s"


def test_json_lines_are_the_message_as_they_are(journal: Journal, error: Error) -> None:
    event = Event("ONLINE", 1_698_400_890.0, *PEER, 1, session=SESSION)
    json = record(event, log_format="json")
    tell(error.console(), json, stamped=False)
    (entry,) = journal.entries()
    assert entry["MESSAGE"] == json.line.decode()[:-1]
    assert entry["WG_PEER"] == KEY


def test_many_allowed_ips_are_cut_between_two_of_them(journal: Journal, error: Error) -> None:
    ips = ",".join("10.%d.%d.0/24" % (i // 256, i % 256) for i in range(20_000))
    tell(error.console(), record(Event("ONLINE", 1_698_400_890.0, "wg0", KEY, "192.0.2.1:5", ips, 5, 1)))
    (entry,) = journal.entries()
    assert ips.startswith(entry["WG_ALLOWED_IPS"] + ",")
    assert wg_monitor.JOURNAL_IPS_MAX - 20 < len(entry["WG_ALLOWED_IPS"]) < wg_monitor.JOURNAL_IPS_MAX


def test_the_last_line_goes_through_standard_error(journal: Journal, error: Error) -> None:
    tell(error.console(), record(Event("STOP", 1_698_403_000.0), "Monitor stopped | Watched: 5s"))
    assert journal.entries() == []
    assert error.lines() == ["<6>Monitor stopped | Watched: 5s"]


def test_without_the_socket_lines_go_through_standard_error(journal: Journal, error: Error) -> None:
    journal.path.unlink()
    console = error.console()
    tell(console, ONLINE, WARNING)
    assert error.lines() == ["<6>" + ONLINE.line.decode()[20:-1], "<4>[WARN] Readings resumed after 1m 0s"]
    assert console.dropped == 0


def test_without_a_descriptor_for_the_socket_lines_go_through_standard_error(journal: Journal, error: Error) -> None:
    console, limits = error.console(), resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(2)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        tell(console, ONLINE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    tell(console, ONLINE)
    assert error.lines() == ["<6>" + ONLINE.line.decode()[20:-1]]
    assert len(journal.entries()) == 1


def test_a_socket_that_was_made_anew_is_found(journal: Journal, error: Error) -> None:
    console = error.console()
    tell(console, ONLINE)
    assert len(journal.entries()) == 1
    journal.socket.close()
    journal.listen()
    tell(console, WARNING)
    assert [entry["WG_EVENT"] for entry in journal.entries()] == ["WARN"]
    assert error.lines() == []


def test_a_line_that_no_datagram_holds_goes_through_standard_error(journal: Journal, error: Error) -> None:
    tell(error.console(), record(Event("WARN", 1_698_403_000.0), "x" * 1_000_000), WARNING)
    assert [entry["WG_EVENT"] for entry in journal.entries()] == ["WARN"]
    assert error.lines() == ["<4>[WARN] " + "x" * 1_000_000]


def test_a_full_socket_delays_a_batch_once_and_loses_nothing(
    journal: Journal, error: Error, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: List[float] = []
    ready_for = wg_monitor.ready_for

    def waited(event: int, descriptor: int, timeout_s: float = 0.0) -> bool:
        waits.append(timeout_s)
        return ready_for(event, descriptor, timeout_s)

    monkeypatch.setattr(wg_monitor, "ready_for", waited)
    console = error.console()
    tell(console, *(ONLINE._replace(seq=number) for number in range(2000)))
    taken = [int(entry["WG_SEQ"]) for entry in journal.entries()]
    assert 0 < len(taken) < 2000
    assert len(taken) + len(error.lines()) == 2000
    assert taken == sorted(set(taken))
    assert console.dropped == 0
    assert 0 < waits[0] <= wg_monitor.CONSOLE_PATIENCE_S
    assert sum(1 for seconds in waits if seconds > 0.01) == 1


def test_a_console_that_is_not_the_journal_gets_no_datagram(journal: Journal, error: Error) -> None:
    tell(error.console("1:1"), ONLINE)
    assert journal.entries() == []
    assert error.lines() == [ONLINE.line.decode()[:-1]]


def test_the_socket_is_not_inherited(journal: Journal, error: Error) -> None:
    console = error.console()
    tell(console, ONLINE)
    assert not os.get_inheritable(console.socket.fileno())
    assert stat.S_ISSOCK(os.fstat(console.socket.fileno()).st_mode)


# --- Names of the kinds ---------------------------------------------------------------------------------------------


def test_each_kind_has_an_id_of_its_own() -> None:
    ids = [*wg_monitor.MESSAGE_IDS.values(), *wg_monitor.WARNING_IDS.values()]
    assert len(set(ids)) == len(ids)
    assert all(len(each) == 32 and set(each) <= set("0123456789abcdef") for each in ids)
    assert set(wg_monitor.MESSAGE_IDS) == {*wg_monitor.EVENT_KINDS, "START", "STOP"}


def test_what_a_hook_prints_does_not_choose_the_kind() -> None:
    text = "Hook for ONLINE [wg0] KIjzKP6f...xriWXQs= exited with status 1: Readings resumed; No reading: x"
    fields = wg_monitor.journal_fields(record(Event("WARN", 0.0), text), "[WARN] " + text)
    assert fields["MESSAGE_ID"] == wg_monitor.WARNING_IDS["Hook for "]


def test_a_debug_line_has_no_id() -> None:
    fields: Dict[str, Any] = wg_monitor.journal_fields(record(Event("DEBUG", 0.0), "Reading: 1"), "[DEBUG] Reading: 1")
    assert fields["PRIORITY"] == "7"
    assert "MESSAGE_ID" not in fields


def listed(catalog: Path, directory: Path) -> Optional[List[str]]:
    place = directory / "usr/local/lib/systemd/catalog"
    place.mkdir(parents=True)
    (place / catalog.name).write_bytes(catalog.read_bytes())
    command = ["journalctl", "--root", str(directory)]
    update = subprocess.run([*command, "--update-catalog"], stderr=subprocess.PIPE, check=True)
    assert update.stderr == b""
    found = subprocess.run([*command, "--list-catalog"], stdout=subprocess.PIPE, check=True)
    return [line.split(" ", 1)[0] for line in found.stdout.decode().splitlines()]


def test_the_catalogue_explains_every_kind(tmp_path: Path) -> None:
    ids = {*wg_monitor.MESSAGE_IDS.values(), *wg_monitor.WARNING_IDS.values()}
    assert set(listed(Path(wg_monitor.__file__).parent / "wg-monitor.catalog", tmp_path) or ()) == ids
