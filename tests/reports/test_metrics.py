"""What `wg-monitor metrics` says, against what is true, and how it writes its file."""

import re
import resource
import signal
import stat
import threading
import time
from pathlib import Path
from typing import List, Tuple

import pytest

import device
import wg_monitor
import wg_report
from device import peer
from harness import PROJECT, Daemon, Place, wait_for
from metrics import Samples, comments_of, family, judge, labels, one, samples_of
from reports import Answer, for_everybody, online, run
from stores import ask
from values import P, at, dump
from watcher import Watcher, query
from wg_monitor import EXIT_FAILURE, EXIT_NOT_PERMITTED, EXIT_USAGE, Refusal

pytestmark = pytest.mark.once

PEERS = ("wireguard_sent_bytes_total", "wireguard_received_bytes_total", "wireguard_latest_handshake_seconds")


def store_of(place: Place) -> Path:
    return place.path / "state.db"


def watch(place: Place, *flags: str) -> Daemon:
    """A monitor of the place's interfaces that has made its first checkpoint."""
    daemon = place.start("--state-path", str(store_of(place)), *flags)
    daemon.match("ONLINE .*")
    wait_for("the first checkpoint", lambda: ask(store_of(place), "SELECT 1 FROM peers WHERE session IS NOT NULL"))
    return daemon


# Runs a command where /etc/default has the files of the test only, and /var/lib is empty.
WITH_SETTINGS = 'mount -t tmpfs none /var/lib; mount -t tmpfs none /etc/default; cp "$0"/* /etc/default; exec "$@"'


def machine(place: Place, settings: str = "STATE_PATH=\n", instance: str = "") -> List[str]:
    """The prefix that runs a command on the machine of the place, with these settings of the service or of an instance."""
    directory = place.path / "default"
    directory.mkdir(exist_ok=True)
    (directory / ("wg-monitor%s" % instance)).write_text(settings)
    return [*place.enter(), "sh", "-c", WITH_SETTINGS, str(directory)]


def metrics(place: Place, *words: str, code: int = 0, said: str = "", settings: str = "STATE_PATH=\n") -> str:
    instance = "" if not words or words[0].startswith("-") else "-" + words[0]
    answer = run("metrics", *words, behind=machine(place, settings, instance))
    assert (answer.code, answer.err) == (code, said)
    return answer.out


def measured(place: Place, *words: str, said: str = "") -> Samples:
    text = metrics(place, "--store", str(store_of(place)), *words, said=said)
    judge(text)
    return samples_of(text)


# --- The values ---------------------------------------------------------------------------------------------------


def test_the_values_are_true(place: Place) -> None:
    here, gone, never = online(1), online(2, age=400), peer(3)._replace(allowed_ips="")
    wg0 = place.device("wg0", [here, gone, never])
    place.device("wg1")
    daemon = watch(place, "--interval", "60")
    query(store_of(place), "UPDATE peers SET name = 'ann' WHERE public_key = ?", here.public_key)
    wg0.publish([here._replace(rx=1 << 52, tx=(1 << 53) - 1), gone, never])  # the monitor has not seen this
    found = measured(place)
    assert daemon.stop() == 0

    few = [{"interface": "wg0", "public_key": p.public_key, "friendly_name": ""} for p in (here, gone, never)]
    few[0]["friendly_name"] = "ann"
    wide = [{**names, "allowed_ips": p.allowed_ips} for names, p in zip(few, (here, gone, never))]
    [(start,)] = ask(store_of(place), "SELECT start FROM sessions WHERE reason IS NULL")
    [(last,)] = ask(store_of(place), "SELECT wall FROM monitor")
    expected = {
        "wireguard_sent_bytes_total": {labels(**names): sent for names, sent in zip(wide, ((1 << 53) - 1, 300, 0))},
        "wireguard_received_bytes_total": {labels(**names): got for names, got in zip(wide, (1 << 52, 5000, 0))},
        "wireguard_latest_handshake_seconds": {
            labels(**names): at for names, at in zip(wide, (here.handshake, gone.handshake, 0))
        },
        "wg_monitor_peer_online": {labels(**names): is_online for names, is_online in zip(few, (1, 0, 0))},
        "wg_monitor_peer_session_start_seconds": {labels(**few[0]): round(start, 3)},
        "wg_monitor_interface_up": {labels(interface="wg0"): 1, labels(interface="wg1"): 1},
        "wg_monitor_last_reading_timestamp_seconds": {labels(): round(last, 3)},
        "wg_monitor_readings_total": {labels(result="ok"): 1, labels(result="failed"): 0},
        "wg_monitor_hook_runs_total": {labels(result="ok"): 0, labels(result="failed"): 0},
        "wg_monitor_write_failures_total": {labels(sink="trail"): 0, labels(sink="store"): 0},
        "wg_monitor_build_info": {labels(version=wg_monitor.VERSION): 1},
    }
    page = (PROJECT / "docs/metrics.md").read_text(encoding="utf-8")
    documented = re.findall(r"(?m)^\| `(w\w+)` \|", page.partition("## The metrics")[2])
    assert {name for name, _ in found} == expected.keys() == set(documented)
    for name, values in expected.items():
        assert family(found, name) == values, name


