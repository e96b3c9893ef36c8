"""Signals stop the daemon or make it reopen the trail."""

import signal
from pathlib import Path
from typing import List

import pytest

from device import peer
from expected import console_oddities, now
from harness import (
    Daemon,
    Place,
    alive,
    lines_of,
    wait_for,
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_stops_the_daemon_with_a_last_line(place: Place, number: int) -> None:
    device = place.device()
    monitor = place.start()
    device.settle()
    assert monitor.stop(number) == 0
    assert monitor.trail()[-1].startswith("Monitor stopped | ")


def test_a_signal_stops_the_daemon_while_wg_hangs_and_hooks_run(place: Place) -> None:
    pids = place.path / "pids"
    hook = place.script("hook", "trap '' TERM; echo $$ >>%s; sleep 300\n" % pids)
    crowd = [peer(number, now()) for number in range(6)]
    place.device(peers=crowd)
    place.wg('exec %s "$@"' % place.real_wg)
    monitor = place.start("--on-change-script", str(hook), "--script-timeout", "300")
    wait_for("four hooks", lambda: len(lines_of(pids)) == 4)
    place.wg("trap '' TERM; echo $$ >>%s; sleep 300" % pids)
    wait_for("a hanging wg", lambda: len(lines_of(pids)) == 5)
    assert monitor.stop() == 0
    assert monitor.trail()[-1].startswith("Monitor stopped | ")
    monitor.match(r"\[WARN\] 6 hook runs did not finish.*")
    wait_for("the end of wg and the hooks", lambda: not any(alive(int(pid)) for pid in lines_of(pids)))


def test_sighup_reopens_the_trail(place: Place) -> None:
    device = place.device(peers=[peer(1, now())])
    monitor = place.start()
    device.settle()
    aside = place.trail.with_suffix(".1")
    assert place.trail.stat().st_ino in open_inodes(monitor)
    place.trail.rename(aside)
    monitor.send(signal.SIGHUP)
    wait_for("the daemon to close the old file", lambda: aside.stat().st_ino not in open_inodes(monitor))
    before = aside.read_bytes()
    device.publish([])
    monitor.match("REMOVED .*")
    assert aside.read_bytes() == before
    assert monitor.stop() == 0


def open_inodes(monitor: Daemon) -> List[int]:
    """The inodes of the files that the daemon has open now."""
    found = []
    for descriptor in Path("/proc/%d/fd" % monitor.pid).iterdir():
        try:
            found.append(descriptor.stat().st_ino)
        except FileNotFoundError:
            pass  # closed since the listing
    return found


def test_hundreds_of_signals_do_not_stop_the_daemon(place: Place) -> None:
    device = place.device(peers=[peer(1, now())])
    monitor = place.start()
    device.settle()
    for _ in range(200):
        monitor.send(signal.SIGHUP)
    device.publish([])
    monitor.match("REMOVED .*")
    assert monitor.stop() == 0
    assert not console_oddities(monitor)
