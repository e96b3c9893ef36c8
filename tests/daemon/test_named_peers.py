"""Names in the lines, the store, the hook and JSON of a running daemon, and what happens when a file of names changes."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, List

import pytest

from device import PRIVATE_KEY, Peer, peer
from expected import events, now, short, told
from harness import Place, command_line, wait_for

CONFIGURATION = "[Interface]\nPrivateKey = %s\n\n" % PRIVATE_KEY


def write(path: Path, text: str) -> None:
    """At once, as an editor does it."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def section(who: Peer, name: str) -> str:
    return "### Client %s\n[Peer]\nPublicKey = %s\n\n" % (name, who.public_key)


def named(name: str, line: str, who: Peer) -> str:
    """The line of an event with a name before the key."""
    return line.replace(short(who), name + " " + short(who))


def query(place: Place, text: str) -> List[Any]:
    with closing(sqlite3.connect("file:%s?mode=ro" % (place.path / "state.db"), uri=True)) as database:
        return database.execute(text).fetchall()


def test_names_in_lines_hook_and_store(place: Place) -> None:
    """A name that changes makes no event. Sessions and events keep the name that the peer had."""
    names, seen = place.path / "wg0.conf", place.path / "hook-saw"
    ann, bob = peer(1, now()), peer(2, now())
    write(names, CONFIGURATION + section(ann, "Ann's laptop"))
    hook = place.script("hook", 'echo "$PEER_EVENT $PEER_SEQ ${PEER_NAME-unset}" >>%s\n' % seen)
    device = place.device(peers=[ann, bob])
    flags = ("--peer-names", str(names), "--state-path", str(place.path / "state.db"), "--on-change-script", str(hook))
    monitor = place.start(*flags)
    monitor.see(named("Ann_s_laptop", told("ONLINE", ann, "new"), ann))
    monitor.see(told("ONLINE", bob, "new"))
    both = "SELECT name FROM peers JOIN sessions USING (name, public_key) ORDER BY name"
    assert query(place, both) == [("",), ("Ann_s_laptop",)]
    of_events = "SELECT DISTINCT name FROM events WHERE kind = 'ONLINE' ORDER BY name"
    assert query(place, of_events) == [(None,), ("Ann_s_laptop",)]
    write(names, CONFIGURATION + section(ann, "anna") + section(bob, "Bob"))
    device.settle()
    device.settle()
    assert len(events(monitor)) == 2, "a name that changes makes no event"
    device.publish([ann])
    monitor.match(r"REMOVED \[wg0\] Bob %s .*" % short(bob))
    moved = ann._replace(endpoint="192.0.2.77:7")
    device.publish([moved])
    monitor.match(r"ROAMING \[wg0\] anna %s .*" % short(ann))
    wait_for("the hooks", lambda: seen.exists() and len(seen.read_text().splitlines()) >= 3)
    assert monitor.stop() == 0
    ran = sorted(line.split(" ", 2)[0::2] for line in seen.read_text().splitlines())
    assert ran == [["ONLINE", ""], ["ONLINE", "Ann_s_laptop"], ["REMOVED", "Bob"]]
    assert query(place, "SELECT public_key, name FROM peers") == [(ann.public_key, "anna")]
    sessions = query(place, "SELECT public_key, name, reason FROM sessions ORDER BY number")
    assert sessions == [(ann.public_key, "Ann_s_laptop", None), (bob.public_key, "", "removed")]
    assert query(place, "SELECT name FROM events WHERE kind = 'REMOVED'") == [("Bob",)]
    monitor = place.start("--state-path", str(place.path / "state.db"))
    device.settle()
    device.publish([])
    monitor.match(r"REMOVED \[wg0\] %s .*" % short(ann))  # without PEER_NAMES, no peer has a name
    assert monitor.stop() == 0


def test_names_in_json(place: Place) -> None:
    names = place.path / "names"
    ann, bob = peer(1, now()), peer(2, now())
    write(names, "%s Änn\n" % ann.public_key)
    device = place.device(peers=[ann, bob])
    monitor = place.start("--log-format", "json", "--peer-names", str(names))
    device.settle()
    assert monitor.stop() == 0
    lines = [json.loads(line) for line in place.trail.read_text().splitlines()]
    assert {line["peer"]: line.get("name") for line in lines if "peer" in line} == {ann.public_key: "Änn", bob.public_key: None}


