"""A userspace interface that hangs: `wg show all dump` hangs with it, and the monitor asks for each interface alone."""

import os
import re
import signal
import socket
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Iterator, List

import pytest

from device import Peer, peer
from expected import dump, events, now, told
from harness import Daemon, Place, alive, wait_for

CANNOT = "[WARN] [%s] cannot be read: its peers keep their state"
HANGS = r"\[WARN\] No reading: wg did not answer within 10s; peers keep their state"
RESUMED = r"\[WARN\] Readings resumed after \d+s"


def again(name: str) -> str:
    return r"\[WARN\] \[%s\] can be read again after \d+s" % name


def moved(it: Peer, address: str) -> Peer:
    return it._replace(endpoint="%s:1000" % address, rx=it.rx + 100)


def changes(monitor: Daemon) -> List[str]:
    return [text for text in events(monitor) if not text.startswith("[WARN]")]


class Full:
    """A socket with a full backlog: whoever connects waits, also `wg show interfaces`."""

    def __init__(self, place: Place, name: str) -> None:
        self.path = place.sockets / (name + ".sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(0)
        self.clients: List[socket.socket] = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            self.clients.append(client)
            try:
                client.connect(str(self.path))
            except BlockingIOError:
                return

    def close(self) -> None:
        self.path.unlink()
        for each in (*self.clients, self.listener):
            each.close()


@pytest.fixture
def full(place: Place) -> Iterator[Full]:
    made = Full(place, "wg9")
    yield made
    if made.path.exists():
        made.close()


def test_an_interface_that_hangs_affects_only_itself(place: Place) -> None:
    one, two = peer(1, now()), peer(2, now())
    wg0, wg1 = place.device("wg0", [one]), place.device("wg1", [two])
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    monitor.see(told("ONLINE", two, "new", "wg1"))
    wg1.hang()
    monitor.match(HANGS)
    monitor.match(RESUMED)
    away = moved(one, "198.51.100.7")
    wg0.publish([away])
    monitor.see(told("ROAMING", away, "from " + one.endpoint))
    monitor.see(CANNOT % "wg1")
    back = moved(away, "192.0.2.9")
    wg0.publish([back])
    monitor.see(told("ROAMING", back, "from " + away.endpoint))
    three = moved(two, "198.51.100.8")
    wg1.publish([three])
    wg1.resume()
    monitor.match(again("wg1"))
    monitor.see(told("ROAMING", three, "from " + two.endpoint, "wg1"))
    wg0.publish([back])
    wg0.settle()
    assert monitor.stop() == 0
    assert len(changes(monitor)) == 5
    assert len(events(monitor)) == 9


def test_the_peers_of_a_watched_interface_do_not_wait_for_another(place: Place) -> None:
    """Neither does an instance for one interface."""
    one = peer(1, now())
    wg0, wg1 = place.device("wg0", [one]), place.device("wg1", [peer(2, now())])
    wg1.hang()
    monitor = place.start("--interface", "wg0")
    monitor.see(told("ONLINE", one, "new"))
    away = moved(one, "198.51.100.7")
    wg0.publish([away])
    monitor.see(told("ROAMING", away, "from " + one.endpoint))
    wg0.settle()
    assert monitor.stop() == 0
    warnings = [text for text in events(monitor) if text.startswith("[WARN]")]
    assert len(warnings) == 2 and re.fullmatch(HANGS, warnings[0]) and re.fullmatch(RESUMED, warnings[1]), warnings


def test_at_the_start_an_interface_that_hangs_hides_no_other(place: Place) -> None:
    """The list tells which interfaces are there: none of them comes up later."""
    one, two, three = (peer(number, now()) for number in (1, 2, 3))
    place.device("wg0", [one])
    wg1, wg2 = place.device("wg1", [two]), place.device("wg2", [three])
    wg1.hang()
    state = place.path / "state.db"
    monitor = place.start("--state-path", str(state), "--interface", "wg0,wg1,wg2,wg7")
    monitor.see(told("ONLINE", one, "new"))
    monitor.see(told("ONLINE", three, "new", "wg2"))
    monitor.see("[WARN] [wg7] no such WireGuard interface yet")
    monitor.see(CANNOT % "wg1")
    wg1.resume()
    monitor.see(told("ONLINE", two, "new", "wg1"))
    wg2.publish([three])
    wg2.settle()
    assert monitor.stop() == 0
    assert len(changes(monitor)) == 3
    assert len([text for text in monitor.trail() if "no such" in text or "cannot be read" in text]) == 2


def test_interfaces_come_and_go_while_another_hangs(place: Place) -> None:
    one, two = peer(1, now()), peer(2, now())
    wg0, wg1 = place.device("wg0", [one]), place.device("wg1")
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    wg1.hang()
    monitor.see(CANNOT % "wg1")
    place.device("wg2", [two])
    monitor.see("IFUP    [wg2] 1 peer")
    monitor.see(told("ONLINE", two, "new", "wg2"))
    wg0.close()
    monitor.see("IFDOWN  [wg0] 1 peer, 1 was online")
    monitor.see(told("OFFLINE", one))
    place.device("wg0", [one])
    monitor.see("IFUP    [wg0] 1 peer")
    monitor.see(told("ONLINE", one))
    wg1.close()
    monitor.see("IFDOWN  [wg1] 0 peers, 0 were online")
    assert monitor.stop() == 0
    assert len(changes(monitor)) == 8


def test_without_a_list_no_interface_is_gone(place: Place, full: Full) -> None:
    one, two = peer(1, now()), peer(2, now())
    wg0, wg1 = place.device("wg0", [one]), place.device("wg1", [two])
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    monitor.see(told("ONLINE", two, "new", "wg1"))
    monitor.see(CANNOT % "wg9")
    wg1.close()
    monitor.see(CANNOT % "wg1")
    away = moved(one, "198.51.100.7")
    wg0.publish([away])
    monitor.see(told("ROAMING", away, "from " + one.endpoint))
    assert not [text for text in monitor.trail() if text.startswith("IFDOWN")]
    full.close()
    monitor.see("IFDOWN  [wg1] 1 peer, 1 was online")
    monitor.see("IFDOWN  [wg9] 0 peers, 0 were online")
    assert monitor.stop() == 0


def test_a_late_answer_about_all_interfaces_does_not_replace_newer_ones(place: Place) -> None:
    """Otherwise the counters of the others would seem to fall, and bytes would count twice."""
    state = place.path / "state.db"
    one = peer(1, now())
    wg0, wg1 = place.device("wg0", [one]), place.device("wg1")
    monitor = place.start("--state-path", str(state))
    monitor.see(told("ONLINE", one, "new"))
    for warnings in (1, 3):
        wg1.hang()
        monitor.await_("the hang", lambda expected=warnings: len(events(monitor)) > expected)  # type: ignore[misc]
        for _ in range(4):
            one = one._replace(rx=one.rx + 1_000_000)
            wg0.publish([one])
            wg0.settle()
        wg1.resume()
        wg1.publish([])
        wg1.settle()
    wg0.publish([one])
    wg0.settle()
    assert monitor.stop() == 0
    with closing(sqlite3.connect(str(state))) as database:
        assert database.execute("SELECT past_rx, rx FROM peers").fetchall() == [(0, one.rx)]


def test_the_time_without_an_interface_counts_as_unwatched_in_its_sessions(place: Place) -> None:
    state = place.path / "state.db"
    one, two = peer(1, now()), peer(2, now())
    wg0, wg1 = place.device("wg0", [one]), place.device("wg1", [two])
    monitor = place.start("--state-path", str(state))
    monitor.see(told("ONLINE", one, "new"))
    monitor.see(told("ONLINE", two, "new", "wg1"))
    wg1.hang()
    monitor.see(CANNOT % "wg1")
    wg1.resume()
    monitor.match(again("wg1"))
    for device, it in ((wg0, one), (wg1, two)):
        device.publish([it])
        device.settle()
    assert monitor.stop() == 0
    with closing(sqlite3.connect(str(state))) as database:
        found = dict(database.execute("SELECT interface, unwatched FROM sessions").fetchall())
    assert 9 < found["wg0"] < 19 < found["wg1"], "nobody watched wg0 until wg was killed, and wg1 until it answered"


def test_an_interface_that_answers_too_late_leaves_a_gap_of_its_own(place: Place) -> None:
    """It hangs for less than its timeout, so that nobody reports it as unreadable."""
    state = place.path / "state.db"
    one, two = peer(1, now()), peer(2, now())
    wg0, wg1 = place.device("wg0", [one]), place.device("wg1", [two])
    hung = place.device("wg2", [peer(3, now())])
    monitor = place.start("--state-path", str(state))
    monitor.see(told("ONLINE", two, "new", "wg1"))
    hung.hang()
    monitor.see(CANNOT % "wg2")
    wg1.hang()
    time.sleep(6)
    wg1.publish([moved(two, "198.51.100.8")])
    wg1.resume()
    monitor.see(told("ROAMING", moved(two, "198.51.100.8"), "from " + two.endpoint, "wg1"))
    wg0.publish([moved(one, "198.51.100.7")])
    monitor.see(told("ROAMING", moved(one, "198.51.100.7"), "from " + one.endpoint))
    assert monitor.stop() == 0
    with closing(sqlite3.connect(str(state))) as database:
        found = database.execute("SELECT interface, why, stop - start FROM unwatched").fetchall()
        unwatched = dict(database.execute("SELECT interface, unwatched FROM sessions").fetchall())
    (late,) = [seconds for interface, why, seconds in found if (interface, why) == ("wg1", "late")]
    assert 4 < late < 10
    assert not [interface for interface, _, _ in found if interface == "wg0"]
    assert unwatched["wg1"] - unwatched["wg0"] == pytest.approx(late, abs=2)


def test_only_names_of_interfaces_are_given_to_wg(place: Place) -> None:
    log = place.path / "commands"
    one = peer(1, now())
    place.device("wg0", [one])
    hostile = [place.device(name) for name in ("-x", "all", "interfaces", "a b", "x;y", "\x1b[2J", "n" * 16)]
    for device in hostile:
        device.hang()
    place.wg('echo "$*" >>%s; exec %s "$@"' % (log, place.real_wg))
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    time.sleep(3)
    assert monitor.stop() == 0
    asked = set(log.read_text().splitlines())
    allowed = {"show all dump", "show interfaces", "show wg0 dump", "show a dump", "show b dump"}
    assert {"show all dump", "show interfaces", "show wg0 dump"} <= asked <= allowed, asked


def test_many_interfaces_are_asked_a_few_at_once_and_nothing_is_left_behind(place: Place) -> None:
    names = ["wg%d" % number for number in range(40)]
    place.wg_prints(b"".join(dump(iface=name) for name in names))
    monitor = place.start()
    place.settle()

    def held() -> int:
        return len(os.listdir("/proc/%d/fd" % monitor.pid))

    before, pids = held(), place.path / "pids"
    hang, line = "echo $$ >>%s; exec sleep 300" % pids, 'printf "private\\\\tpublic\\\\t1\\\\toff\\\\n"'
    place.wg("case $2 in all|wg7) %s;; interfaces) echo %s;; *) %s;; esac" % (hang, " ".join(names), line))
    monitor.see(CANNOT % "wg7")
    children = Path("/proc/%d/task/%d/children" % (monitor.pid, monitor.pid))
    assert len(children.read_text().split()) <= 2 + 8
    assert held() <= before + 2 * 8
    place.wg_prints(b"".join(dump(iface=name) for name in names))
    for pid in children.read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if Path("/proc/%s/cmdline" % pid).read_bytes().startswith(b"sleep"):
                os.kill(int(pid), signal.SIGKILL)
    monitor.match(again("wg7"))
    place.settle()
    assert monitor.stop() == 0
    wait_for("the end of wg", lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))
    assert not changes(monitor)
    assert len(events(monitor)) == 4


def test_a_round_does_not_wait_for_the_run_that_hangs(place: Place) -> None:
    """At an interval longer than the timeout, nothing but the tick wakes the monitor before that run is killed."""
    log = place.path / "commands"
    fake = "case $2 in all) echo all; sleep 5; echo slept;; *) sleep 1; echo $2;; esac >>%s; [ $2 = all ] && exec sleep 300"
    place.device("wg0", [peer(1, now())])
    place.wg((fake + '; exec %s "$@"') % (log, place.real_wg))
    monitor = place.start("--interval", "12")
    monitor.match("ONLINE .*")
    wait_for("two more rounds", lambda: log.read_text().count("slept") > 2)
    assert monitor.stop() == 0
    for commands in log.read_text().split("slept\n")[2:-1]:
        first, *others = commands.split()
        assert first == "all" and sorted(others) == ["interfaces", "wg0"]
