"""The daemon as a subprocess, watched from outside: the real `wg` asks scripted devices, and a script in its place
prints what the real one never does."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

import pytest

from device import PRESHARED_KEY, PRIVATE_KEY, Peer, hexadecimal, key, peer
from harness import (
    MODULE,
    PATIENCE_S,
    Daemon,
    Place,
    alive,
    command_line,
    lines_of,
    local_time,
    need,
    scaled,
    texts,
    wait_for,
)

MONITOR_STARTED = "Monitor started | Interval: 1s, Threshold: 180s, Stats: 3600s"


@pytest.fixture(autouse=True)
def tools() -> None:
    need("unshare", "wg")


def now() -> int:
    return int(time.time())


def short(it: Peer) -> str:
    return it.public_key[:8] + "..." + it.public_key[-8:]


def told(kind: str, it: Peer, tail: str = "handshake", iface: str = "wg0") -> str:
    """The text of a line about a peer with one host address. The tail is `handshake`, `new`, or what stands there."""
    shaken = "(handshake: %s)" % (local_time(it.handshake)[11:] if it.handshake else "Never")
    tail = {"handshake": shaken, "new": "new " + shaken}.get(tail, tail)
    ip = it.allowed_ips.replace("/32", "")
    return "%-7s [%s] %s (%s) [IP: %s] %s" % (kind, iface, short(it), it.endpoint or "N/A", ip, tail)


def events(monitor: Daemon) -> List[str]:
    """What the trail says between its first line and its last."""
    return [text for text in monitor.trail() if not text.startswith("Monitor ")]


# --- The table of events ------------------------------------------------------------------------------------------


def test_the_first_reading_tells_who_is_online_and_who_is_not(place: Place) -> None:
    there, gone, never = peer(1, now() - 5), peer(2, now() - 500), peer(3)._replace(endpoint="")
    device = place.device(peers=[there, gone, never])
    monitor = place.start()
    device.settle()
    assert monitor.stop() == 0
    told_first, *told_then, told_last = monitor.trail()
    assert told_first == MONITOR_STARTED
    assert told_then == [told("ONLINE", there, "new"), told("OFFLINE", gone, "new"), told("OFFLINE", never, "new")]
    assert re.fullmatch(r"Monitor stopped \| .*", told_last)


def test_an_online_peer_whose_handshake_ages_goes_offline_and_comes_back(place: Place) -> None:
    ageing = peer(1, now() - 176)
    device = place.device(peers=[ageing])
    monitor = place.start()
    monitor.see(told("ONLINE", ageing, "new"))
    monitor.see(told("OFFLINE", ageing))
    back = ageing._replace(handshake=now())
    device.publish([back])
    monitor.see(told("ONLINE", back))
    device.settle()
    assert events(monitor) == [told("ONLINE", ageing, "new"), told("OFFLINE", ageing), told("ONLINE", back)]


def test_another_address_is_roaming_and_another_port_is_no_event(place: Place) -> None:
    home = peer(1, now())._replace(endpoint="192.0.2.1:1000")
    device = place.device(peers=[home])
    monitor = place.start()
    monitor.see(told("ONLINE", home, "new"))
    device.publish([home._replace(endpoint="192.0.2.1:2000")])
    device.settle()
    away = home._replace(endpoint="[2001:db8::7]:3000")
    device.publish([away])
    monitor.see(told("ROAMING", away, "from 192.0.2.1:2000"))
    device.settle()
    assert len(events(monitor)) == 2


def test_other_allowed_ips_are_a_change_and_another_order_is_none(place: Place) -> None:
    one = peer(1, now())._replace(allowed_ips="10.0.0.1/32,10.0.0.2/32,10.1.0.0/24")
    device = place.device(peers=[one])
    monitor = place.start()
    line = "%-7s [wg0] " + short(one) + " (" + one.endpoint + ") [IPs: %s] %s"
    shaken = "new (handshake: %s)" % local_time(one.handshake)[11:]
    monitor.see(line % ("ONLINE", "10.0.0.1, 10.0.0.2", shaken))
    device.publish([one._replace(allowed_ips="10.0.0.2/32,10.0.0.1/32,10.1.0.0/24")])
    device.settle()
    device.publish([one._replace(allowed_ips="10.1.0.0/24")])
    monitor.see(line % ("CHANGED", "10.1.0.0/24", "from [IPs: 10.0.0.2, 10.0.0.1]"))
    device.publish([one._replace(allowed_ips="")])
    nothing = "CHANGED [wg0] %s (%s) [IP: N/A] from [IPs: 10.1.0.0/24]" % (short(one), one.endpoint)
    monitor.see(nothing)
    device.publish([one._replace(allowed_ips="2001:db8::1/128")])
    monitor.see(nothing.replace("[IP: N/A] from [IPs: 10.1.0.0/24]", "[IP: 2001:db8::1] from [IP: N/A]"))
    assert len(events(monitor)) == 4


def test_a_peer_taken_out_of_the_configuration_is_removed_and_then_new_again(place: Place) -> None:
    one, two, offline = peer(1, now()), peer(2, now()), peer(3)
    device = place.device(peers=[one, two, offline])
    monitor = place.start()
    monitor.see(told("OFFLINE", offline, "new"))
    device.publish([two])
    monitor.see(told("REMOVED", one))
    monitor.see(told("REMOVED", offline))
    device.publish([one, two])
    monitor.see(told("ONLINE", one, "new"), times=2)
    device.settle()
    assert len(events(monitor)) == 6


def test_an_interface_goes_with_its_peers_and_returns(place: Place) -> None:
    online, offline, other = peer(1, now()), peer(2), peer(3, now())
    place.device("wg1", [other])
    monitor = place.start()
    monitor.see(told("ONLINE", other, "new", "wg1"))
    device = place.device("wg0", [online, offline])
    monitor.see("IFUP    [wg0] 2 peers")
    monitor.see(told("ONLINE", online, "new"))
    device.close()
    monitor.see("IFDOWN  [wg0] 2 peers, 1 was online")
    monitor.see(told("OFFLINE", online))
    again = online._replace(handshake=0, endpoint="")  # made anew, it has forgotten
    device = place.device("wg0", [again, offline])
    monitor.see("IFUP    [wg0] 2 peers", times=2)
    device.settle()
    device.publish([online._replace(handshake=online.handshake + 1), offline])
    monitor.see(told("ONLINE", online._replace(handshake=online.handshake + 1)))
    device.settle()
    kinds = [text.split()[0] for text in events(monitor)]
    assert kinds == "ONLINE IFUP ONLINE OFFLINE IFDOWN OFFLINE IFUP ONLINE".split()


def test_a_handshake_that_falls_to_never_ends_the_session_and_goes_on_being_shown(place: Place) -> None:
    one = peer(1, now())
    device = place.device(peers=[one])
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    device.publish([one._replace(handshake=0)])
    monitor.see(told("OFFLINE", one))
    device.settle()
    assert len(events(monitor)) == 2


def test_an_interface_that_cannot_be_read_keeps_its_peers(place: Place) -> None:
    good, unknown = peer(1, now()), peer(2, now() - 174)
    place.device("wg0", [good])
    device = place.device("wg1", [unknown])
    monitor = place.start()
    monitor.see(told("ONLINE", unknown, "new", "wg1"))
    device.fail(5)
    monitor.match(r"\[WARN\] \[wg1\] cannot be read.*")
    wait_for("the age of offline", lambda: now() > unknown.handshake + 182)
    assert "OFFLINE" not in " ".join(events(monitor))
    back = unknown._replace(handshake=now())
    device.publish([back])
    monitor.match(r"\[WARN\] \[wg1\] can be read again after \d+s")
    device.settle()
    assert [text.split()[0] for text in events(monitor)] == ["ONLINE", "ONLINE", "[WARN]", "[WARN]"]


def test_only_the_peers_of_the_wanted_interfaces_count(place: Place) -> None:
    mine, strange = peer(1, now()), peer(2, now())
    place.device("wg0", [mine])
    other = place.device("wg1", [strange])
    monitor = place.start("--interface", "wg0")
    monitor.see(told("ONLINE", mine, "new"))
    other.settle()
    other.close()
    monitor.stop()
    assert monitor.trail()[0] == MONITOR_STARTED + ", Interface: wg0"
    assert events(monitor) == [told("ONLINE", mine, "new")]


def test_an_interface_that_is_not_there_yet_is_one_warning_and_no_exit(place: Place) -> None:
    place.device("wg1")
    monitor = place.start("--interface", "wg0")
    monitor.match(r"\[WARN\] \[wg0\] there is no such WireGuard interface.*")
    one = peer(1, now())
    device = place.device("wg0", [one])
    monitor.see("IFUP    [wg0] 1 peer")
    monitor.see(told("ONLINE", one, "new"))
    device.settle()
    assert len([text for text in events(monitor) if text.startswith("[WARN]")]) == 1
    assert monitor.stop() == 0


def test_no_interface_at_all_is_a_reading_too(place: Place) -> None:
    place.wg("printf ''")
    monitor = place.start()
    place.settle()
    assert monitor.stop() == 0
    assert events(monitor) == []


def test_without_a_store_a_restart_knows_nobody(place: Place) -> None:
    one = peer(1, now())
    place.device(peers=[one])
    for times in (1, 2):
        monitor = place.start()
        monitor.see(told("ONLINE", one, "new"), times)
        assert monitor.stop() == 0
    assert len(lines_of(place.trail)) == 6


def test_received_bytes_keep_a_peer_online_where_traffic_counts(place: Place) -> None:
    one = peer(1, now() - 177)._replace(rx=1000)
    device = place.device(peers=[one])
    monitor = place.start("--liveness", "traffic")
    monitor.see(told("ONLINE", one, "new"))
    device.publish([one._replace(rx=2000)])
    device.settle()
    wait_for("the handshake's old age", lambda: now() > one.handshake + 182)
    device.publish([one._replace(rx=2000)])
    device.settle()
    assert events(monitor) == [told("ONLINE", one, "new")]


def test_json_has_the_whole_key_and_a_number_for_each_line(place: Place) -> None:
    one = peer(1, now() - 176)
    place.device(peers=[one])
    monitor = place.start("--log-format", "json")
    wait_for("OFFLINE", lambda: any('"OFFLINE"' in line for line in lines_of(place.trail)))
    monitor.stop()
    lines = [json.loads(line) for line in lines_of(place.trail)]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["event"] for line in lines] == ["START", "ONLINE", "OFFLINE", "STOP"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", line["time"]) for line in lines)
    offline = lines[2]
    assert (offline["interface"], offline["peer"], offline["endpoint"]) == ("wg0", one.public_key, one.endpoint)
    assert (offline["allowed_ips"], offline["online"], offline["reason"]) == (one.allowed_ips, False, "idle")


# --- A failing wg -------------------------------------------------------------------------------------------------

FAILURES = {
    "an exit status": ("echo nonsense >&2; exit 3", r"wg exited with status 3: nonsense"),
    "an end by a signal": ("kill -KILL $$", r"wg was ended by SIGKILL"),
    "output that breaks off": ("printf 'wg0\\tx'", r"the output of wg breaks off"),
}


@pytest.mark.parametrize("behaviour, words", FAILURES.values(), ids=FAILURES.keys())
def test_a_failing_wg_costs_readings_and_no_more(place: Place, behaviour: str, words: str) -> None:
    one = peer(1, now())
    place.device(peers=[one])
    place.wg('exec %s "$@"' % place.real_wg)
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    place.wg(behaviour)
    monitor.match(r"\[WARN\] No reading: %s; .*" % words)
    place.settle()
    place.wg('exec %s "$@"' % place.real_wg)
    monitor.match(r"\[WARN\] Readings again after \d+s")
    place.settle()
    assert monitor.stop() == 0
    assert len(events(monitor)) == 3


def test_a_wg_that_disappears_while_the_monitor_runs_is_missed_until_it_returns(place: Place) -> None:
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
    monitor.match(r"\[WARN\] Readings again after \d+s")


def test_a_hanging_wg_is_killed_with_its_family_and_asked_again(place: Place) -> None:
    pids = place.path / "pids"
    place.wg("sleep 300 & echo $! $$ >%s; wait" % pids)
    monitor = place.start()
    monitor.match(r"\[WARN\] No reading: wg gave no answer within 10s; .*")
    first_pids = [int(pid) for pid in pids.read_text().split()]
    wait_for("their end", lambda: not any(map(alive, first_pids)))
    one = peer(1, now())
    place.device(peers=[one])
    place.wg('exec %s "$@"' % place.real_wg)
    monitor.see(told("ONLINE", one, "new"))
    monitor.match(r"\[WARN\] Readings again after \d+s")
    assert monitor.stop() == 0
    wait_for("the end of all", lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_the_start_is_told_while_the_first_wg_runs(place: Place) -> None:
    gate = place.path / "gate"
    place.wg("while [ ! -e %s ]; do sleep 0.05; done" % gate)
    monitor = place.start()
    monitor.match("Monitor started .*")
    gate.touch()
    assert monitor.stop() == 0
    assert not monitor.trail()[1:-1]


def test_a_hung_device_hangs_the_real_wg_and_not_the_monitor(place: Place) -> None:
    one = peer(1, now())
    device = place.device(peers=[one])
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    device.hang()
    monitor.match(r"\[WARN\] No reading: wg gave no answer within 10s; .*")
    device.resume()
    monitor.match(r"\[WARN\] Readings again after \d+s")
    assert len(events(monitor)) == 3


def dump(*peers: Peer, iface: str = "wg0") -> bytes:
    """What `wg show all dump` prints."""
    lines = ["\t".join((iface, PRIVATE_KEY, key("public"), "51820", "off"))]
    for it in peers:
        fields = iface, it.public_key, PRESHARED_KEY, it.endpoint or "(none)", it.allowed_ips or "(none)"
        lines.append("\t".join((*fields, str(it.handshake), str(it.rx), str(it.tx), "off")))
    return "".join(line + "\n" for line in lines).encode()


def test_an_interface_named_on_standard_error_only_is_unknown_not_gone(place: Place) -> None:
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
    "an endless endpoint": dump(peer(9, 1)).splitlines()[1].replace(b"192.0.2.1", b"1" * 5000) + b"\n",
    "a negative handshake": dump(peer(9, -1)).splitlines()[1] + b"\n",
    "a handshake of 20 digits": dump(peer(9, 10**19)).splitlines()[1] + b"\n",
    "a fraction": dump(peer(9, 1)).splitlines()[1].replace(b"\t1\t", b"\t1.5\t") + b"\n",
    "digits that are not ASCII": dump(peer(9, 1)).splitlines()[1].replace(b"\t1\t", "\t\u0661\t".encode()) + b"\n",
    "counters without an end": dump(peer(9, 1)._replace(rx=10**30)).splitlines()[1] + b"\n",
    "a key that is none": dump(peer(9, 1)).splitlines()[1].replace(peer(9).public_key.encode(), b"short=") + b"\n",
    "a path for an interface": b"../../etc/passwd\t" + dump(peer(9, 1)).splitlines()[1].partition(b"\t")[2] + b"\n",
    "a peer of no interface": dump(peer(9, 1), iface="wg7").splitlines()[1] + b"\n",
    "the same peer twice": dump(peer(1, 1)).splitlines()[1] + b"\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_line_that_is_none_spoils_nothing_but_itself(place: Place, garbage: bytes) -> None:
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


def console_oddities(monitor: Daemon) -> List[str]:
    """Lines of the console that are none of the program's: tracebacks, complaints of the interpreter."""
    return [line for line in monitor.console() if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z[]", line)]


def test_while_a_line_is_spoiled_nobody_on_that_interface_is_removed(place: Place) -> None:
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


def test_thousands_of_allowed_ips_are_one_bounded_line(place: Place) -> None:
    many = ",".join("10.1.%d.%d/32" % (i // 250, i % 250) for i in range(3000))
    place.device(peers=[peer(1, now())._replace(allowed_ips=many)])
    monitor = place.start()
    match = monitor.match(r"ONLINE  \[wg0\] .*")
    assert len(match.group()) < 1000
    assert monitor.stop() == 0


# --- Secrets ------------------------------------------------------------------------------------------------------

SECRETS = [
    form
    for secret in (PRIVATE_KEY, PRESHARED_KEY)
    for form in (secret, hexadecimal(secret), secret[:16], secret[-16:], secret.rstrip("="))
]
MISPLACED = {
    "as they should be": (dump(peer(1, 9)), "", 0),
    "with an exit status": (dump(peer(1, 9)), "Unable to read %s\n" % PRIVATE_KEY, 1),
    "in lines that break off": (dump(peer(1, 9))[:-20], "", 0),
    "in the public key's column": (dump(peer(1, 9)).replace(peer(1).public_key.encode(), b"?"), "", 0),
    "as an interface": (dump(peer(1, 9)).replace(b"wg0", PRIVATE_KEY.encode()), "", 0),
    "as an endpoint": (dump(peer(1, 9)).replace(b"192.0.2.1:1025", PRIVATE_KEY.encode()), "", 0),
    "as allowed IPs": (dump(peer(1, 9)).replace(b"10.0.0.1/32", PRESHARED_KEY.encode()), "", 0),
    "as a number": (dump(peer(1, 9)).replace(b"\t9\t", b"\t" + PRIVATE_KEY.encode() + b"\t"), "", 0),
    "on lines of their own": (("%s\n%s\n" % (PRIVATE_KEY, PRESHARED_KEY)).encode(), "", 0),
    "with other white space": (dump(peer(1, 9)).replace(b"\t", b" "), "", 0),
    "with fields too many": (dump(peer(1, 9)).replace(b"\n", b"\t%s\n" % PRIVATE_KEY.encode()), "", 0),
    "as an unreadable interface": (dump(), "Unable to access interface %s: no\n" % PRIVATE_KEY, 0),
    "in hexadecimal": (b"", "private_key=%s\n" % hexadecimal(PRIVATE_KEY), 1),
}


@pytest.mark.parametrize("output, errors, status", MISPLACED.values(), ids=MISPLACED.keys())
def test_private_and_preshared_keys_are_in_no_output_at_all(
    place: Place, output: bytes, errors: str, status: int
) -> None:
    hook = place.script("hook", "env >>%s; printf '%%s' \"$*\" >>%s\n" % (place.path / "hook-saw", place.path / "args"))
    store = place.path / "state.db"
    place.wg_prints(output, errors, status)
    monitor = place.start(
        *("--debug", "--stats-interval", "1", "--on-change-script", str(hook), "--state-path", str(store))
    )
    place.settle()
    process = Path("/proc/%d" % monitor.pid)
    seen = [(process / name).read_bytes() for name in ("cmdline", "environ")]
    assert monitor.stop() == 0
    seen += [path.read_bytes() for path in place.path.rglob("*") if path.is_file() and not is_source(path)]
    assert len(seen) >= 6, "trail, console, stdout, store and two of the process"
    for secret in SECRETS:
        assert not any(secret.encode() in data for data in seen), "found a secret"


def is_source(path: Path) -> bool:
    return path.name.startswith(("output-", "errors-")) or path.name == "real-wg"


def test_the_daemon_leaves_no_core(place: Place) -> None:
    device = place.device()
    monitor = place.start()
    device.settle()
    limits = Path("/proc/%d/limits" % monitor.pid).read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M)


def test_wg_is_run_by_its_path_with_an_environment_built_from_nothing(place: Place) -> None:
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
    allowed = {"PATH", "LANG", "PWD", "_", "SHLVL", "OLDPWD"}  # the last four are the shell's own
    assert {variable.partition("=")[0] for variable in variables} <= allowed
    assert not (place.path / "was-run").exists()


# --- The console, the journal, the service manager ----------------------------------------------------------------


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


def test_a_journal_that_is_somebody_elses_means_nothing(place: Place) -> None:
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


def test_a_threshold_below_wireguards_own_pace_is_warned_of_once(place: Place) -> None:
    device = place.device()
    monitor = place.start("--threshold", "120")
    device.settle()
    assert len([text for text in events(monitor) if text.startswith("[WARN] A threshold of 120s")]) == 1


def test_a_console_that_is_gone_stops_nothing(place: Place) -> None:
    """A terminal that was closed, or a pipe whose reader has ended."""
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


def test_the_service_manager_is_told_and_its_variables_reach_no_child(place: Place) -> None:
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


# --- Signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_with_a_line(place: Place, number: int) -> None:
    device = place.device()
    monitor = place.start()
    device.settle()
    assert monitor.stop(number) == 0
    assert monitor.trail()[-1].startswith("Monitor stopped | ")


def test_it_ends_while_wg_hangs_and_hooks_run(place: Place) -> None:
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
    monitor.match(r"\[WARN\] 6 hooks did not run.*")
    wait_for("the end of all", lambda: not any(alive(int(pid)) for pid in lines_of(pids)))


def test_sighup_opens_the_trail_anew(place: Place) -> None:
    device = place.device(peers=[peer(1, now())])
    monitor = place.start()
    device.settle()
    aside = place.trail.with_suffix(".1")
    assert place.trail.stat().st_ino in open_inodes(monitor)
    place.trail.rename(aside)
    monitor.send(signal.SIGHUP)
    wait_for("the old file let go", lambda: aside.stat().st_ino not in open_inodes(monitor))
    before = aside.read_bytes()
    device.publish([])
    monitor.match("REMOVED .*")
    assert aside.read_bytes() == before
    assert monitor.stop() == 0


def open_inodes(monitor: Daemon) -> List[int]:
    """Of the files that it holds open at this moment."""
    found = []
    for descriptor in Path("/proc/%d/fd" % monitor.pid).iterdir():
        try:
            found.append(descriptor.stat().st_ino)
        except FileNotFoundError:
            pass  # closed meanwhile
    return found


def test_a_storm_of_signals_ends_nothing(place: Place) -> None:
    device = place.device(peers=[peer(1, now())])
    monitor = place.start()
    device.settle()
    for _ in range(200):
        monitor.send(signal.SIGHUP)
    device.publish([])
    monitor.match("REMOVED .*")
    assert monitor.stop() == 0
    assert not console_oddities(monitor)


# --- The trail ----------------------------------------------------------------------------------------------------


def all_lines(place: Place) -> List[str]:
    """Of the trail and of what it was before, in order."""
    paths = sorted(place.logs.glob("wg_monitor.log.*")) + [place.trail]
    return [line for path in paths for line in lines_of(path)]


def test_a_trail_moved_again_and_again_loses_no_line_and_tears_none(place: Place) -> None:
    device = place.device(peers=[peer(0, now())])
    monitor = place.start()
    monitor.match("ONLINE .*")
    rounds = scaled(20)
    for number in range(1, rounds + 1):
        place.trail.rename(place.logs / ("wg_monitor.log.%03d" % number))
        device.publish([peer(number * 100 + i, now()) for i in range(50)])
        wait_for("the new trail", lambda: len([t for t in texts(lines_of(place.trail)) if "ONLINE" in t]) == 50)
    assert monitor.stop() == 0
    lines = texts(all_lines(place))
    assert len([text for text in lines if text.startswith("ONLINE ")]) == rounds * 50 + 1
    assert len([text for text in lines if text.startswith("REMOVED ")]) == rounds * 50 - 49
    assert len(lines) == len(set(lines)) == rounds * 100 - 48 + 2
    assert lines == texts(monitor.console())


def test_a_deleted_trail_is_made_anew(place: Place) -> None:
    device = place.device(peers=[peer(1, now())])
    monitor = place.start()
    monitor.match("ONLINE .*")
    place.trail.unlink()
    device.publish([])
    monitor.match("REMOVED .*")
    assert len(lines_of(place.trail)) == 1
    assert stat.S_IMODE(place.trail.stat().st_mode) == 0o640


def test_a_trail_whose_directory_is_gone_gets_its_lines_when_it_returns(place: Place) -> None:
    directory = place.logs / "deep"
    directory.mkdir()
    device = place.device(peers=[peer(1, now())])
    monitor = place.start("--log-path", "/var/log/deep/trail")
    wait_for("ONLINE", lambda: any(" ONLINE " in line for line in lines_of(directory / "trail")))
    (directory / "trail").unlink()
    directory.rmdir()
    device.publish([])
    monitor.hear(r"\[WARN\] /var/log/deep/trail cannot be written: No such file or directory.*")
    monitor.hear(r"REMOVED .*")
    directory.mkdir()
    wait_for("the kept lines", lambda: any(" REMOVED " in line for line in lines_of(directory / "trail")))
    assert monitor.stop() == 0
    assert lines_of(directory / "trail") == monitor.console()[2:]


def test_a_full_disk_tears_no_line(place: Place) -> None:
    disk = place.logs / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "none", str(disk)], check=True)
    place.stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
    trail = disk / "trail"
    device = place.device(peers=[])
    monitor = place.start("--log-path", "/var/log/disk/trail")
    wait_for("a trail", lambda: lines_of(trail))
    (disk / "ballast").write_bytes(b"x" * 61_000)
    device.publish([peer(number, now()) for number in range(500)])  # 50 KiB of lines
    monitor.hear(r"\[WARN\] /var/log/disk/trail cannot be written: No space left on device.*")
    device.settle()
    (disk / "ballast").unlink()
    monitor.hear(r"\[WARN\] /var/log/disk/trail can be written again after .*")
    assert monitor.stop() == 0
    assert lines_of(trail) == monitor.console()
    assert len([text for text in texts(lines_of(trail)) if text.startswith("ONLINE ")]) == 500