def test_the_monitors_own_failures_are_counted(place: Place) -> None:
    here = online(1)
    place.device(peers=[here])
    place.wg("exec %s" % place.real_wg + ' "$@"')
    hook = place.script("hook", "exit 3\n")
    daemon = watch(place, "--on-change-script", str(hook))
    wait_for("the hook", lambda: one(measured(place), "wg_monitor_hook_runs_total", result="failed"))
    place.wg("exit 1")
    said = "wg_monitor: wg gave no answer: wg exited with status 1; try 'wg show'\n"
    wait_for("blind time", lambda: one(measured(place, said=said), "wg_monitor_readings_total", result="failed") >= 2)
    blind = measured(place, said=said)
    place.settle()
    later = measured(place, said=said)
    assert daemon.stop() == 0

    assert family(blind, "wg_monitor_hook_runs_total") == {labels(result="ok"): 0, labels(result="failed"): 1}
    assert list(family(blind, "wg_monitor_peer_online").values()) == [1]
    assert list(family(blind, "wireguard_latest_handshake_seconds").values()) == [here.handshake]
    # The store's counters may be older than the last file.
    assert not family(blind, PEERS[0]) and not family(blind, PEERS[1])
    last = [one(found, "wg_monitor_last_reading_timestamp_seconds") for found in (blind, later)]
    assert last[0] == last[1] > here.handshake


def test_a_dead_monitor_is_visible_in_the_file(place: Place) -> None:
    wg0 = place.device(peers=[online(1), peer(2)])
    daemon = watch(place)
    assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
    before = measured(place)
    fresh = online(2)
    wg0.publish([online(1, age=4000), fresh])
    after = measured(place)
    for name in ("wg_monitor_last_reading_timestamp_seconds", "wg_monitor_readings_total"):
        assert family(before, name) == family(after, name)
    # Who is online does not depend on the monitor.
    states = {dict(names)["public_key"]: value for names, value in family(after, "wg_monitor_peer_online").items()}
    assert states == {device.key(1): 0, fresh.public_key: 1}


def test_an_interface_that_is_gone(place: Place) -> None:
    wg0 = place.device("wg0", [online(1)])
    place.device("wg1", [online(2)])
    daemon = watch(place)
    wg0.close()
    daemon.match("IFDOWN .*")
    found = measured(place)
    assert daemon.stop() == 0
    assert family(found, "wg_monitor_interface_up") == {labels(interface="wg0"): 0, labels(interface="wg1"): 1}
    by_interface = {dict(names)["interface"]: value for names, value in family(found, "wg_monitor_peer_online").items()}
    assert by_interface == {"wg0": 0, "wg1": 1}
    assert {dict(names)["interface"] for names in family(found, "wireguard_sent_bytes_total")} == {"wg1"}


def test_without_a_store(place: Place) -> None:
    place.device(peers=[online(1)])
    expected = {*PEERS, "wg_monitor_peer_online", "wg_monitor_interface_up", "wg_monitor_build_info"}
    found = samples_of(metrics(place))
    assert {name for name, _ in found} == expected
    path = place.path / "state.db"
    said = "wg_monitor: %s does not exist: no monitor has written it; start the monitor with STATE_PATH, or name another file\n"
    text = metrics(place, "--store", str(path), said=said % path)
    judge(text)
    found = samples_of(text)
    assert {name for name, _ in found} == {*expected, "wg_monitor_last_reading_timestamp_seconds"}
    assert one(found, "wg_monitor_last_reading_timestamp_seconds") == 0


