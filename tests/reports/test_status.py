"""What `wg-monitor status` says: from a store alone, from a store and `wg`, and from `wg` alone."""

import json
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Any, List

import pytest

import device
from device import peer
from harness import Place, command_line, need, wait_for
from reports import Answer, for_everybody, online, report, run, story
from stores import ask, change
from values import P, at, chosen, dump, key
from watcher import Watcher, query
from wg_monitor import EXIT_FAILURE, EXIT_NOT_PERMITTED, Refusal

pytestmark = pytest.mark.usefixtures("utc")


def status(store: Path, *words: str, **how: Any) -> Answer:
    return report("status", *words, "--store", str(store), **how)


# --- From a store -------------------------------------------------------------------------------------------------

WHOLE = """\
wg0  1 of 2 online, watched since 2023-11-14 22:16, last reading 10s ago
  PEER          STATE    SINCE   ENDPOINT             HANDSHAKE   RECEIVED  SENT
  bob/////...   online   30s     192.0.2.9:999        30s ago      2.0 KiB   0 B
  alice-laptop  offline  2m 40s  198.51.100.88:37089  3m 45s ago         -     -
"""


def test_the_table(store: Path) -> None:
    assert status(store) == Answer(0, WHOLE, "")


def test_json(store: Path) -> None:
    bob, ann = json.loads(status(store, "--json").out)
    assert bob == {
        "interface": "wg0", "peer": key("bob"), "name": None, "online": True, "since": "2023-11-14T22:16:30+00:00",
        "endpoint": "192.0.2.9:999", "allowed_ips": "10.0.0.3/32,10.20.0.0/16",
        "handshake": "2023-11-14T22:16:30+00:00", "received_bytes": 2048, "sent_bytes": 0,
        "last_reading": "2023-11-14T22:16:50+00:00",
    }  # fmt: skip
    assert (ann["name"], ann["online"], ann["since"]) == ("alice-laptop", False, "2023-11-14T22:14:20+00:00")
    assert (ann["received_bytes"], ann["sent_bytes"]) == (None, None)


@pytest.mark.parametrize("words, expected", [
    ([], "bob ann"),
    (["--online"], "bob"),
    (["--offline"], "ann"),
    (["--sort", "name"], "ann bob"),
    (["--sort", "since"], "bob ann"),
    (["--sort", "handshake"], "bob ann"),
    (["--sort", "traffic"], "bob ann"),
    (["--peer", "alice-laptop"], "ann"),
    (["--peer", key("bob")], "bob"),
    (["--peer", "bob", "--peer", "ann"], "bob ann"),
    (["--interface", "wg0"], "bob ann"),
    (["--interface", "wg1"], ""),
])  # fmt: skip
def test_which_peers_in_which_order(store: Path, words: List[str], expected: str) -> None:
    answer = status(store, *words, "--json")
    assert " ".join(row["peer"][:3] for row in json.loads(answer.out)) == expected


@pytest.mark.parametrize("words, code", [
    (["--peer", "bob"], 0),
    (["--peer", "alice-laptop"], 3),
    (["--peer", "bob", "--peer", "alice-laptop"], 3),
    (["--peer", "alice-laptop", "--online"], 3),
    ([], 0),
])  # fmt: skip
def test_the_exit_code_says_whether_named_peers_are_online(store: Path, words: List[str], code: int) -> None:
    assert status(store, *words).code == code


def test_the_exit_code_is_about_the_interface_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", -5)) + dump("wg1", P("ann"), P("bob")), at(0), checkpoint=True)
        for interface, code in (("wg0", 0), ("wg1", 3), ("wg0,wg1", 3)):
            assert status(path, "--peer", "ann", "--interface", interface, now=1).code == code
        with pytest.raises(Refusal):
            status(path, "--peer", "bob", "--interface", "wg0", now=1)


@pytest.mark.parametrize("name", ["nobody", key("cyd")])  # Cyd was removed
def test_an_unknown_peer_is_a_failure(store: Path, name: str) -> None:
    with pytest.raises(Refusal, match="no peer has this name or key") as refusal:
        status(store, "--peer", name)
    assert refusal.value.code == EXIT_FAILURE


