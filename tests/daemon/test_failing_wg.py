"""A `wg` that fails, hangs, disappears or prints invalid lines. A script replaces it."""

import os
import re
import signal
import sqlite3
from contextlib import closing

import pytest

from device import peer
from expected import console_oddities, dump, events, now, told
from harness import (
    Place,
    alive,
    wait_for,
)

FAILURES = {
    "an exit status": ("echo nonsense >&2; exit 3", r"wg exited with status 3: nonsense"),
    "an end by a signal": ("kill -KILL $$", r"wg was ended by SIGKILL"),
    "output that breaks off": ("printf 'wg0\\tx'", r"the output of wg breaks off"),
}


@pytest.mark.parametrize("behaviour, words", FAILURES.values(), ids=FAILURES.keys())
def test_while_wg_fails_readings_are_missing_and_nothing_else(place: Place, behaviour: str, words: str) -> None:
    one = peer(1, now())
    place.device(peers=[one])
    place.wg('exec %s "$@"' % place.real_wg)
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    place.wg(behaviour)
    monitor.match(r"\[WARN\] No reading: %s; .*" % words)
    place.settle()
    place.wg('exec %s "$@"' % place.real_wg)
    monitor.match(r"\[WARN\] Readings resumed after \d+s")
    place.settle()
    assert monitor.stop() == 0
    assert len(events(monitor)) == 3


def test_a_kill_after_a_late_first_reading_loses_no_unwatched_time(place: Place) -> None:
    """The gap is known at the first reading, also if an attempt failed before it: that reading saves it at once."""
    state = place.path / "state.db"
    wg0 = place.device(peers=[peer(1, now())])
    place.wg('exec %s "$@"' % place.real_wg)
    first = place.start("--state-path", str(state))
    first.match("ONLINE .*")
    wg0.settle()
    first.stop(signal.SIGKILL)
    place.wg("exit 3")
    second = place.start("--state-path", str(state))
    second.match(r"\[WARN\] No reading: .*")
    place.settle()
    place.wg('exec %s "$@"' % place.real_wg)
    second.match(r"\[WARN\] Readings resumed after .*")
    wg0.settle()
    second.stop(signal.SIGKILL)
    with closing(sqlite3.connect(str(state))) as database:
        ((unwatched,),) = database.execute("SELECT unwatched FROM sessions")
    assert unwatched > 0


def test_a_wg_that_disappears_is_reported_until_it_is_back(place: Place) -> None:
    interpreter = place.path / "interpreter"
    interpreter.symlink_to("/bin/sh")
    place.wg('exec %s "$@"' % place.real_wg)
    assert place.fake_wg is not None
    place.fake_wg.write_text(place.fake_wg.read_text().replace("#!/bin/sh", "#!%s" % interpreter))
    one = peer(1, now())
    place.device(peers=[one])
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    interpreter.unlink()
    monitor.match(r"\[WARN\] No reading: \S+/wg cannot be run: No such file or directory.*; .*")
    interpreter.symlink_to("/bin/sh")
    monitor.match(r"\[WARN\] Readings resumed after \d+s")