def test_with_neither_it_fails_and_leaves_the_file(place: Place) -> None:
    place.wg("exit 1")
    output = place.path / "old.prom"
    output.write_text("old 1\n")
    said = "wg_monitor: wg gave no answer: wg exited with status 1; try 'wg show'\n"
    metrics(place, "--output", str(output), code=EXIT_FAILURE, said=said)
    assert output.read_text() == "old 1\n"


def test_a_damaged_store_hides_no_peer(place: Place) -> None:
    place.device(peers=[online(1)])
    store_of(place).write_bytes(b"SQLite format 3\0" + bytes(8000))
    answer = run("metrics", "--store", str(store_of(place)), behind=place.enter())
    assert answer.code == 0 and answer.err.count("\n") == 1 and str(store_of(place)) in answer.err
    assert list(family(samples_of(answer.out), "wg_monitor_peer_online").values()) == [1]


def test_hostile_text_stays_inside_its_label(place: Place) -> None:
    place.wg("exit 1")
    ips = '10.0.0.1/32"} 1\\\n# HELP x "y'
    name = '\\"} 1\n# TYPE evil counter\r\u2028\x1b[2J\\n\\"' + "x" * 99
    with Watcher(store_of(place)) as watcher:
        watcher.see(dump("wg0", P("ann", -5)), at(0), checkpoint=True)
        query(store_of(place), "UPDATE peers SET name = ?, allowed_ips = ?", name, ips)
        text = metrics(
            place, "--store", str(store_of(place)), 'wg"\\\n0',
            said="wg_monitor: wg gave no answer: wg exited with status 1; try 'wg show'\n",
        )  # fmt: skip
    judge(text)
    found = samples_of(text)
    [labels] = family(found, "wireguard_latest_handshake_seconds")
    assert dict(labels)["allowed_ips"] == ips.replace("\n", "?")
    assert dict(labels)["friendly_name"] == wg_monitor.printable(name, 64)
    assert dict(labels)["monitor"] == 'wg"\\?0'
    assert "evil" not in {name for name, _ in found} and len(dict(labels)["friendly_name"]) == 64


def test_no_secret_is_in_it(place: Place) -> None:
    place.device(peers=[online(1)])
    text = metrics(place)
    assert device.key(1) in text
    assert device.PRIVATE_KEY not in text and device.PRESHARED_KEY not in text and "endpoint" not in text


def test_ten_thousand_peers(place: Place) -> None:
    handshake = int(time.time())
    place.device(peers=[p._replace(rx=number) for number, p in enumerate(device.crowd(10_000, handshake))])
    text = metrics(place)
    judge(text)
    found = samples_of(text)
    assert sum(family(found, "wg_monitor_peer_online").values()) == 10_000
    received = family(found, "wireguard_received_bytes_total")
    assert len(received) == 10_000 and sum(received.values()) == sum(range(10_000))


# --- Instances ----------------------------------------------------------------------------------------------------


def test_instances_have_a_label_and_the_same_comments(place: Place) -> None:
    place.device("wg0", [online(1)])
    place.device("wg1", [online(2)])
    daemon = watch(place)
    every = metrics(place, "--store", str(store_of(place)))
    instance = metrics(place, "office", "--store", str(store_of(place)))
    assert daemon.stop() == 0
    assert comments_of(every) == comments_of(instance)
    found = samples_of(instance)
    assert all(("monitor", "office") in labels for _, labels in found)
    assert not any(name == "monitor" for _, labels in samples_of(every) for name, _ in labels)
    assert {(name, labels - {("monitor", "office")}) for name, labels in found} == samples_of(every).keys()


