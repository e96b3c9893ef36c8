"""Thousands of readings with events, hooks and faults: memory, descriptors, threads and children do not grow."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import pytest

import device
from harness import PATIENCE_S, PROJECT, Place, need, wait_for
from scale import scaled

DRIVER = PROJECT / "tests/support/crash_driver.py"
INTERVAL = "0.01"
PEERS = 50
ROUNDS = 8  # the resources are compared after each round; the first rounds are for warming up
GROWTH_KB = 512  # over the second half: a hundred bytes per reading


class Held(NamedTuple):
    descriptors: int
    threads: int
    children: int
    resident_kb: int


def held_by(pid: int) -> Held:
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/%d/status" % pid).read_text().splitlines() if ":\t" in line
    )
    children = Path("/proc/%d/task/%d/children" % (pid, pid)).read_text().split()
    descriptors = len(os.listdir("/proc/%d/fd" % pid))
    return Held(descriptors, int(status["Threads"]), len(children), int(status["VmRSS"].split()[0]))


class Life:
    """Changes peers and causes faults, repeatedly."""

    def __init__(self, place: Place, wg0: device.Device) -> None:
        self.place, self.wg0 = place, wg0
        self.chance = random.Random(1)
        self.truth = place.path / "truth"
        now = int(time.time())
        self.peers: Dict[int, device.Peer] = {number: device.peer(number, now) for number in range(PEERS)}

    def readings(self) -> int:
        with self.truth.open("rb") as file:
            return sum(line.startswith(b"read ") for line in file)

    def publish(self) -> None:
        now = int(time.time())
        for number in self.chance.sample(range(PEERS), 3):
            handshake = self.chance.choice((0, now))
            endpoint = "192.0.2.%d:4500" % self.chance.randrange(1, 255)
            peer = device.peer(number, handshake)
            self.peers[number] = peer._replace(endpoint=endpoint, rx=self.chance.randrange(1 << 40))
        gone = self.chance.randrange(PEERS)
        self.wg0.publish(peer for number, peer in self.peers.items() if number != gone)

    def fault(self, number: int, pid: int) -> None:
        """Cause one of four faults in turn, and end the previous one."""
        trail, rotated = self.place.trail, self.place.trail.with_name("wg_monitor.log.1")
        if trail.is_dir():
            trail.rmdir()
        kind = number % 4
        if kind == 0:
            self.wg0.fail(5)
        elif kind == 1 and trail.exists():
            trail.rename(rotated)
        elif kind == 2:
            os.kill(pid, signal.SIGHUP)
        elif kind == 3 and trail.exists():
            trail.rename(rotated)
            try:
                trail.mkdir()  # the daemon cannot append to a directory
            except FileExistsError:
                pass  # the daemon created the trail first

    def spend(self, readings: int, pid: int) -> None:
        until, number = self.readings() + readings, 0
        while self.readings() < until:
            assert Path("/proc/%d" % pid).exists(), "the daemon exited"
            self.publish()
            if number % 10 == 0:
                self.fault(number // 10, pid)
            number += 1
            time.sleep(0.03)
        if self.place.trail.is_dir():
            self.place.trail.rmdir()
        self.wg0.publish(self.peers.values())


def settled(pid: int, store: Path) -> Held:
    """The resources once no hook runs or waits: the minimum of many samples, since `wg` runs in between."""

    def idle() -> bool:
        with closing(sqlite3.connect(str(store), timeout=PATIENCE_S)) as database:
            return not database.execute("SELECT seq FROM events WHERE hook = 1").fetchall()

    looks: List[Held] = []

    def looked() -> bool:
        looks.append(held_by(pid))
        time.sleep(0.003)
        return len(looks) >= 100 and not all(look.children for look in looks)

    wait_for("the end of the hooks", idle)
    wait_for("a look between two runs of wg", looked)
    return Held(*(min(values) for values in zip(*looks)))


@pytest.mark.heavy
def test_thousands_of_readings_leave_nothing_behind(place: Place) -> None:
    need("unshare", "wg")
    hook = place.script("hook", '[ "$((PEER_SEQ % 3))" != 0 ] || { echo failed; exit 1; }\n')
    wg0 = place.device()
    life = Life(place, wg0)
    driver = [sys.executable, "-I", str(DRIVER), "no seam", "0", INTERVAL, "30", str(life.truth)]
    flags = ["--state-path", str(place.path / "state.db"), "--stats-interval", "1", "--debug"]
    flags += ["--on-change-script", str(hook), "--script-events", "REMOVED"]
    held: List[Held] = []
    console = place.path / "console"
    with console.open("wb") as file:
        daemon = subprocess.Popen([*place.enter(), *driver, *flags], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        wait_for("the trail", place.trail.exists)
        for _ in range(ROUNDS):
            life.spend(scaled(10_400) // ROUNDS, daemon.pid)
            held.append(settled(daemon.pid, place.path / "state.db"))
    finally:
        daemon.terminate()
        status = daemon.wait(PATIENCE_S)
    text = console.read_text()
    assert status == 0, text[-3000:]
    told = "\n".join(map(str, held))
    # One fewer while the trail is closed: SIGHUP closes it, and the next line opens it.
    descriptors = [each.descriptors for each in held]
    assert max(descriptors) - min(descriptors) <= 1, told
    assert {(each.threads, each.children) for each in held} == {(1, 0)}, told
    early, late = held[ROUNDS // 2 - 1], held[-1]
    # During a short run, SQLite still fills its cache of 1 MiB.
    allowed = GROWTH_KB if scaled(1000) >= 1000 else GROWTH_KB + 1024
    assert late.resident_kb - early.resident_kb < allowed, told
    figures = re.findall(r"Readings: (\d+) \((\d+) failed.*Hooks: (\d+) run, (\d+) failed.*Writes: (\d+) failed", text)[
        -1
    ]
    assert all(int(figure) for figure in figures), "a kind of failure did not occur or was not counted: %s" % (
        figures,
    )
    assert "Traceback" not in text


def test_peers_that_come_and_go_leave_no_descriptor_and_no_process_behind(place: Place) -> None:
    """The daemon has as many descriptors and children after the events as before."""
    hook = place.script("hook", "exit 1\n")
    now = int(time.time())
    wg0 = place.device(peers=[device.peer(0, now)])
    monitor = place.start("--on-change-script", str(hook))
    monitor.match(r"\[WARN\] Hook .*")

    def held() -> Tuple[int, int]:
        process = Path("/proc/%d" % monitor.pid)
        return len(list((process / "fd").iterdir())), len((process / ("task/%d/children" % monitor.pid)).read_text().split())

    wg0.settle()
    before = wait_for("a quiet moment", lambda: held() if held()[1] == 0 else None)
    crowd = device.crowd(scaled(200), now)
    wg0.publish(crowd)
    wg0.settle()
    wg0.publish(crowd[:1])
    wait_for("all hooks", lambda: len([t for t in monitor.trail() if t.startswith("[WARN] Hook")]) == 2 * len(crowd) - 1)
    wait_for("as many descriptors as before", lambda: held() == before)
