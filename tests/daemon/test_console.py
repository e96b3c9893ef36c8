"""The daemon's output besides the trail: console, journal and service manager."""

import os
import re
import signal
import socket
import subprocess
import sys
from typing import List

from device import peer
from expected import events, now, told
from harness import (
    MODULE,
    PATIENCE_S,
    Place,
    lines_of,
    wait_for,
)


def test_the_console_has_the_lines_of_the_trail(place: Place) -> None:
    one = peer(1, now())
    device = place.device(peers=[one])
    monitor = place.start()
    device.settle()
    device.publish([])
    monitor.see(told("REMOVED", one))
    monitor.stop()
    assert monitor.console() == lines_of(place.trail)
    assert monitor.stdout_path.read_bytes() == b""


def test_under_the_journal_lines_have_a_priority_and_no_time_stamp(place: Place) -> None:
    one = peer(1, now())
    place.device(peers=[one])
    monitor = place.start(
        *("--threshold", "100", "--debug"),
        environment={"JOURNAL_STREAM": "{console.st_dev}:{console.st_ino}"},
    )
    monitor.see(told("ONLINE", one, "new"))
    monitor.stop()
    console = monitor.console()
    assert console[0] == "<6>Monitor started | Interval: 1s, Threshold: 100s, Stats: 3600s"
    assert re.fullmatch(r"<4>\[WARN\] A threshold of 120s or less .*", console[1])
    assert "<6>" + told("ONLINE", one, "new") in console
    assert any(line.startswith("<7>[DEBUG] ") for line in console)
    assert [re.sub(r"^<\d>", "", line) for line in console] == monitor.trail()


def test_the_journal_of_another_stream_is_ignored(place: Place) -> None:
    device = place.device()
    monitor = place.start(environment={"JOURNAL_STREAM": "1:1"})
    device.settle()
    monitor.stop()
    assert monitor.console() == lines_of(place.trail)


def test_statistics_go_to_the_console_only(place: Place) -> None:
    place.device(peers=[peer(1, now()), peer(2)])
    monitor = place.start("--stats-interval", "1")
    monitor.hear(r"Statistics \| Readings: \d+ \(0 failed.*\), Events: 2, .*Peers: 1 online of 2.*")
    monitor.stop()
    assert "Statistics" not in place.trail.read_text()


def test_debug_reports_each_reading(place: Place) -> None:
    place.device(peers=[peer(1, now())])
    monitor = place.start("--debug")
    monitor.hear(r"\[DEBUG\] Reading: 1 of 1 peer online.*")


def test_a_threshold_below_wireguards_rekey_time_gives_one_warning(place: Place) -> None:
    device = place.device()
    monitor = place.start("--threshold", "120")
    device.settle()
    assert len([text for text in events(monitor) if text.startswith("[WARN] A threshold of 120s")]) == 1


def test_a_closed_console_stops_nothing(place: Place) -> None:
    """As a closed terminal, or a pipe whose reader has exited."""
    one = peer(1, now())
    place.device(peers=[one])
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as console:
        command = [*place.enter(), sys.executable, "-I", str(MODULE), "--interval", "1", "--debug"]
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=console, start_new_session=True)
    try:
        wait_for("ONLINE", lambda: any(" ONLINE " in line for line in lines_of(place.trail)))
        started.terminate()
        assert started.wait(PATIENCE_S) == 0
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()


def test_the_service_manager_is_notified_and_its_variables_reach_no_child(place: Place) -> None:
    saw = place.path / "hook-saw"
    hook = place.script("hook", "env >%s.new && mv %s.new %s\n" % (saw, saw, saw))
    place.device(peers=[peer(1, now()), peer(2)])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(place.path / "notify"))
        manager.settimeout(60)

        def expect(pattern: str) -> None:
            heard: List[str] = []
            while not re.search(pattern, "\n".join(heard), re.M):
                heard.append(manager.recv(65536).decode())

        variables = {"NOTIFY_SOCKET": str(place.path / "notify"), "WATCHDOG_USEC": "2000000"}
        monitor = place.start("--on-change-script", str(hook), environment=variables)
        first = manager.recv(65536).decode().split("\n")
        assert first == ["READY=1", "STATUS=1 of 2 peers online, 1 interface"]
        expect(r"^WATCHDOG=1$")
        monitor.send(signal.SIGHUP)
        expect(r"^RELOADING=1$\n^MONOTONIC_USEC=\d+$")
        expect(r"^READY=1$")
        wait_for("the hook", saw.exists)
        monitor.send(signal.SIGTERM)
        expect(r"^STOPPING=1$")
        assert monitor.wait() == 0
    assert "NOTIFY_SOCKET" not in saw.read_text() and "WATCHDOG" not in saw.read_text()