@pytest.mark.parametrize("umask", ["000", "077", "777"])
def test_the_first_trail_has_its_mode_whatever_the_umask(place: Place, umask: str) -> None:
    device = place.device()
    script = place.script("with-umask", 'umask %s; exec "$@"\n' % umask)
    place.start(wrapper=str(script))
    device.settle()
    assert stat.S_IMODE(place.trail.stat().st_mode) == 0o640


def test_a_second_monitor_on_the_same_trail_reports_to_the_console_only(place: Place) -> None:
    one = peer(1, now())
    device = place.device(peers=[one])
    service = place.start()
    service.see(told("ONLINE", one, "new"))
    by_hand = place.start("--debug")
    by_hand.hear(r"\[WARN\] .*another monitor.*")
    by_hand.hear(re.escape(told("ONLINE", one, "new")))
    device.publish([])
    by_hand.hear(re.escape(told("REMOVED", one)))
    service.see(told("REMOVED", one))
    assert by_hand.stop() == 0
    assert service.stop() == 0
    assert lines_of(place.trail) == service.console()


def test_an_unfinished_last_line_swallows_no_other(place: Place) -> None:
    place.trail.write_text("2023-10-27 10:00:00 torn")
    place.trail.chmod(0o640)
    device = place.device()
    monitor = place.start()
    device.settle()
    monitor.stop()
    assert lines_of(place.trail)[0] == "2023-10-27 10:00:00 torn"
    assert lines_of(place.trail)[1:] == monitor.console()