def test_the_beginning_of_several_keys_is_refused(tmp_path: Path) -> None:
    with Watcher(tmp_path / "state.db") as watcher:
        watcher.see(dump("wg0", P("dan1"), P("dan2")), at(0))
    with pytest.raises(Refusal, match="it means 2 peers"):
        status(tmp_path / "state.db", "--peer", "dan")


def test_how_old_the_answer_is(tmp_path: Path) -> None:
    [path] = story(tmp_path / "state.db")
    assert status(path, now=9000).lines[0] == "wg0  1 of 2 were online, no monitor writes to this store, last reading 2h 26m ago"
    with Watcher(path):  # a monitor has started, and has read nothing yet
        text = "wg0  1 of 2 were online, the monitor reads nothing or cannot save it, last reading 2h 26m ago"
        assert status(path, now=9000).lines[0] == text


def test_an_interface_that_is_down_and_one_that_has_no_peers(tmp_path: Path) -> None:
    with Watcher(tmp_path / "state.db") as watcher:
        watcher.see(dump("wg0", P("ann", -5)) + dump("wg1"), at(0))
        watcher.see(dump("wg1"), at(30), checkpoint=True)
        lines = status(tmp_path / "state.db", now=31).lines
    assert lines[0].startswith("wg0  0 of 1 online, the interface is down, watched since ")
    assert lines[3].startswith("wg1  0 of 0 online, watched since ") and len(lines) == 4


def test_a_peer_that_never_connected(tmp_path: Path) -> None:
    with Watcher(tmp_path / "state.db") as watcher:
        watcher.see(dump("wg0", P("ann", endpoint="")), at(0))
        assert status(tmp_path / "state.db", now=1).lines[2].split() == [
            "ann/////...", "offline", "never", "-", "never", "-", "-",
        ]  # fmt: skip


def test_the_small_file_has_the_last_reading(store: Path) -> None:
    assert "last reading 10s ago" in status(store).lines[0]
    (store.parent / "state.db.last").write_text("id=another stamp=1 boot_id=x wall=1 boot=1 line=1 session=1\n")
    assert "last reading 10s ago" in status(store).lines[0]  # the checkpoint was at the same time
    query(store, "UPDATE monitor SET wall = wall - 60")
    assert "last reading 1m 10s ago" in status(store).lines[0]
    (store.parent / "state.db.last").unlink()
    assert "last reading 1m 10s ago" in status(store).lines[0]


# --- From a store and wg ------------------------------------------------------------------------------------------

# Runs a command where /var/lib/wg-monitor is a directory of the test.
WITH_STORE = 'mount -t tmpfs none /var/lib && mkdir /var/lib/wg-monitor && mount --bind "$0" /var/lib/wg-monitor && exec "$@"'


def on_machine(place: Place, *words: str, **how: Any) -> Answer:
    """The command on a machine with the place's interfaces and the stores in its directory `lib`."""
    lib = place.path / "lib"
    lib.mkdir(mode=0o700, exist_ok=True)
    return run(*words, behind=[*place.enter(), "sh", "-c", WITH_STORE, str(lib)], **how)


def test_handshakes_and_bytes_are_those_of_this_moment(place: Place) -> None:
    place_store = place.path / "lib" / "state.db"
    (place.path / "lib").mkdir(mode=0o700)
    wg0 = place.device(peers=[online(1), peer(2)])
    daemon = place.start("--state-path", str(place_store), "--interval", "30")
    daemon.match("ONLINE .*")
    wait_for("the first checkpoint", lambda: ask(place_store, "SELECT 1 FROM peers WHERE session IS NOT NULL"))
    wg0.publish([online(1)._replace(rx=9096), peer(2)])
    answer = on_machine(place, "status", "--json")
    rows = {row["peer"]: row for row in json.loads(answer.out)}
    assert (answer.code, answer.err) == (0, "")
    # The store alone has nothing of this: its monitor reads again in half a minute.
    assert rows[device.key(1)]["received_bytes"] == 4096
    stored = json.loads(report("status", "--json", "--store", str(place_store), now=time.time() - at(0).wall).out)
    assert [row["received_bytes"] for row in stored if row["online"]] == [0]
    assert "watched since" in on_machine(place, "status").lines[0]
    assert daemon.stop() == 0