def test_a_file_of_names_is_a_fault_while_it_cannot_be_read(place: Place) -> None:
    """It is reported once, and so is its end. Names stay, also across a restart with a store."""
    folder, names = place.path / "wireguard", place.path / "wireguard/wg0.conf"
    ann = peer(1, now())
    device = place.device(peers=[ann])
    flags = ("--peer-names", str(folder), "--state-path", str(place.path / "state.db"))
    monitor = place.start(*flags)
    monitor.see("[WARN] The names from %s stay as they are: No such file or directory" % folder)
    monitor.see(told("ONLINE", ann, "new"))
    folder.mkdir(0o700)
    write(names, CONFIGURATION + section(ann, "ann"))
    monitor.match(r"\[WARN\] Names are read from %s again after \d+s" % folder)
    write(names, CONFIGURATION + section(ann, "ann") + "[Peer]\nPublicKey = %s\n" % PRIVATE_KEY[1:])
    why = "the public key in line 9 is invalid, or not the only one of a [Peer]"
    monitor.see("[WARN] The names from %s stay as they are: %s" % (names, why))
    os.mkfifo(str(folder / "x.conf"))
    why = "neither a regular file of at most 16 MiB nor a directory that can be listed"
    monitor.see("[WARN] The names from %s/x.conf stay as they are: %s" % (folder, why))
    device.settle()
    warnings = [line for line in monitor.trail() if line.startswith("[WARN]")]
    assert len(warnings) == 4 and PRIVATE_KEY[1:20] not in "".join(warnings)
    assert monitor.stop() == 0
    write(names, '{"')
    monitor = place.start(*flags)
    monitor.see("[WARN] The names from %s stay as they are: line 1 is not valid JSON" % names)
    device.publish([ann._replace(endpoint="192.0.2.77:7")])
    monitor.match(r"ROAMING \[wg0\] ann %s .*" % short(ann))
    (folder / "x.conf").unlink()
    write(names, "# nobody\n")
    monitor.match(r"\[WARN\] Names are read from %s again after \d+s" % names)
    device.publish([ann._replace(endpoint="192.0.2.78:7")])
    monitor.match(r"ROAMING \[wg0\] %s .*" % short(ann))
    assert monitor.stop() == 0


def test_no_private_key_of_a_file_reaches_any_output(place: Place) -> None:
    ann, folder = peer(1, now()), place.path / "wireguard"
    folder.mkdir()
    secret = "cHJpdmF0ZSBrZXkgb2YgYSBwZWVyLCBpbiBhIGZpbGU="
    write(folder / "a.conf", "[Peer]\n# %s\n# Name = %s\nPublicKey = %s\nAllowedIPs = ::/0 # %s\n" % ((secret,) * 4))
    write(folder / "b.conf", '{"publicKey": "%s", "name": "%s", "privateKey": "%s"' % (ann.public_key, secret, secret))
    write(folder / "c.conf", "%s\n%s %s\nprivate key: %s\n" % (secret, ann.public_key, secret, secret))
    write(folder / "d.conf", "# -WGP- PrivateKey: %s\n[Peer]\nPublicKey = %s\n" % (secret[:-7], ann.public_key))
    hook = place.script("hook", "env >>%s\n" % (place.path / "hook-saw"))
    flags = ("--peer-names", str(folder), "--state-path", str(place.path / "state.db"), "--on-change-script", str(hook))
    device = place.device(peers=[ann])
    monitor = place.start("--debug", *flags)
    device.settle()
    device.publish([])
    monitor.match(r"REMOVED \[wg0\] %s .*" % short(ann))
    assert monitor.stop() == 0
    checked = command_line("check", "--peer-names", str(folder))
    seen = [checked.stdout.encode(), checked.stderr.encode()]
    seen += [path.read_bytes() for path in place.path.rglob("*") if path.is_file() and path.parent != folder]
    assert not any(secret[:16].encode() in data or secret[-16:].encode() in data for data in seen)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_hostile_names_forge_no_line(place: Place, log_format: str) -> None:
    ann, names = peer(1, now()), place.path / "names.json"
    hostile = "x\n2026-11-23 20:55:04 REMOVED [wg0] AbC1dEf2...4xYz5678 \x1b[2J\u202e"
    write(names, json.dumps({"publicKey": ann.public_key, "name": hostile}))
    device = place.device(peers=[ann])
    monitor = place.start("--log-format", log_format, "--peer-names", str(names))
    device.settle()
    assert monitor.stop() == 0
    lines = place.trail.read_text().splitlines()
    assert len(lines) == 3
    assert "x_2026-11-23_20_55_04_REMOVED__wg0__AbC1dEf2_4xYz5678___2J" in lines[1]


def test_check_reports_the_names(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("%s ann\n%s bob\n" % (peer(1).public_key, peer(2).public_key))
    told_good = command_line("check", "--peer-names", str(names)).stdout.splitlines()
    assert "ok    names        2 names" in told_good
    told_bad = command_line("check", "--peer-names", "%s,%s/none" % (names, tmp_path)).stdout.splitlines()
    why = "2 names; The names from %s/none stay as they are: No such file or directory" % tmp_path
    assert "FAIL  names        " + why in told_bad
    assert not any("names" in line for line in command_line("check").stdout.splitlines())