# --- The hook -----------------------------------------------------------------------------------------------------


def recorder(place: Place, more: str = "") -> Tuple[Path, Callable[[], List[Dict[str, str]]]]:
    """A hook that keeps the environments of its runs, and what it has kept."""
    kept = place.path / "kept"
    kept.mkdir()
    hook = place.script("hook", 'env -0 >%s/$PEER_SEQ.part && mv %s/$PEER_SEQ.part %s/$PEER_SEQ\n%s' % (kept, kept, kept, more))

    def runs() -> List[Dict[str, str]]:
        paths = sorted((path for path in kept.iterdir() if not path.suffix), key=lambda path: int(path.name))
        return [dict(pair.split("=", 1) for pair in path.read_text().split("\0") if pair) for path in paths]

    return hook, runs


def test_the_hook_is_told_everything_and_nothing_else(place: Place) -> None:
    hook, runs = recorder(place)
    ips = "10.0.0.1/32,10.1.0.0/24,2001:db8::/64"
    one, offline = peer(1, now() - 175)._replace(allowed_ips=ips), peer(2)
    device = place.device(peers=[one, offline])
    monitor = place.start("--on-change-script", str(hook), environment={"SECRET": "inherited"})
    wait_for("two runs", lambda: len(runs()) == 2)
    device.publish([offline])
    wait_for("three runs", lambda: len(runs()) == 3)
    device.settle()
    monitor.stop()
    for run, event, online in zip(runs(), ("ONLINE", "OFFLINE", "REMOVED"), "100"):
        shell = {name: run.pop(name) for name in ("PWD", "SHLVL", "_", "OLDPWD") if name in run}  # the shell's own
        assert shell.get("PWD", "/") == "/"
        assert run.pop("PEER_SEQ").isdigit()
        assert run == {
            "PATH": "/usr/bin:/usr/sbin:/bin:/sbin",
            "LANG": "C.UTF-8",
            "HOME": "/",
            "PEER_EVENT": event,
            "PEER_IFACE": "wg0",
            "PEER_PUBKEY": one.public_key,
            "PEER_ENDPOINT": one.endpoint,
            "PEER_ALLOWED_IPS": ips,
            "PEER_HANDSHAKE": str(one.handshake),
            "PEER_ONLINE": online,
        }
    assert len(runs()) == 3, "a peer first seen offline went nowhere"