def test_the_threshold_is_the_monitors(place: Place) -> None:
    """The peer is online for this monitor, and would not be for one with the default threshold."""
    place.device(peers=[online(1, age=400)])
    (place.path / "lib").mkdir(mode=0o700)
    daemon = place.start("--state-path", str(place.path / "lib" / "state.db"), "--threshold", "3600")
    daemon.match("ONLINE .*")
    assert on_machine(place, "status").lines[0].startswith("wg0  1 of 1 online, ")
    assert on_machine(place, "status", "--peer", device.key(1)).code == 0
    assert daemon.stop() == 0
    stopped = on_machine(place, "status").lines[0]
    assert stopped.startswith("wg0  1 of 1 online, no monitor writes to this store, last reading ")


def test_bytes_that_came_while_nobody_watched_are_no_sign_of_life_now(place: Place) -> None:
    """Two hours ago, the monitor was stopped. Right after that, the peer sent its last packet."""
    store, ago = place.path / "lib" / "state.db", 7200
    store.parent.mkdir(mode=0o700)
    wg0 = place.device(peers=[online(1, age=10)])
    daemon = place.start("--state-path", str(store))
    daemon.match("ONLINE .*")
    assert daemon.stop() == 0
    (handshake,) = ask(store, "SELECT handshake FROM peers")[0]
    query(store, "UPDATE monitor SET wall = wall - %d, boot = boot - %d" % (ago, ago))
    query(store, "UPDATE peers SET handshake = handshake - %d, shown = shown - %d, made = made - %d" % (ago, ago, ago))
    query(store, "UPDATE sessions SET start = start - %d, began = began - %d" % (ago, ago))
    store.with_name("state.db.last").unlink()
    wg0.publish([online(1)._replace(handshake=handshake - ago, rx=9096)])
    (row,) = json.loads(on_machine(place, "status", "--json").out)
    since = datetime.fromisoformat(row["since"]).timestamp()
    assert not row["online"] and handshake - ago <= since <= time.time() - ago


def test_an_instance_shows_its_interface_only(place: Place) -> None:
    place.device("wg0", [online(1)])
    place.device("wg1", [online(2)])
    (place.path / "lib").mkdir(mode=0o700)
    daemon = place.start("--state-path", str(place.path / "lib" / "state-wg0.db"), "--interface", "wg0")
    daemon.match("ONLINE .*")
    rows = json.loads(on_machine(place, "status", "--json").out)
    assert [(row["interface"], row["peer"]) for row in rows] == [("wg0", device.key(1))]
    assert daemon.stop() == 0


def test_without_wg_the_store_answers(place: Place) -> None:
    (place.path / "lib").mkdir(mode=0o700)
    [path] = story(place.path / "lib" / "state.db")
    place.wg("exit 1")
    answer = on_machine(place, "status")
    assert answer.code == 0 and "  alice-laptop" in answer.out
    assert answer.lines[-1] == (
        "Handshakes and bytes are as old as the last checkpoint. wg gave no answer: wg exited with status 1; try 'wg show'."
    )


def test_named_stores_are_never_mixed_with_this_machine(place: Place) -> None:
    place.device(peers=[online(1)])
    [path] = story(place.path / "elsewhere.db")
    answer = on_machine(place, "status", "--store", str(path), "--json")
    assert {row["peer"] for row in json.loads(answer.out)} == {key("ann"), key("bob")}


# --- From wg alone, and from nothing ------------------------------------------------------------------------------


def test_without_a_store_wg_answers(place: Place) -> None:
    place.device(peers=[online(1), peer(2), online(3, age=400)])
    answer = on_machine(place, "status")
    assert answer.lines[0] == "wg0  1 of 3 online, no store: since when is unknown"
    states = {tuple(line.split()[1:3]) for line in answer.lines[2:]}
    assert states == {("online", "unknown"), ("offline", "never"), ("offline", "unknown")}
    assert "4.9 KiB  300 B" in answer.out


