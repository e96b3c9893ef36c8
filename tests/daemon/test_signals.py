"""Signals stop the daemon or make it reopen the trail."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional

import pytest

from device import peer
from expected import console_oddities, now, told
from harness import (
    MODULE,
    PATIENCE_S,
    Daemon,
    Place,
    alive,
    launcher,
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


OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
BLOCK = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, %s)
os.execv(sys.argv[1], sys.argv[1:])
"""


def status(pid: int) -> Dict[str, str]:
    lines = Path("/proc/%d/status" % pid).read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def holds(mask: str, number: int) -> bool:
    """Whether a signal is in a mask of /proc/PID/status: SigBlk is blocked, SigCgt has a handler."""
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signals_that_whoever_starts_the_daemon_has_blocked(place: Place, number: int) -> None:
    """A mask of blocked signals survives exec."""
    block = place.path / "block.py"
    block.write_text(BLOCK % [int(each) for each in OURS])
    one = peer(1, now())
    place.device(peers=[one])
    monitor = place.start("--debug", "--interval", "3600", wrapper="%s -I %s" % (sys.executable, block))
    monitor.see(told("ONLINE", one, "new"))
    assert not any(holds(status(monitor.pid)["SigBlk"], each) for each in OURS)
    monitor.send(signal.SIGHUP)
    monitor.hear(r"\[DEBUG\] The trail was opened again")
    assert monitor.stop(number) == 0


# --- Ctrl-C while the daemon starts -------------------------------------------------------------------------------


def begin(place: Place, command: List[str]) -> "subprocess.Popen[str]":
    """Start the daemon, and return as soon as Ctrl-C has its default action: Python has begun to run our first lines."""

    def attempt() -> "Optional[subprocess.Popen[str]]":
        process = subprocess.Popen(
            [*place.enter(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            text=True,
        )
        python = monitor = False  # has its handlers: Python raises KeyboardInterrupt
        while process.poll() is None and not monitor:
            seen = status(process.pid)
            caught = holds(seen["SigCgt"], signal.SIGINT) and seen["Name"] not in ("unshare", "sh")
            monitor = holds(seen["SigCgt"], signal.SIGTERM)
            if python and not caught:
                return process
            python = caught
        process.terminate()  # it was faster than we
        process.communicate()
        return None

    return wait_for("Ctrl-C to have its default action during the start", attempt, patience_s=3 * PATIENCE_S)


@pytest.mark.parametrize("start", ["the command", "the script"])
def test_ctrl_c_at_any_moment_of_the_start_prints_no_traceback(place: Place, start: str) -> None:
    """What Python does before it runs the first line is not ours: it may still print a traceback of its own."""
    (place.path / "launcher").write_text(launcher())
    command = {"the command": ["-IS", str(place.path / "launcher")], "the script": ["-I", str(MODULE)]}[start]
    codes = set()
    for milliseconds in range(0, 100, 4):
        process = begin(place, [sys.executable, *command])
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
        codes.add(process.returncode)
        if process.returncode == 0:
            assert " Monitor stopped | " in errors
        else:
            assert (process.returncode, errors) == (-signal.SIGINT, "")
        assert "Traceback" not in errors and "KeyboardInterrupt" not in errors and not output
    assert -signal.SIGINT in codes