def test_thousands_of_allowed_ips_reach_the_hook_whole(place: Place) -> None:
    hook, runs = recorder(place)
    many = ",".join("10.1.%d.%d/32" % (i // 250, i % 250) for i in range(3000))
    place.device(peers=[peer(1, now())._replace(allowed_ips=many)])
    place.start("--on-change-script", str(hook))
    wait_for("a run", runs)
    assert runs()[0]["PEER_ALLOWED_IPS"] == many


def test_the_hook_runs_for_the_events_that_were_asked_for(place: Place) -> None:
    hook, runs = recorder(place)
    one = peer(1, now())
    device = place.device(peers=[one])
    events_wanted = "ROAMING,CHANGED,IFUP,IFDOWN"
    monitor = place.start("--on-change-script", str(hook), "--script-events", events_wanted)
    monitor.match("ONLINE .*")
    device.publish([one._replace(endpoint="198.51.100.1:1", allowed_ips="10.9.9.9/32")])
    monitor.match("CHANGED .*")
    device.close()
    monitor.match("IFDOWN .*")
    place.device("wg1")
    monitor.match("IFUP .*")
    wait_for("four runs", lambda: len(runs()) == 4)
    assert [(run["PEER_EVENT"], run["PEER_IFACE"]) for run in runs()] == [
        ("ROAMING", "wg0"),
        ("CHANGED", "wg0"),
        ("IFDOWN", "wg0"),
        ("IFUP", "wg1"),
    ]
    assert [run["PEER_PUBKEY"] for run in runs()] == [one.public_key, one.public_key, "", ""]


def test_the_hook_is_no_shell_has_no_input_and_a_session_of_its_own(place: Place) -> None:
    saw = place.path / "saw"
    look = "cat; echo $# $PWD; ls /proc/self/fd | tr '\\n' ' '; echo; echo $$; sed 's/.*) //' /proc/$$/stat"
    hook = place.script("a hook; touch x", "{ %s; } >%s.new; mv %s.new %s\n" % (look, saw, saw, saw))
    place.device(peers=[peer(1, now())])
    place.start("--on-change-script", str(hook))
    wait_for("the hook", saw.exists)
    arguments, descriptors, pid, status = saw.read_text().splitlines()
    assert arguments == "0 /"
    assert descriptors.split() == ["0", "1", "2", "3"], "the last is ls's own"
    assert status.split()[3] == pid, "it leads its session"


def test_hooks_run_four_at_once_and_in_order_for_each_peer(place: Place) -> None:
    gate, log = place.path / "gate", place.path / "hook-log"
    wait = "while [ ! -e %s ]; do sleep 0.05; done" % gate
    hook = place.script("hook", "echo begin $PEER_PUBKEY $PEER_EVENT >>%s; %s; echo end >>%s\n" % (log, wait, log))
    crowd = [peer(number, now()) for number in range(6)]
    device = place.device(peers=crowd)
    monitor = place.start("--on-change-script", str(hook))
    wait_for("four hooks", lambda: len(lines_of(log)) == 4)
    device.publish(crowd[1:])
    monitor.match("REMOVED .*")  # readings go on
    device.publish(crowd)
    monitor.see(told("ONLINE", crowd[0], "new"), 2)
    device.settle()
    assert len(lines_of(log)) == 4
    gate.touch()
    wait_for("all hooks", lambda: lines_of(log).count("end") == 8)
    mine = [line.split()[2] for line in lines_of(log) if crowd[0].public_key in line]
    assert mine == ["ONLINE", "REMOVED", "ONLINE"]


def test_a_hook_that_takes_too_long_is_killed_with_its_family(place: Place) -> None:
    pids = place.path / "pids"
    hook = place.script("hook", "trap '' TERM; sleep 300 & echo $$ $! >%s; wait\n" % pids)
    place.device(peers=[peer(1, now())])
    monitor = place.start("--on-change-script", str(hook), "--script-timeout", "1")
    monitor.match(r"\[WARN\] Hook for ONLINE \[wg0\] %s took too long and was killed" % re.escape(short(peer(1))))
    wait_for("the end of all", lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_a_failing_hook_is_reported_in_one_clean_bounded_line(place: Place) -> None:
    say = r"printf 'one\ntwo\033[2J\342\200\250%%s' %s; head -c 100000 /dev/zero | tr '\0' x" % PRIVATE_KEY
    hook = place.script("hook", say + "; exit 7\n")
    place.device(peers=[peer(1, now())])
    monitor = place.start("--on-change-script", str(hook))
    match = monitor.match(r"\[WARN\] Hook for ONLINE \[wg0\] .*")
    said = match.group().partition(" exited with status 7: ")[2]
    assert said.startswith("one two") and said.isprintable() and "\u2028" not in said
    assert PRIVATE_KEY not in said
    assert 3500 < len(said) <= 4096
    monitor.stop()
    assert not console_oddities(monitor)


def test_what_a_successful_hook_says_is_for_debugging(place: Place) -> None:
    hook = place.script("hook", "echo well done\n")
    one = peer(1, now())
    device = place.device(peers=[one])
    quiet = place.start("--on-change-script", str(hook))
    device.settle()
    quiet.stop()
    assert "well done" not in quiet.console_path.read_text()
    loud = place.start("--on-change-script", str(hook), "--debug")
    loud.hear(r"\[DEBUG\] Hook for ONLINE \[wg0\] .*: well done")


def test_a_grandchild_that_holds_the_hooks_output_delays_nobody(place: Place) -> None:
    pids = place.path / "pids"
    hook = place.script("hook", "echo started; sleep 300 & echo $! >>%s; exit 1\n" % pids)
    one = peer(1, now())
    device = place.device(peers=[one])
    monitor = place.start("--on-change-script", str(hook))
    try:
        monitor.match(r"\[WARN\] Hook for ONLINE \[wg0\] .* exited with status 1: started")
        device.publish([])
        monitor.match(r"\[WARN\] Hook for REMOVED \[wg0\] .* exited with status 1: started")
        assert monitor.stop() == 0
    finally:
        for pid in lines_of(pids):
            if alive(int(pid)):
                os.kill(int(pid), signal.SIGKILL)


def test_a_hook_that_became_unfit_is_not_run(place: Place) -> None:
    hook, runs = recorder(place)
    one = peer(1, now())
    device = place.device(peers=[one])
    monitor = place.start("--on-change-script", str(hook))
    wait_for("a run", runs)
    hook.chmod(0o777)
    device.publish([])
    monitor.match(r"\[WARN\] The hook \S+/hook is not run: it can be written by others.*")
    device.settle()
    assert len(runs()) == 1
    hook.chmod(0o755)
    device.publish([one])
    wait_for("another run", lambda: runs()[-1]["PEER_EVENT"] == "ONLINE" and len(runs()) > 1)
    monitor.match(r"\[WARN\] The hook \S+/hook is run again.*")


def test_a_hook_that_the_kernel_refuses_is_reported(place: Place) -> None:
    hook = place.path / "hook"
    hook.write_text("#!/no/such/interpreter\n")
    hook.chmod(0o755)
    place.device(peers=[peer(1, now())])
    monitor = place.start("--on-change-script", str(hook))
    monitor.match(r"\[WARN\] Hook for ONLINE \[wg0\] could not be run: No such file or directory.*")
    assert monitor.stop() == 0


# --- Wrong settings -----------------------------------------------------------------------------------------------

REFUSED_FLAGS = {
    "no interval": "--interval 0",
    "a word for an interval": "--interval abc",
    "a float for an interval": "--interval 1e3",
    "a fraction": "--interval 1.5",
    "a negative interval": "--interval=-1",
    "a sign": "--interval=+5",
    "white space": "--interval=5\t",
    "digits that are not ASCII": "--interval \uff15",
    "underscores": "--interval 1_0",
    "more than a year": "--interval 31536001",
    "a threshold of nothing": "--threshold 0",
    "statistics never": "--stats-interval 0",
    "no time for the hook": "--script-timeout 0",
    "no history": "--history-days 0",
    "more than a hundred years": "--history-days 36501",
    "a path for an interface": "--interface ../x",
    "a name too long": "--interface abcdefghijklmnop",
    "an empty name": "--interface wg0,,wg1",
    "an escape in a name": "--interface wg\x1b[2J",
    "an unknown format": "--log-format xml",
    "a format in capitals": "--log-format JSON",
    "an unknown sign of life": "--liveness ping",
    "an unknown event": "--script-events ONLINE,SOMETIMES",
    "an unknown flag": "--intervall 5",
    "an abbreviated flag": "--inter 5",
    "a word too many": "start",
    "a flag without its value": "--interval",
    "a value for a switch": "--debug=perhaps",
}


def refused(*flags: str, environment: Optional[Dict[str, str]] = None, code: int = 2) -> str:
    """The one line that a refusal is."""
    done = command_line(*flags, environment=environment)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.endswith("\n") and done.stderr[:-1].isprintable(), done.stderr
    return done.stderr[:-1]


@pytest.mark.parametrize("flags", REFUSED_FLAGS.values(), ids=REFUSED_FLAGS.keys())
def test_a_wrong_flag_is_refused_with_one_line_and_nothing_is_made(place: Place, flags: str) -> None:
    line = refused("--log-path", str(place.path / "trail"), *flags.split(" ", 1))
    assert not (place.path / "trail").exists()
    variable = flags.split(" ")[0].split("=")[0].lstrip("-")
    assert variable.replace("-", "_").lower() in line.replace("-", "_").lower()


REFUSED_VARIABLES = {
    "INTERVAL": "0",
    "THRESHOLD": "1e3",
    "STATS_INTERVAL": "never",
    "LIVENESS": "1",
    "LOG_FORMAT": "csv",
    "INTERFACE": "wg0;reboot",
    "SCRIPT_TIMEOUT": "-1",
    "SCRIPT_EVENTS": "online",
    "HISTORY_DAYS": "forever",
    "DEBUG": "maybe",
    "LOG_PATH": "trail.log",
    "STATE_PATH": "state.db",
    "ON_CHANGE_SCRIPT": "hook.sh",
}


@pytest.mark.parametrize("variable, value", REFUSED_VARIABLES.items(), ids=REFUSED_VARIABLES.keys())
def test_a_wrong_variable_is_refused_by_its_name_and_value(place: Place, variable: str, value: str) -> None:
    environment = {"LOG_PATH": str(place.path / "trail"), variable: value}
    line = refused("--from-environment", environment=environment)
    assert variable in line and value in line
    assert not (place.path / "trail").exists()


def test_variables_count_only_where_they_are_asked_for_and_a_flag_beats_them(place: Place) -> None:
    device = place.device()
    variables = {"THRESHOLD": "200", "STATS_INTERVAL": "", "INTERFACE": ""}
    monitor = place.start("--from-environment", environment={**variables, "INTERVAL": "9"})
    device.settle()
    monitor.stop()
    assert monitor.trail()[0] == "Monitor started | Interval: 1s, Threshold: 200s, Stats: 3600s"
    deaf = place.start(environment={"THRESHOLD": "0", "DEBUG": "nonsense"})
    device.settle()
    deaf.hear(MONITOR_STARTED.replace("|", r"\|"))
    assert deaf.stop() == 0


def make_trail(place: Place, kind: str) -> str:
    """Something that cannot be the trail, by its path."""
    path = place.path / "trail"
    if kind == "a link":
        path.symlink_to(place.path / "elsewhere")
    elif kind == "a link to nowhere":
        path.symlink_to("/etc/wg-monitor-test")
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(str(path))
    elif kind == "a device":
        os.mknod(str(path), 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    elif kind == "a file with two names":
        path.touch()
        os.link(str(path), str(place.path / "second"))
    elif kind == "somebody else's file":
        path.touch()
        os.chown(str(path), 65534, -1)
    elif kind == "in a directory that leads outside":
        path.symlink_to("/etc")
        path = path / "wg-monitor-test"
    elif kind == "in a directory that is not there":
        path = path / "trail"
    elif kind == "in a file":
        path.touch()
        path = path / "trail"
    return str(path)


UNFIT_FILES = [
    "a link",
    "a link to nowhere",
    "a directory",
    "a pipe",
    "a device",
    "a file with two names",
    "somebody else's file",
    "in a directory that leads outside",
    "in a directory that is not there",
    "in a file",
]


@pytest.mark.parametrize("kind", UNFIT_FILES)
def test_an_unfit_trail_is_refused(place: Place, kind: str) -> None:
    path = make_trail(place, kind)
    before = sorted(str(each) for each in place.path.rglob("*"))
    assert "LOG_PATH" in refused("--log-path", path)
    assert sorted(str(each) for each in place.path.rglob("*")) == before
    assert not os.path.exists("/etc/wg-monitor-test")


OUTSIDE = {
    "outside": "/etc/wg-monitor-test",
    "dots that lead outside": "/var/log/../../etc/wg-monitor-test",
    "a root's name only begun": "/var/log-evil/wg-monitor-test",
    "relative": "wg-monitor-test",
    "a root itself": "/tmp",
    "a directory's name": "/tmp/",
    "a dot": "/tmp/.",
    "two dots": "/tmp/..",
    "a newline": "/tmp/wg-monitor\ntest",
    "an escape": "/tmp/wg-monitor\x1b[2Jtest",
    "a direction mark": "/tmp/wg-monitor\u202etest",
    "a line separator": "/tmp/wg-monitor\u2028test",
    "bytes that are no text": "/tmp/wg-monitor\udcfftest",
}


@pytest.mark.parametrize("path", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_trail_outside_its_roots_is_refused(path: str) -> None:
    assert "LOG_PATH" in refused("--log-path", path)
    assert not os.path.lexists(path) or os.path.isdir(path)


def test_a_look_alike_of_a_root_is_refused_even_where_it_exists(place: Place) -> None:
    """By components, not by prefix."""
    evil = Path("/tmp-wg-monitor-%d" % os.getpid())
    evil.mkdir()
    try:
        assert "LOG_PATH" in refused("--log-path", str(evil / "trail"))
        assert list(evil.iterdir()) == []
    finally:
        evil.rmdir()


UNFIT_STORES = {
    "outside": "/etc/wg-monitor-test.db",
    "in the trails' root": "/var/log/wg-monitor-test.db",
    "in a directory that everybody writes to": "/tmp/wg-monitor-test.db",
    "relative": "state.db",
}


@pytest.mark.parametrize("path", UNFIT_STORES.values(), ids=UNFIT_STORES.keys())
def test_an_unfit_store_is_refused(place: Place, path: str) -> None:
    assert "STATE_PATH" in refused("--log-path", str(place.path / "trail"), "--state-path", path)
    assert not os.path.exists(path)
    assert not (place.path / "trail").exists()


def make_hook(place: Place, kind: str) -> str:
    directory = place.path / "hooks"
    directory.mkdir()
    hook = place.script("hooks/hook", "true\n")
    if kind == "missing":
        hook.unlink()
    elif kind == "a directory":
        hook.unlink()
        hook.mkdir()
    elif kind == "not executable":
        hook.chmod(0o644)
    elif kind == "writable by its group":
        hook.chmod(0o775)
    elif kind == "writable by all":
        hook.chmod(0o757)
    elif kind == "somebody else's":
        os.chown(str(hook), 65534, -1)
    elif kind == "in a directory that others write to":
        directory.chmod(0o775)
    elif kind == "in somebody else's directory":
        os.chown(str(directory), 65534, -1)
    elif kind == "behind somebody else's link":
        os.chown(str(directory), 65534, -1)
        (directory / "link").symlink_to(place.script("fit", "true\n"))
        return str(directory / "link")
    elif kind == "a link to somebody else's":
        os.chown(str(hook), 65534, -1)
        (place.path / "link").symlink_to(hook)
        return str(place.path / "link")
    return str(hook)


UNFIT_HOOKS = [
    "missing",
    "a directory",
    "not executable",
    "writable by its group",
    "writable by all",
    "somebody else's",
    "in a directory that others write to",
    "in somebody else's directory",
    "behind somebody else's link",
    "a link to somebody else's",
]


@pytest.mark.parametrize("kind", UNFIT_HOOKS)
def test_an_unfit_hook_is_refused(place: Place, kind: str) -> None:
    hook = make_hook(place, kind)
    line = refused("--log-path", str(place.path / "trail"), "--on-change-script", hook)
    assert "ON_CHANGE_SCRIPT" in line and hook in line
    assert not (place.path / "trail").exists()


def test_a_directory_that_the_daemon_may_not_write_is_named_with_its_owner(place: Place) -> None:
    """Root without CAP_DAC_OVERRIDE, as under the units, is bound by ownership like anyone."""
    need("setpriv")
    os.chown(str(place.logs), 65534, 65534)
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    done = command_line("--log-path", str(place.trail), behind=bound)
    assert done.returncode == 4
    assert "LOG_PATH" in done.stderr and str(place.logs) in done.stderr and "nobody" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not place.trail.exists()


def test_a_second_monitor_on_the_same_store_is_refused(place: Place) -> None:
    device = place.device()
    store = str(place.path / "state.db")
    place.start("--state-path", store)
    device.settle()
    second = place.start("--state-path", store, "--log-path", "/var/log/second.log")
    assert second.wait() == 1
    assert re.fullmatch("wg_monitor: STATE_PATH: .* is in use by another monitor", "\n".join(second.console()))
    assert not (place.logs / "second.log").exists()


# --- The command line ---------------------------------------------------------------------------------------------

NOBODY = ["unshare", "--user"]  # no user at all, without any capability


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_need_no_root(flag: str) -> None:
    done = command_line(flag, behind=NOBODY)
    assert done.returncode == 0 and done.stdout and not done.stderr


def test_wrong_usage_needs_no_root() -> None:
    assert command_line("--interval", "0", behind=NOBODY).returncode == 2


def test_without_root_the_daemon_says_what_it_needs(place: Place) -> None:
    done = command_line("--log-path", str(place.path / "trail"), behind=NOBODY)
    assert done.returncode == 4 and "root" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (place.path / "trail").exists()


def test_without_wg_the_daemon_says_what_to_install(place: Place) -> None:
    place.wg("true")
    assert place.fake_wg is not None
    place.fake_wg.chmod(0o644)
    monitor = place.start()
    assert monitor.wait() == 5
    assert len(monitor.console()) == 1 and "wireguard-tools" in monitor.console()[0]
    assert not place.trail.exists()


def test_check_tells_what_is_fit(place: Place) -> None:
    hook = place.script("hook", "true\n")
    store = str(place.path / "state.db")
    flags = ["--log-path", str(place.trail), "--on-change-script", str(hook), "--state-path", store]
    done = command_line("check", *flags, behind=place.enter())
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6 and all(line.startswith("ok ") for line in lines)
    assert not place.trail.exists() and not os.path.exists(store)


def test_check_names_each_misfit_and_exits_with_the_first_ones_code(place: Place) -> None:
    hook = place.script("hook", "true\n", 0o777)
    place.wg("true")
    assert place.fake_wg is not None
    place.fake_wg.chmod(0o644)
    flags = ["--log-path", "/etc/wg-monitor-test", "--on-change-script", str(hook)]
    done = command_line("check", *flags, behind=place.enter())
    assert done.returncode == 5
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL ")]
    assert failed == ["wg", "trail", "hook"]
    wrong = command_line("check", "--interval", "0", behind=place.enter())
    assert wrong.returncode == 2 and re.search(r"^FAIL +settings .*INTERVAL", wrong.stdout, re.M)
    assert command_line("check", behind=NOBODY).returncode == 4


def test_a_debug_run_by_hand_just_runs(place: Place) -> None:
    one = peer(1, now())
    place.device(peers=[one])
    monitor = place.start("--debug", "--interval", "5", "--threshold", "60")
    monitor.see(told("ONLINE", one, "new"))
    assert monitor.stop(signal.SIGINT) == 0
    assert monitor.trail()[0] == "Monitor started | Interval: 5s, Threshold: 60s, Stats: 3600s"
    assert not console_oddities(monitor)


def test_nothing_is_left_behind_by_thousands_of_peers_that_come_and_go(place: Place) -> None:
    """Descriptors and processes after many events are what they were before."""
    hook = place.script("hook", "exit 1\n")
    device = place.device(peers=[peer(0, now())])
    monitor = place.start("--on-change-script", str(hook))
    monitor.match(r"\[WARN\] Hook .*")

    def held() -> Tuple[int, int]:
        process = Path("/proc/%d" % monitor.pid)
        return len(list((process / "fd").iterdir())), len((process / ("task/%d/children" % monitor.pid)).read_text().split())

    device.settle()
    before = wait_for("a quiet moment", lambda: held() if held()[1] == 0 else None)
    crowd = [peer(number, now()) for number in range(scaled(200))]
    device.publish(crowd)
    device.settle()
    device.publish(crowd[:1])
    wait_for("all hooks", lambda: len([t for t in monitor.trail() if t.startswith("[WARN] Hook")]) == 2 * len(crowd) - 1)
    wait_for("as many descriptors as before", lambda: held() == before)