def test_without_either_it_says_what_to_do(place: Place) -> None:
    place.wg("exit 1")
    assert on_machine(place, "status") == Answer(
        EXIT_FAILURE, "", "wg_monitor: wg gave no answer: wg exited with status 1; try 'wg show'\n"
    )
    answer = on_machine(place, "sessions")
    words = "wg_monitor: there is no store: /var/lib/wg-monitor holds none; start the monitor with STATE_PATH, "
    assert answer == Answer(EXIT_FAILURE, "", words + "or name a store with --store\n")


def test_without_an_interface(place: Place) -> None:
    assert on_machine(place, "status") == Answer(0, "No WireGuard interface.\n", "")


@pytest.mark.once
@pytest.mark.parametrize("command", ["status", "sessions"])
def test_whoever_is_not_root_is_told_what_to_type(place: Place, command: str) -> None:
    (place.path / "lib").mkdir(mode=0o700)
    [path] = story(place.path / "lib" / "state.db")
    path.parent.chmod(0o700)
    program = for_everybody(place.path)
    enter = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    behind = [*place.enter(), "sh", "-c", WITH_STORE, str(path.parent), *enter]
    answer = run(command, "--peer", "a b", behind=behind, program=program)
    assert (answer.code, answer.out) == (EXIT_NOT_PERMITTED, "")
    words = "wg_monitor: /var/lib/wg-monitor cannot be read: only root can read it; type: sudo %s %s --peer 'a b'\n"
    assert answer.err == words % ("python3 " + program[-1], command)
    copied = place.path / "copy.db"
    copied.write_bytes(path.read_bytes())
    copied.chmod(0o644)
    assert run("sessions", "--store", str(copied), behind=enter, program=program).code == 0


def test_the_first_reading_of_a_monitor_without_checkpoint(place: Place) -> None:
    """A store that was just created answers."""
    need("sqlite3", root=False)
    path = place.path / "state.db"
    with Watcher(path, chosen()):
        pass
    answer = command_line("status", "--store", str(path))
    assert (answer.returncode, answer.stdout) == (0, "No WireGuard interface.\n")
    assert subprocess.run(["sqlite3", str(path), "SELECT 1"], stdout=subprocess.PIPE, check=True).stdout == b"1\n"
    change(path, "DELETE FROM runs")
    assert command_line("sessions", "--store", str(path)).stdout == "No session.\nNothing was recorded.\n"


@pytest.mark.parametrize("statement", [
    "UPDATE peers SET ended_wall = 9e999, ended = 9e999",
    "UPDATE peers SET handshake = 9223372036854775807, shown = 9223372036854775807",
    "UPDATE sessions SET start = -9e999",
    "UPDATE peers SET rx = 9223372036854775807, past_rx = 9223372036854775807, past_tx = 9223372036854775807",
    "UPDATE unwatched SET start = -9e999, stop = 9e999",
    "UPDATE runs SET threshold = -1",
    "UPDATE runs SET interfaces = 'a b'",
    "UPDATE peers SET endpoint = x'ff'",
    "UPDATE peers SET made = 'then'",
])  # fmt: skip
def test_impossible_values_are_no_traceback(store: Path, statement: str) -> None:
    """As root may write them into a store. Those of a monitor's settings are refused as settings."""
    change(store, statement)
    for words in (["status"], ["status", "--json"], ["sessions"], ["sessions", "--summary"]):
        try:
            assert report(*words, "--store", str(store)).code == 0
        except Refusal as refusal:
            assert refusal.code in (1, 2)


def test_what_nobody_sees_is_unknown_and_no_check_takes_it_for_online(tmp_path: Path) -> None:
    [path] = story(tmp_path / "state.db")
    answer = status(path, now=9000)
    assert {line.split()[1] for line in answer.lines[2:]} == {"unknown"}
    assert {row["online"] for row in json.loads(status(path, "--json", now=9000).out)} == {None}
    assert status(path, "--peer", key("bob"), now=9000).code == 1
    for flag in ("--online", "--offline"):
        assert len(status(path, flag, now=9000).lines) == 1