def test_a_hanging_wg_is_killed_with_its_children_and_run_again(place: Place) -> None:
    pids = place.path / "pids"
    place.wg("sleep 300 & echo $! $$ >%s; wait" % pids)
    monitor = place.start()
    monitor.match(r"\[WARN\] No reading: wg did not answer within 10s; .*")
    first_pids = [int(pid) for pid in pids.read_text().split()]
    wait_for("the end of the first wg", lambda: not any(map(alive, first_pids)))
    one = peer(1, now())
    place.device(peers=[one])
    place.wg('exec %s "$@"' % place.real_wg)
    monitor.see(told("ONLINE", one, "new"))
    monitor.match(r"\[WARN\] Readings resumed after \d+s")
    assert monitor.stop() == 0
    wait_for("the end of wg and its children", lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_the_start_is_reported_while_the_first_wg_runs(place: Place) -> None:
    gate = place.path / "gate"
    place.wg("while [ ! -e %s ]; do sleep 0.05; done" % gate)
    monitor = place.start()
    monitor.match("Monitor started .*")
    gate.touch()
    assert monitor.stop() == 0
    assert not monitor.trail()[1:-1]


def test_a_hanging_device_blocks_the_real_wg_and_not_the_monitor(place: Place) -> None:
    one = peer(1, now())
    device = place.device(peers=[one])
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    device.hang()
    monitor.match(r"\[WARN\] No reading: wg did not answer within 10s; .*")
    device.resume()
    monitor.match(r"\[WARN\] Readings resumed after \d+s")
    assert len(events(monitor)) == 3


def test_an_interface_named_only_on_standard_error_keeps_its_peers(place: Place) -> None:
    one, two = peer(1, now()), peer(2, now())
    place.wg_prints(dump(one) + dump(two, iface="wg1"))
    monitor = place.start()
    monitor.see(told("ONLINE", two, "new", "wg1"))
    place.wg_prints(dump(one), "Unable to access interface wg1: Operation not permitted\n")
    monitor.match(r"\[WARN\] \[wg1\] cannot be read.*")
    place.settle()
    place.wg_prints(dump(one) + dump(two, iface="wg1"))
    monitor.match(r"\[WARN\] \[wg1\] can be read again after \d+s")
    place.settle()
    assert len(events(monitor)) == 4


def test_a_thousand_unreadable_interfaces_cause_no_event(place: Place) -> None:
    names = ["wg%d" % number for number in range(1_150)]
    place.wg_prints(b"".join(dump(iface=name) for name in names))
    monitor = place.start()
    place.settle()
    errors = "".join("Unable to access interface %s: Operation not permitted\n" % name for name in names[1:])
    assert len(errors) > 64 << 10
    place.wg_prints(dump(), errors)
    monitor.match(r"\[WARN\] \[wg1149\] cannot be read.*")
    place.settle()
    place.wg_prints(dump())
    monitor.match(r"IFDOWN  \[wg1149\] 0 peers, 0 were online")
    assert monitor.stop() == 0
    found = events(monitor)
    assert all(text.startswith("[WARN]") for text in found[:1_149]), found[:5]
    assert all(text.startswith("IFDOWN ") for text in found[1_149:]), found[1_149:1_155]


def test_nothing_is_inferred_from_what_more_than_4_mib_of_errors_may_say(place: Place) -> None:
    one = peer(1, now())
    place.wg_prints(dump(one) + dump(iface="wg1"))
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    place.wg_prints(dump(iface="wg1"), "noise\n" * 700_000 + "Unable to access interface wg0: Operation not permitted\n")
    monitor.match(r"\[WARN\] 1 line from wg is invalid: no peer is reported as REMOVED and no interface as IFDOWN .*")
    place.settle()
    place.wg_prints(dump(one) + dump(iface="wg1"))
    monitor.match(r"\[WARN\] every line from wg is valid again after \d+s")
    assert monitor.stop() == 0
    assert len(events(monitor)) == 3


GARBAGE = {
    "nonsense": b"nonsense\n",
    "too few fields": b"wg0\tx\ty\n",
    "too many fields": dump(peer(9, 1)).splitlines()[1] + b"\tmore\n",
    "an empty line": b"\n",
    "zero bytes": b"\0\0\0\n",
    "invalid UTF-8": b"wg0\t\xff\xfe\t\xc3\x28\n",
    "an escape sequence": dump(peer(9, 1)).splitlines()[1].replace(b"192.0.2.1", b"\x1b[2J\x07") + b"\n",
    "a carriage return": dump(peer(9, 1)).splitlines()[1].replace(b"192.0.2.1", b"x\rOFFLINE [wg0]") + b"\n",
    "a line separator": dump(peer(9, 1)).splitlines()[1].replace(b"192.0.2.1", "\u2028OFFLINE".encode()) + b"\n",
    "a next-line character": dump(peer(9, 1)).splitlines()[1].replace(b"192.0.2.1", "\x85OFFLINE".encode()) + b"\n",
    "bidirectional marks": dump(peer(9, 1)).splitlines()[1].replace(b"192.0.2.1", "\u202e\u2066".encode()) + b"\n",
    "an endpoint of 5,000 digits": dump(peer(9, 1)).splitlines()[1].replace(b"192.0.2.1", b"1" * 5000) + b"\n",
    "a negative handshake": dump(peer(9, -1)).splitlines()[1] + b"\n",
    "a handshake of 20 digits": dump(peer(9, 10**19)).splitlines()[1] + b"\n",
    "a fraction": dump(peer(9, 1)).splitlines()[1].replace(b"\t1\t", b"\t1.5\t") + b"\n",
    "digits that are not ASCII": dump(peer(9, 1)).splitlines()[1].replace(b"\t1\t", "\t\u0661\t".encode()) + b"\n",
    "a counter of 31 digits": dump(peer(9, 1)._replace(rx=10**30)).splitlines()[1] + b"\n",
    "an invalid key": dump(peer(9, 1)).splitlines()[1].replace(peer(9).public_key.encode(), b"short=") + b"\n",
    "a path for an interface": b"../../etc/passwd\t" + dump(peer(9, 1)).splitlines()[1].partition(b"\t")[2] + b"\n",
    "a peer of an unknown interface": dump(peer(9, 1), iface="wg7").splitlines()[1] + b"\n",
    "the same peer twice": dump(peer(1, 1)).splitlines()[1] + b"\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_an_invalid_line_affects_no_other_line(place: Place, garbage: bytes) -> None:
    good, last = peer(1, now()), peer(2, now())
    place.wg_prints(dump(good) + garbage + dump(last).partition(b"\n")[2])
    monitor = place.start()
    monitor.see(told("ONLINE", last, "new"))
    assert monitor.stop() == 0
    lines = place.trail.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert all(re.match(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [ -~]+$", line) for line in lines), lines
    assert [text for text in events(monitor) if not text.startswith("[WARN]")] == [
        told("ONLINE", good, "new"),
        told("ONLINE", last, "new"),
    ]
    assert len([text for text in events(monitor) if text.startswith("[WARN]")]) == 1
    assert not console_oddities(monitor)


def test_an_invalid_line_suspends_removals_on_its_interface(place: Place) -> None:
    one, two, other = peer(1, now()), peer(2, now()), peer(3, now())
    place.wg_prints(dump(one, two) + dump(other, iface="wg1"))
    monitor = place.start()
    monitor.see(told("ONLINE", other, "new", "wg1"))
    place.wg_prints(dump(one) + b"wg0\tspoiled\n" + dump(iface="wg1"))
    monitor.see(told("REMOVED", other, iface="wg1"))
    place.settle()
    assert len([text for text in events(monitor) if text.startswith("[WARN]")]) == 1
    place.wg_prints(dump(one) + dump(iface="wg1"))
    monitor.see(told("REMOVED", two))


def test_wg_runs_by_its_absolute_path_with_an_environment_built_from_scratch(place: Place) -> None:
    saw = place.path / "saw"
    place.wg('{ echo "$0 $*"; env; } >%s.new; mv %s.new %s' % (saw, saw, saw))
    evil = place.path / "evil"
    evil.mkdir()
    (evil / "wg").write_text("#!/bin/sh\ntouch %s\n" % (place.path / "was-run"))
    (evil / "wg").chmod(0o755)
    place.start(environment={"PATH": "%s:%s" % (evil, os.environ["PATH"]), "WG_HIDE_KEYS": "always", "LD_PRELOAD": ""})
    place.settle()
    command, *variables = saw.read_text().splitlines()
    assert re.fullmatch(r"/\S+/wg show all dump", command)
    allowed = {"PATH", "LANG", "PWD", "_", "SHLVL", "OLDPWD"}  # the shell sets the last four
    assert {variable.partition("=")[0] for variable in variables} <= allowed
    assert not (place.path / "was-run").exists()