def test_an_instance_shows_its_interfaces_only(place: Place) -> None:
    for number in range(3):
        place.device("wg%d" % number, [online(number)])
    interfaces = {
        "wg0": ("", {"wg0"}),
        "two": ("INTERFACE='wg0, wg2'\n", {"wg0", "wg2"}),
        "all": ("INTERFACE=\n", {"wg0", "wg1", "wg2"}),
    }
    for instance, (settings, expected) in interfaces.items():
        found = samples_of(metrics(place, instance, settings="STATE_PATH=\n" + settings))
        assert {dict(labels)["interface"] for labels in family(found, "wg_monitor_peer_online")} == expected
    daemon = watch(place, "--interface", "wg1")  # what the monitor was started with counts
    found = samples_of(metrics(place, "wg0", "--store", str(store_of(place))))
    assert daemon.stop() == 0
    assert {dict(labels)["interface"] for labels in family(found, "wg_monitor_peer_online")} == {"wg1"}


@pytest.mark.parametrize("words, settings, path", [
    ((), "", "/var/lib/wg-monitor/state.db"),
    (("wg0",), "", "/var/lib/wg-monitor/state-wg0.db"),
    ((), "STATE_PATH=/run/s.db\n", "/run/s.db"),
])  # fmt: skip
def test_the_store_is_the_one_in_the_settings(place: Place, words: Tuple[str, ...], settings: str, path: str) -> None:
    place.device(peers=[online(1)])
    answer = run("metrics", *words, behind=machine(place, settings, "".join("-" + word for word in words)))
    assert answer.code == 0 and answer.err.startswith("wg_monitor: %s does not exist: " % path)


# --- The file -----------------------------------------------------------------------------------------------------


def test_the_file_has_mode_0644_whatever_the_umask(place: Place) -> None:
    place.device(peers=[online(1)])
    output = place.path / "metrics" / "wg-monitor.prom"
    output.parent.mkdir()
    enter = [*machine(place), "sh", "-c", 'umask 0077 && exec "$@"', "sh"]
    for _ in range(2):
        assert run("metrics", "--output", str(output), behind=enter) == Answer(0, "", "")
        assert stat.S_IMODE(output.stat().st_mode) == 0o644
        assert [path.name for path in output.parent.iterdir()] == ["wg-monitor.prom"]
    judge(output.read_text())


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    output = tmp_path / "wg-monitor.prom"
    wg_report.replace_file(str(output), ["0\n"] * 50_000)
    seen: List[bool] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            lines = output.read_text().split("\n")
            seen.append(len(lines) == 50_001 and len(set(lines[:-1])) == 1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        wg_report.replace_file(str(output), ("%d\n" % number for _ in range(50_000)))
        assert all(not path.name.endswith(".prom") for path in tmp_path.iterdir() if path != output)
    wait_for("a reader", lambda: seen)
    done.set()
    reader.join()
    assert all(seen)


def test_a_full_disk_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    output = tmp_path / "wg-monitor.prom"
    output.write_text("old 1\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(Refusal, match="wg-monitor.prom cannot be written") as refusal:
            wg_report.replace_file(str(output), ["x" * 99_999])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert refusal.value.code == EXIT_FAILURE
    assert [path.name for path in tmp_path.iterdir()] == ["wg-monitor.prom"]
    assert output.read_text() == "old 1\n"


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "wg-monitor.prom").symlink_to(victim)
    wg_report.replace_file(str(tmp_path / "wg-monitor.prom"), ["new 1\n"])
    assert victim.read_text() == "precious" and not (tmp_path / "wg-monitor.prom").is_symlink()


def test_a_missing_directory_is_one_clear_line(place: Place) -> None:
    place.device(peers=[online(1)])
    output = place.path / "node-exporter" / "wg-monitor.prom"
    said = "wg_monitor: %s cannot be written: No such file or directory; its directory has to exist: " % output
    said += "install node_exporter, or name another file\n"
    metrics(place, "--output", str(output), code=EXIT_FAILURE, said=said)


# --- Usage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--peer", "ann"], ["a", "b"], ["--store", ""]])
def test_invalid_usage(words: List[str]) -> None:
    assert run("metrics", *words).code == EXIT_USAGE


def test_whoever_is_not_root_is_told(place: Place) -> None:
    place.device(peers=[online(1)])
    enter = [*machine(place), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    answer = run("metrics", behind=enter, program=for_everybody(place.path))
    assert (answer.code, answer.out, answer.err.count("\n")) == (EXIT_NOT_PERMITTED, "", 1)
