"""Readings that take long or come late: a slow interface, a slow `wg`, and a monitor that is stopped meanwhile."""

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import List, Tuple

from device import Device, peer
from expected import events, now, told
from harness import Daemon, Place, lines_of, local_time, wait_for

THRESHOLD_S = 6  # less than the 10 s after which wg is killed


def two_devices(place: Place) -> Tuple[Device, Device]:
    """Two devices, in the order in which wg asks them: that of the directory."""
    made = {name: place.device(name) for name in ("wg0", "wg1")}
    first, second = (made[name[:-5]] for name in os.listdir(str(place.sockets)))
    return first, second


def shake(device: Device) -> None:
    device.publish([peer(1, now())])


def start(place: Place, first: Device) -> Daemon:
    shake(first)
    monitor = place.start("--threshold", str(THRESHOLD_S))
    monitor.match("ONLINE .* new .*")
    return monitor


def wait_until_asked(device: Device) -> None:
    wait_for("the question of wg", lambda: device.asked)


def begin_slow_reading(first: Device, second: Device) -> None:
    """Returns while wg has the answer of the first device, with a fresh handshake, and waits for that of the second."""
    shake(first)
    second.publish([])
    wait_until_asked(second)  # the next reading is the first one that is sure to see the handshake
    second.hang()
    second.publish([])
    wait_until_asked(second)


def changes(monitor: Daemon) -> List[str]:
    return [text.split()[0] for text in events(monitor) if not text.startswith("[WARN]")]


def test_a_slow_interface_makes_no_peer_look_old(place: Place) -> None:
    first, second = two_devices(place)
    monitor = start(place, first)
    for _ in range(2):
        begin_slow_reading(first, second)
        time.sleep(THRESHOLD_S + 1)
        shake(first)  # the peer was never away: the next reading shows it
        second.resume()
        second.settle()
    assert changes(monitor) == ["ONLINE"]


def test_a_monitor_that_is_stopped_while_wg_runs_makes_no_peer_look_old(place: Place) -> None:
    first, second = two_devices(place)
    monitor = start(place, first)
    begin_slow_reading(first, second)
    monitor.send(signal.SIGSTOP)
    second.resume()
    time.sleep(THRESHOLD_S + 1)
    shake(first)
    monitor.send(signal.SIGCONT)
    first.settle()
    assert changes(monitor) == ["ONLINE"]


def test_lines_have_the_time_at_which_wg_was_started(place: Place) -> None:
    begun, gate = place.path / "begun", place.path / "gate"
    one = peer(1, now())
    place.device(peers=[one])
    place.wg('touch %s; while [ ! -e %s ]; do sleep 0.05; done; exec %s "$@"' % (begun, gate, place.real_wg))
    monitor = place.start()
    wait_for("the start of wg", begun.exists)
    time.sleep(2)
    gate.touch()
    monitor.see(told("ONLINE", one, "new"))
    start, online = (line[:19] for line in lines_of(place.trail)[:2])
    assert start <= online <= local_time(begun.stat().st_mtime)


# --- Blind time ---------------------------------------------------------------------------------------------------


def warnings(monitor: Daemon) -> List[str]:
    return [text for text in events(monitor) if text.startswith("[WARN]")]


def unwatched(state: Path) -> float:
    with closing(sqlite3.connect(str(state))) as database:
        ((seconds,),) = database.execute("SELECT unwatched FROM sessions").fetchall()
    return float(seconds)


def stop_for(monitor: Daemon, seconds: float) -> None:
    monitor.send(signal.SIGSTOP)
    time.sleep(seconds)
    monitor.send(signal.SIGCONT)


def test_a_stopped_monitor_reports_when_it_did_not_watch(place: Place) -> None:
    state = place.path / "state.db"
    device = place.device(peers=[peer(1, now())])
    monitor = place.start("--state-path", str(state))
    monitor.match("ONLINE .*")
    device.settle()
    before = time.time()
    stop_for(monitor, 6)
    match = monitor.match(r"\[WARN\] Not watching from (\S+ \S+) to (\S+ \S+)")
    device.publish([peer(1, now())])
    device.settle()
    monitor.stop(signal.SIGKILL)  # the store knows it already
    assert match.group(1) <= local_time(before + 1)
    assert match.group(2) >= local_time(before + 6)
    assert len(warnings(monitor)) == 1
    assert unwatched(state) >= 6


def test_a_wg_that_is_always_slow_is_one_fault(place: Place) -> None:
    state = place.path / "state.db"
    device = place.device(peers=[peer(1, now())])
    place.wg('exec %s "$@"' % place.real_wg)
    monitor = place.start("--state-path", str(state))
    monitor.match("ONLINE .*")
    place.wg('sleep 4; exec %s "$@"' % place.real_wg)
    monitor.match(r"\[WARN\] Readings are more than two intervals apart: .*")
    for _ in range(2):
        device.publish([peer(1, now())])
        device.settle()
    place.wg('exec %s "$@"' % place.real_wg)
    monitor.match(r"\[WARN\] Readings are on time again after \d+s")
    device.publish([peer(1, now())])
    device.settle()
    assert monitor.stop() == 0
    assert len(warnings(monitor)) == 2
    assert unwatched(state) >= 8


def test_blind_time_that_a_fault_reports_is_not_reported_twice(place: Place) -> None:
    state = place.path / "state.db"
    device = place.device(peers=[peer(1, now())])
    place.wg('exec %s "$@"' % place.real_wg)
    monitor = place.start("--state-path", str(state))
    monitor.match("ONLINE .*")
    place.wg("exit 3")
    monitor.match(r"\[WARN\] No reading: .*")
    time.sleep(4)
    place.wg('exec %s "$@"' % place.real_wg)
    monitor.match(r"\[WARN\] Readings resumed after \d+s")
    device.publish([peer(1, now())])
    device.settle()
    assert monitor.stop() == 0
    assert len(warnings(monitor)) == 2
    assert unwatched(state) >= 4
