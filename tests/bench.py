#!/usr/bin/env python3
"""The benchmark measures the cost of a reading, next to the cost of the run of `wg show all dump` in it.

    sudo python3 tests/bench.py                      a table, in about six minutes
    sudo python3 tests/bench.py --sizes 10000 --loads busy,storm --json figures.json
    sudo python3 tests/bench.py --hung               one interface hangs beside ten others, in about two minutes
    sudo python3 tests/bench.py --names              10,000 peers with names and the journal beside 10,000 without, and `metrics`
    sudo python3 tests/bench.py --reports            what `status` and `sessions` cost, in about two minutes
    sudo python3 tests/bench.py --trails 1000        what `sessions --from-log` costs, with trails of so many MB

The daemon runs as it is installed (from its compiled module, with a store and a text trail) in a mount namespace of
its own, where the real `wg` sees one userspace device: a process of its own that serves prepared answers. Nothing is
patched: readings come at `--interval 1`, or 2 for the large sizes, so that each starts as cold as in real life.

    quiet        nothing changes between two readings
    tenth        one peer in ten moves bytes
    busy         every peer moves bytes
    handshakes   what a busy gateway does at the default interval: every peer moves bytes, one in four completes a handshake
    storm        every peer changes its state in one reading
    hooks        a storm, with a hook that takes a second

Own CPU is the kernel's clock of the daemon's process: all its threads, none of its children. `wg`'s is what the
kernel says of a run of the same command that the benchmark makes between two readings, on the same answer.
"""

import argparse
import ast
import json
import multiprocessing
import os
import platform
import py_compile
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from multiprocessing.connection import Connection
from statistics import mean, median
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Sequence, Tuple

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))

from device import Device, answer, key, peer

HERE = os.path.dirname(os.path.abspath(__file__))
MODULE = os.path.join(os.path.dirname(HERE), "wg_monitor.py")
INSTALLER = os.path.join(os.path.dirname(HERE), "install.sh")
SOCKETS = "/run/wireguard"
JOURNAL = "/run/systemd/journal/socket"
WG = shutil.which("wg", path="/usr/bin:/usr/sbin:/bin:/sbin") or ""
WG_COMMAND = [WG, "show", "all", "dump"]
SIZES = (10, 1_000, 10_000, 50_000)
STEADY_LOADS = ("quiet", "tenth", "busy", "handshakes")
LOADS = (*STEADY_LOADS, "storm", "hooks")  # the last one only on demand
MIB = 1 << 20
PATIENCE_S = 60
POLL_S = 0.0005
LOOK_S = 0.02
START_ROUNDS = 20
# Hooks that take longer than there is time for, and a threshold that suits a short benchmark.
EXPECTED = re.compile(r"hook|Hook|healthy peers flap")
LATE = re.compile(r"Not watching|two intervals apart|on time again")  # medians bear a busy machine
# A year: nobody goes offline by ageing while the bytes are counted.
CALM_THRESHOLD_S = 31_536_000
LONG_AGO = 1_000_000  # January 1970

# The most that own CPU over that of wg may be, by size and load.
MANY = {"quiet": 0.12, "tenth": 0.30, "busy": 0.50, "handshakes": 0.70}
BARS = {
    10: {"quiet": 0.5, "tenth": 0.5, "busy": 0.5, "handshakes": 0.7},
    1_000: {"quiet": 0.30, "tenth": 0.40, "busy": 0.60, "handshakes": 0.60},
    10_000: MANY,
    50_000: MANY,
    100_000: MANY,
}
STORM_BAR_S = 0.5  # at 10,000 peers
FIXED_BAR = 4 * MIB  # at 10 peers, over a bare interpreter with the same imports
RESIDENT_BAR, PEAK_BAR = 1536, 3072  # bytes a peer beyond that
STORE_BAR = 4 * MIB
HELP_BAR, READY_BAR = 2.0, 1.5
HUNG_BAR = 3.0  # the cost of a reading while an interface hangs, over that of one while none does
LATE_BAR_S = 10  # the timeout of `wg`
# What names may add: own CPU over that of `wg`, and resident bytes a peer. And the time to read them all again.
NAMED_BAR, NAMED_MEMORY_BAR, NAMES_AGAIN_BAR_S = 0.05, 0.3 * 1024, 0.3
BOTH_BAR = 0.10  # what names and the journal together may add
METRICS_BAR_S = 1.0
REPORT_ROUNDS = 5
REPORT_PEAK_BAR = 100 * MIB
YEAR = (1_000, 1_000_000)  # peers, and about as many sessions
TEXT_LINES_BAR, JSON_LINES_BAR, TRAIL_PEAK_BAR = 150_000, 100_000, 200 * MIB  # lines a second
YEAR_WRITER = os.path.join(HERE, "support", "year.py")


def die(message: str) -> NoReturn:
    print("bench: " + message, file=sys.stderr)
    sys.exit(1)


# --- The device ---------------------------------------------------------------------------------------------------


class Crowd:
    """Many peers, and the text that the device answers of them. Only what changes is written anew."""

    def __init__(self, count: int) -> None:
        started = int(time.time())
        whole = answer([peer(number, started) for number in range(count)]).decode()
        head, *texts = whole.split("public_key=")
        texts[-1], self.tail = texts[-1].split("errno=")
        self.head = head
        self.before = ["public_key=" + text.partition("last_handshake_time_sec=")[0] for text in texts]
        self.after = [text[text.index("persistent_keepalive") :] for text in texts]
        self.handshakes = [started] * count
        self.rx = [1_000_000 + number for number in range(count)]
        self.texts = [""] * count
        self.turn = 0
        self.render(range(count))

    def render(self, numbers: Sequence[int]) -> None:
        for i in numbers:
            self.texts[i] = "%slast_handshake_time_sec=%d\nlast_handshake_time_nsec=0\ntx_bytes=%d\nrx_bytes=%d\n%s" % (
                self.before[i],
                self.handshakes[i],
                2 * self.rx[i],
                self.rx[i],
                self.after[i],
            )

    def step(self, load: str) -> None:
        """The next moment under that load."""
        count = len(self.texts)
        self.turn += 1
        moving = {"quiet": range(0), "tenth": range(self.turn % 10, count, 10)}.get(load, range(count))
        if load in ("online", "offline"):
            self.handshakes = [int(time.time()) if load == "online" else LONG_AGO] * count
        elif load == "handshakes":
            for i in range(self.turn % 4, count, 4):
                self.handshakes[i] = int(time.time())
        for i in moving:
            self.rx[i] += 1500
        self.render(moving)

    def text(self) -> bytes:
        return (self.head + "".join(self.texts) + "errno=" + self.tail).encode()


def serve(commands: Connection, directory: str, count: int) -> None:
    """The device's process: one command, one answer; `wg` is served by a thread meanwhile."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    crowd = Crowd(count)
    with Device(directory, "bench0") as device:
        device.respond(crowd.text())
        commands.send(0)
        while True:
            try:
                command, argument = commands.recv()
            except EOFError:
                return
            if command == "step":
                crowd.step(argument)
                device.respond(crowd.text())
                commands.send(sum(crowd.rx))
            else:
                with device.changed:
                    device.changed.wait_for(lambda: device.asked >= argument, PATIENCE_S)  # noqa: B023
                    commands.send(device.asked)


class Scene:
    """The device, seen from here."""

    def __init__(self, count: int) -> None:
        fork = multiprocessing.get_context("fork")
        self.commands, theirs = fork.Pipe()
        self.process = fork.Process(target=serve, args=(theirs, SOCKETS, count), daemon=True)
        self.process.start()
        theirs.close()
        self.commands.recv()

    def ask(self, command: str, argument: object) -> int:
        self.commands.send((command, argument))
        return int(self.commands.recv())

    def step(self, load: str) -> int:
        """The next moment under that load; the bytes that all peers have received in all."""
        return self.ask("step", load)

    def asked(self, times: int) -> None:
        """Wait until `wg` has asked so often since the last step."""
        if self.ask("asked", times) < times:
            die("the daemon has read nothing for %d s" % PATIENCE_S)

    def close(self) -> None:
        self.process.terminate()
        self.process.join()
        self.commands.close()
        os.unlink(SOCKETS + "/bench0.sock")


# --- The daemon ---------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Bytes, as the kernel counts them."""

    resident: int
    shared: int  # of it, memory that looks like a file
    peak: int


def memory_of(pid: object) -> Memory:
    with open("/proc/%s/status" % pid) as file:
        fields = dict(line.split(":", 1) for line in file)
    kib = {name: int(fields[name].split()[0]) for name in ("VmRSS", "RssShmem", "VmHWM")}
    return Memory(1024 * kib["VmRSS"], 1024 * kib["RssShmem"], 1024 * kib["VmHWM"])


def state_of(pid: int) -> str:
    """R running, S sleeping, D waiting for a disk, Z ended, "" gone."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Daemon:
    """wg_monitor as a subprocess, watched from outside."""

    def __init__(
        self,
        place: "Place",
        interval: int,
        threshold: int,
        store: bool = True,
        hook: str = "",
        command: Sequence[str] = (),
        names: str = "",
        journal: bool = False,
    ) -> None:
        self.folder = tempfile.mkdtemp(prefix="daemon-", dir=place.folder)
        self.trail = self.folder + "/trail.log"
        self.state = self.folder + "/state.db" if store else ""
        self.expected = EXPECTED
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(self.folder + "/notify")
        self.notices.settimeout(PATIENCE_S)
        self.console = open(self.folder + "/console", "wb")
        command = [*(command or place.command), "--log-path", self.trail]
        command += ["--interval", str(interval), "--threshold", str(threshold)]
        command += ["--state-path", self.state] if store else []
        command += ["--on-change-script", hook, "--stats-interval", "1"] if hook else []
        command += ["--peer-names", names] if names else []
        environment = {"NOTIFY_SOCKET": self.folder + "/notify", "PATH": os.defpath}
        if journal:  # as the service manager says that standard error leads to the journal
            status = os.fstat(self.console.fileno())
            environment["JOURNAL_STREAM"] = "%d:%d" % (status.st_dev, status.st_ino)
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, env=environment, stderr=self.console, stdin=subprocess.DEVNULL)

    def ready(self) -> float:
        """Seconds from the start to READY=1."""
        try:
            notice = self.notices.recv(65536).decode()
        except socket.timeout:
            self.fail("no READY=1 within %d s" % PATIENCE_S)
        took = time.monotonic() - self.started
        self.notices.setblocking(False)
        if "READY=1" not in notice:
            self.fail("not READY=1 but %r" % notice)
        self.rest()
        return took

    def fail(self, why: str) -> NoReturn:
        with open(self.console.name, errors="replace") as file:
            die("%s; the daemon says:\n%s" % (why, file.read()[-2000:]))

    def wg(self) -> int:
        """The process number of its running `wg`; 0 = none."""
        with open("/proc/%d/task/%d/children" % (self.process.pid, self.process.pid)) as file:
            return int((file.read().split() or ["0"])[0])

    def rest(self) -> None:
        """Wait until it has dealt with what `wg` said, and sleeps."""
        quiet = 0
        while quiet < 3:
            time.sleep(POLL_S)
            quiet = 0 if self.wg() or state_of(self.process.pid) != "S" else quiet + 1
        try:
            while self.notices.recv(65536):
                pass  # nobody else empties the socket, and a full one would cost nothing
        except BlockingIOError:
            pass

    def reading(self, scene: Scene, others: int = 0) -> None:
        """Wait for the end of the first reading since the last step, which `others` have read as well."""
        scene.asked(1 + others)
        self.rest()

    def cpu(self) -> float:
        """Seconds of CPU so far: the process's own clock, as clock_getcpuclockid(3) makes its number."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def forget_peak(self) -> None:
        with open("/proc/%d/clear_refs" % self.process.pid, "w") as file:
            file.write("5")

    def memory(self) -> Memory:
        return memory_of(self.process.pid)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        self.notices.close()
        self.console.close()
        with open(self.console.name, errors="replace") as file:
            warnings = [line for line in file if "[WARN]" in line and not self.expected.search(line)]
        if warnings:
            die("the daemon warns: " + warnings[0])

    def received(self) -> int:
        """What the store says that all peers have received. Only after the end."""
        database = sqlite3.connect(self.state)
        total = database.execute("SELECT sum(past_rx + rx) FROM peers").fetchone()[0]
        database.close()
        return int(total or 0)


class Place:
    """Where it all happens: a folder, the module compiled into it, and the command as install.sh lays it."""

    def __init__(self, module: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="wg-monitor-bench-", dir="/tmp")
        report = os.path.join(os.path.dirname(module), "wg_report.py")
        for name, path in (("wg_monitor.py", module), ("wg_report.py", report)):
            if os.path.exists(path):  # an older version has none
                shutil.copy(path, self.folder + "/" + name)
                py_compile.compile(self.folder + "/" + name, doraise=True)
        with open(INSTALLER) as installer, open(self.folder + "/wg-monitor", "w") as command:
            text = installer.read().partition('>"$scratch/command" <<END\n')[2].partition("END\n")[0]
            command.write(text.replace("$PROGRAM_DIR", self.folder))
        self.command = [sys.executable, "-IS", command.name]

    def close(self) -> None:
        shutil.rmtree(self.folder)


def run_for_cpu(command: Sequence[str]) -> Tuple[float, float]:
    """CPU and wall-clock seconds of a command whose output goes nowhere but into memory."""
    # A plain file in memory, as for the daemon: what writing costs is part of the run.
    with tempfile.TemporaryFile(dir="/dev/shm") as output:
        began = time.monotonic()
        actions = [(os.POSIX_SPAWN_DUP2, output.fileno(), 1)] if hasattr(os, "posix_spawn") else []
        if actions:
            child = os.posix_spawn(command[0], list(command), {"PATH": os.defpath}, file_actions=actions)
        else:
            child = subprocess.Popen(command, stdout=output, env={"PATH": os.defpath}).pid
        _, status, usage = os.wait4(child, 0)
        took = time.monotonic() - began
    if status:
        die("%s fails" % " ".join(command))
    return usage.ru_utime + usage.ru_stime, took


# --- Measurements -------------------------------------------------------------------------------------------------

Figures = Dict[str, Any]


def baseline(module: str) -> int:
    """Resident bytes of a bare interpreter that has imported what the daemon imports."""
    with open(module) as file:
        tree = ast.parse(file.read())
    names = {"argparse", "socket", "sqlite3"}  # and what the daemon of this benchmark imports when it needs it
    for node in tree.body:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    code = "import %s; import sys; sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()" % ", ".join(
        sorted(names)
    )
    with subprocess.Popen([sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.read(1)
        resident = memory_of(child.pid).resident
        child.stdin.close()
    return resident


def steady(daemon: Daemon, scene: Scene, load: str, readings: int) -> Figures:
    """The cost of a reading under a load that goes on."""
    own: List[float] = []
    of_wg: List[float] = []
    for number in range(readings + 1):
        before = daemon.cpu()
        scene.step(load)
        cost = run_for_cpu(WG_COMMAND)[0]
        daemon.reading(scene, others=1)
        if number:  # the first one still changes over from the load before
            own.append(daemon.cpu() - before)
            of_wg.append(cost)
        else:
            daemon.forget_peak()
    return {
        "readings": readings,
        "own_ms": 1000 * median(own),
        "own_mean_ms": 1000 * mean(own),
        "wg_ms": 1000 * median(of_wg),
        "wg_mean_ms": 1000 * mean(of_wg),
        "ratio": median(own) / median(of_wg),
        **daemon.memory()._asdict(),
    }


def storm(daemon: Daemon, scene: Scene, count: int, readings: int) -> Figures:
    """Everybody changes state in one reading, back and forth."""
    own: List[float] = []
    delays: List[float] = []
    for number in range(readings):
        daemon.reading(scene)
        if not number:
            daemon.forget_peak()
        before, first = daemon.cpu(), os.stat(daemon.trail).st_size
        scene.step("online" if number % 2 else "offline")
        scene.asked(1)
        child = daemon.wg()
        while child and state_of(child) not in ("Z", ""):
            time.sleep(POLL_S)
        answered, quiet = time.time(), 0
        while quiet < 3:  # seldom, not to be in its way: the file remembers when its last line came
            time.sleep(LOOK_S)
            quiet = quiet + 1 if state_of(daemon.process.pid) == "S" else 0
        delays.append(os.stat(daemon.trail).st_mtime - answered)
        own.append(daemon.cpu() - before)
        with open(daemon.trail, "rb") as file:
            file.seek(first)
            lines = file.read().count(b"\n")
        if lines != count:
            die("a storm of %d peers made %d lines" % (count, lines))
        scene.step("quiet")
    return {"readings": readings, "own_ms": 1000 * median(own), "in_trail_s": max(delays), **daemon.memory()._asdict()}


def storm_with_hooks(place: Place, scene: Scene, interval: int, readings: int) -> Figures:
    """Readings after storms whose hooks take far longer than there is time."""
    hook = place.folder + "/hook"
    with open(hook, "w") as file:
        file.write("#!/bin/sh\nexec sleep 1\n")
    os.chmod(hook, 0o755)
    scene.step("offline")
    daemon = Daemon(place, interval, CALM_THRESHOLD_S, hook=hook)
    daemon.ready()
    before = daemon.cpu()
    daemon.forget_peak()
    for number in range(readings):
        scene.step(("online", "offline")[number % 2] if number < 4 else "quiet")
        scene.asked(1)
    own, memory = daemon.cpu() - before, daemon.memory()
    time.sleep(1.5)  # until the statistics have told of it
    daemon.stop()
    with open(daemon.console.name, errors="replace") as text:
        statistics = [line for line in text if "Statistics" in line][-1]
    late = int(statistics.partition(" late")[0].rpartition(" ")[2])
    return {"readings": readings, "own_ms": 1000 * own / readings, "late": late, **memory._asdict()}


def memory_without_store(place: Place, scene: Scene, interval: int, readings: int) -> Memory:
    scene.step("online")  # whatever the loads before have left
    daemon = Daemon(place, interval, CALM_THRESHOLD_S, store=False)
    daemon.ready()
    for _ in range(readings):
        scene.step("quiet")
        daemon.reading(scene)
    memory = daemon.memory()
    daemon.stop()
    return memory


def measure(place: Place, count: int, loads: Sequence[str], readings: int) -> Iterator[Tuple[str, Figures]]:
    """All loads at one size: (load, figures)."""
    interval = 1 if count <= 10_000 else 2 if count <= 50_000 else 4
    scene = Scene(count)
    try:
        calm = [load for load in loads if load in ("quiet", "tenth", "busy", "storm")]
        if calm:
            daemon = Daemon(place, interval, CALM_THRESHOLD_S)
            ready = daemon.ready()
            yield "start", {"ready_s": ready, **daemon.memory()._asdict()}
            for load in calm:
                if load == "storm":
                    yield load, storm(daemon, scene, count, 4)
                else:
                    yield load, steady(daemon, scene, load, readings)
            total = scene.step("quiet")
            daemon.reading(scene)
            daemon.stop()
            if daemon.received() != total:
                die("the daemon counted %d bytes, the device %d: the loads were not seen" % (daemon.received(), total))
        if "handshakes" in loads:
            # Every peer completes a handshake at every fourth reading and ages out after six, as with WireGuard's 120 s
            # and the threshold of 180 s at an interval of 30 s: some peers are always about to age.
            daemon = Daemon(place, interval, 6 * interval)
            scene.step("online")
            daemon.ready()
            yield "handshakes", steady(daemon, scene, "handshakes", readings)
            daemon.stop()
        if "hooks" in loads:
            yield "hooks", storm_with_hooks(place, scene, interval, readings)
        if "quiet" in loads:
            yield "no store", memory_without_store(place, scene, interval, 3)._asdict()
    finally:
        scene.close()


def children_cpu(pid: int) -> float:
    """Seconds of CPU of the children that ended: those of a reading are all `wg`."""
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def over_time(daemon: Daemon, seconds: int) -> Figures:
    """The cost of a reading per interval of a second."""
    before = daemon.cpu(), children_cpu(daemon.process.pid)
    time.sleep(seconds)
    after = daemon.cpu(), children_cpu(daemon.process.pid)
    own, of_wg = (1000 * (late - early) / seconds for early, late in zip(before, after))
    return {"own_ms": own, "wg_ms": of_wg}


def measure_hung(place: Place, count: int, seconds: int) -> Figures:
    """Ten interfaces that answer, with so many peers each, beside one that hangs."""
    peers = [peer(number, int(time.time())) for number in range(count)]
    devices = [Device(SOCKETS, "bench%d" % number, peers) for number in range(11)]
    *others, hung = devices
    daemon = Daemon(place, 1, CALM_THRESHOLD_S)
    try:
        daemon.ready()
        calm = over_time(daemon, seconds)
        hung.hang()
        time.sleep(25)  # until the first timeout is over, and the one of the interface
        while_hung = over_time(daemon, seconds)
        late = 0.0
        for number, device in enumerate(others):
            size, began = os.stat(daemon.trail).st_size, time.monotonic()
            device.publish([peers[0]._replace(endpoint="198.51.100.%d:1" % (number + 1)), *peers[1:]])
            while os.stat(daemon.trail).st_size == size and time.monotonic() < began + PATIENCE_S:
                time.sleep(LOOK_S)
            late = max(late, time.monotonic() - began)
        return {"peers": 10 * count, "calm": calm, "hung": while_hung, "late_s": late}
    finally:
        daemon.process.kill()
        daemon.process.wait()
        daemon.notices.close()
        daemon.console.close()
        for device in devices:
            device.close()


def hung_report(figures: Figures) -> Iterator[str]:
    for name in ("own_ms", "wg_ms"):
        before, after = figures["calm"][name], figures["hung"][name]
        bar = HUNG_BAR if name == "own_ms" else None
        yield "one of 11 interfaces hangs, %d peers on the others: %s a reading %.2f, before %.2f: %s" % (
            figures["peers"], name, after, before, verdict(after / before if before else 0.0, bar, "%.1f"),
        )  # fmt: skip
    yield "the others are late by %s s" % verdict(figures["late_s"], LATE_BAR_S, "%.1f")


def report_row(figures: Figures, bar_s: float) -> str:
    peak = verdict(figures["peak"] / MIB, REPORT_PEAK_BAR / MIB, "%.0f")
    seconds = verdict(figures["seconds"], bar_s, "%.2f")
    sizes = [f"{figures[name]:,}" for name in ("peers", "sessions")]
    return row([*sizes, "`%s`" % figures["words"], seconds, "%.2f" % figures["cpu"], peak])


def configuration(count: int) -> str:
    """A file of wg-quick that names every peer of the scene."""
    section = "### Client peer-%05d's laptop\n[Peer]\nPublicKey = %s\nPresharedKey = %s\nAllowedIPs = 10.0.0.1/32\n\n"
    own = "[Interface]\nPrivateKey = %s\nListenPort = 51820\n\n" % key("the server")
    return own + "".join(section % (n, peer(n).public_key, key("shared %d" % n)) for n in range(count))


class Journal:
    """Receives what daemons send to the journal, in a process of its own."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(JOURNAL)
        self.count = multiprocessing.get_context("fork").RawValue("i", 0)
        self.process = multiprocessing.get_context("fork").Process(target=self.receive, daemon=True)
        self.process.start()

    def receive(self) -> None:
        while self.socket.recv(65536):
            self.count.value += 1

    def close(self) -> None:
        self.process.terminate()
        self.process.join()
        self.socket.close()
        os.unlink(JOURNAL)


def measure_names(place: Place, count: int, loads: Sequence[str], readings: int) -> Figures:
    """Three daemons side by side read the same device: one without names, one with a name for every peer, and one that
    also sends its lines to the journal. And what `metrics` takes beside them."""
    names = place.folder + "/wg0.conf"
    with open(names, "w") as file:
        file.write(configuration(count))
    scene, journal = Scene(count), Journal()
    daemons = [
        Daemon(place, 2, CALM_THRESHOLD_S, **more) for more in ({}, {"names": names}, {"names": names, "journal": True})
    ]
    figures: Figures = {"peers": count}
    for daemon in daemons:
        daemon.expected = LATE
        daemon.ready()

    def reading(load: str) -> List[float]:
        before = [daemon.cpu() for daemon in daemons]
        scene.step(load)
        cost = run_for_cpu(WG_COMMAND)[0]
        scene.asked(1 + len(daemons))
        for daemon in daemons:
            daemon.rest()
        return [*(daemon.cpu() - begun for daemon, begun in zip(daemons, before)), cost]

    for load in loads:
        rounds = [reading(load) for _ in range(readings + 1)][1:]  # the first one still changes over
        own = [1000 * median(column) for column in zip(*rounds)]
        figures[load] = dict(zip(("plain_ms", "named_ms", "both_ms", "wg_ms"), own))
    again = []
    for _ in range(3):
        os.utime(names)
        again.append(reading("quiet")[1] - figures["quiet"]["named_ms"] / 1000)
    reading("quiet")
    figures.update(again_s=max(again), resident=[daemon.memory().resident for daemon in daemons])
    figures.update(metrics=ask(place, ("metrics",), ("--store", daemons[1].state)), metrics_wg_s=run_for_cpu(WG_COMMAND)[1])
    for daemon in daemons:
        daemon.stop()
    with closing(sqlite3.connect(daemons[1].state)) as database:
        (known,) = database.execute("SELECT count(*) FROM peers WHERE name LIKE 'peer-%_s_laptop'").fetchone()
    if known != count:
        die("only %d of %d peers have their names" % (known, count))
    if not journal.count.value:  # on a busy machine, the receiver may miss some, which then go to standard error
        die("the journal got no line")
    journal.close()
    scene.close()
    return figures


def names_report(figures: Figures) -> Iterator[str]:
    for load in STEADY_LOADS:
        if load in figures:
            plain, named, both, of_wg = figures[load].values()
            yield "%s: own %.2f ms a reading, with names %.2f, with names and journal %.2f; over wg (%.1f ms): %s, %s" % (
                load, plain, named, both, of_wg,
                verdict((named - plain) / of_wg, NAMED_BAR, "%.3f"), verdict((both - plain) / of_wg, BOTH_BAR, "%.3f"),
            )  # fmt: skip
    plain, named, _ = figures["resident"]
    more = verdict((named - plain) / figures["peers"], NAMED_MEMORY_BAR, "%.0f")
    yield "memory %s MiB, with names %s: a peer %s bytes more" % (mib(plain), mib(named), more)
    yield "all %d names are read again in %s s of CPU" % (
        figures["peers"], verdict(figures["again_s"], NAMES_AGAIN_BAR_S, "%.2f"),
    )  # fmt: skip
    metrics = figures["metrics"]
    yield "`metrics`: %s s without the run of wg (%.2f s), %.2f s of CPU with it, peak %s MiB" % (
        verdict(metrics["seconds"] - figures["metrics_wg_s"], METRICS_BAR_S, "%.2f"), figures["metrics_wg_s"],
        metrics["cpu"], verdict(metrics["peak"] / MIB, REPORT_PEAK_BAR / MIB, "%.0f"),
    )  # fmt: skip


def trail_row(figures: Figures) -> str:
    rate, bar = figures["lines"] / figures["seconds"], figures["bar"]
    speed = "%d %s %d" % (rate, ">=" if rate >= bar else "< !", bar)
    peak = verdict(figures["peak"] / MIB, TRAIL_PEAK_BAR / MIB, "%.0f")
    sizes = [figures["format"], "%d" % (figures["bytes"] / 1e6), f"{figures['lines']:,}"]
    return row([*sizes, "`%s`" % figures["words"], "%.1f" % figures["seconds"], "%.1f" % figures["cpu"], speed, peak])


def run_time(command: Sequence[str]) -> float:
    """Wall-clock seconds."""
    began = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def ready_time(place: Place, command: Sequence[str]) -> float:
    daemon = Daemon(place, 1, CALM_THRESHOLD_S, command=command)
    took = daemon.ready()
    daemon.stop()
    return took


def measure_start(place: Place, module: str) -> Figures:
    """Wall-clock seconds: the least of many, since a machine's other work only ever adds; by turns, since it may go on
    for a while."""
    python = [sys.executable, "-I"]
    script = [*python, module]
    looks: Dict[str, Callable[[], float]] = {
        "argparse_s": lambda: run_time([*python, "-c", "import argparse"]),
        "help_s": lambda: run_time([*place.command, "--help"]),
        "help_script_s": lambda: run_time([*script, "--help"]),
        "imports_s": lambda: run_time([*python, "-c", "import argparse, sqlite3, subprocess"]),
        "wg_run_s": lambda: run_for_cpu(WG_COMMAND)[1],
        "ready_s": lambda: ready_time(place, place.command),
        "ready_script_s": lambda: ready_time(place, script),
    }
    scene = Scene(10)
    try:
        rounds = [{name: look() for name, look in looks.items()} for _ in range(START_ROUNDS)]
    finally:
        scene.close()
    return {name: min(took[name] for took in rounds) for name in looks}


# A command that reads a store, and the most seconds that it may take.
class Question(NamedTuple):
    words: Sequence[str]
    bar_s: float


def questions(now: float) -> List[Question]:
    """About a store of a year."""
    noon = "@%d" % (now - 100 * 86_400)
    return [
        Question(("sessions", "--since", "7d"), 1.0),
        Question(("sessions", "--since", "7d", "--format", "json"), 1.0),
        Question(("sessions", "--last", "20"), 1.0),
        Question(("sessions", "--present", noon), 1.0),
        Question(("sessions", "--ip", "10.0.0.77"), 1.0),
        Question(("sessions", "--ip", "203.0.113.77"), 1.0),
        Question(("sessions", "--peer", "laptop-0010"), 1.0),
        Question(("sessions", "--summary"), 5.0),
        Question(("sessions", "--summary", "--since", "365d"), 5.0),
        Question(("sessions", "--by", "month"), 5.0),
        Question(("sessions", "--by", "day", "--since", "365d"), 5.0),
    ]


def write_a_year(form: str, path: str, peers: int, sessions: int) -> int:
    # In a process of its own: a child begins with the peak of the one that forks it.
    command = [sys.executable, YEAR_WRITER, form, path, str(peers), str(sessions)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def ask(place: Place, words: Sequence[str], source: Sequence[str], rounds: int = REPORT_ROUNDS) -> Figures:
    """The least wall-clock and CPU seconds of some runs, and their highest peak of memory."""
    command = [*place.command, words[0], *source, *words[1:]]
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryFile(dir="/dev/shm") as output:
            began = time.monotonic()
            child = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            took = time.monotonic() - began
            child.returncode = status
            size = output.seek(0, os.SEEK_END)
        if status:
            die("%s fails" % " ".join(command))
        found.append((took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, size))
    took, cpu, peak, size = (pick(values) for pick, values in zip((min, min, max, max), zip(*found)))
    return {"words": " ".join(words), "seconds": took, "cpu": cpu, "peak": peak, "output": size}


def measure_reports(place: Place) -> Iterator[Tuple[Figures, float]]:
    """Figures of each question, and its bar in seconds."""
    now = time.time()
    for peers, sessions, asked in (
        (100, 10_000, [Question(("status",), 0.15)]),
        (10_000, 100_000, [Question(("status",), 1.0)]),
        (*YEAR, [Question(("status",), 1.0), *questions(now)]),
    ):
        store = "%s/%d.db" % (place.folder, peers)
        write_a_year("store", store, peers, sessions)
        for question in asked:
            yield {"peers": peers, "sessions": sessions, **ask(place, question.words, ("--store", store))}, question.bar_s


def measure_trails(place: Place, megabytes: int) -> Iterator[Figures]:
    """A trail of each format, of about that size, in one pass."""
    for form, size, bar in (("text", 127, TEXT_LINES_BAR), ("json", 433, JSON_LINES_BAR)):
        path = "%s/trail" % place.folder
        lines = write_a_year(form, path, YEAR[0], megabytes * 1_000_000 // size // 2)
        for words in (("sessions", "--since", "7d"), ("sessions", "--summary")):
            figures = ask(place, words, ("--from-log", path), rounds=2)
            yield {"format": form, "bytes": os.stat(path).st_size, "lines": lines, "bar": bar, **figures}
        os.unlink(path)


# --- The report ---------------------------------------------------------------------------------------------------


def machine() -> Dict[str, str]:
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith(("model name", "Model"))]
    version = subprocess.run([WG, "--version"], stdout=subprocess.PIPE, check=True).stdout.decode().split(" - ")[0]
    return {
        "processor": models[0] if models else platform.machine(),
        "processors": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "wg": version,
    }


def verdict(value: float, bar: Optional[float], form: str) -> str:
    """A figure with its bar, and a mark where it does not hold."""
    text = form % value
    if bar is None:
        return text
    return "%s %s %s" % (text, "<=" if value <= bar else "> !", form % bar)


def mib(size: int) -> str:
    return "%.1f" % (size / MIB)


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


HEADINGS = (
    "peers",
    "load",
    "own ms",
    "wg ms",
    "own/wg",
    "resident MiB",
    "shared MiB",
    "peak MiB",
    "wg to trail s",
    "notes",
)


def table_row(count: int, load: str, figures: Figures) -> str:
    def number(name: str, form: str) -> str:
        return form % figures[name] if name in figures else ""

    ratio = verdict(figures["ratio"], BARS.get(count, {}).get(load), "%.2f") if "ratio" in figures else ""
    bar = STORM_BAR_S if count == 10_000 else None
    storm_text = verdict(figures["in_trail_s"], bar, "%.2f") if "in_trail_s" in figures else ""
    notes = number("ready_s", "ready after %.2f s") + number("late", "%d late")
    return row(
        [
            f"{count:,}", load, number("own_ms", "%.2f"), number("wg_ms", "%.2f"), ratio,
            mib(figures["resident"]), mib(figures["shared"]), mib(figures["peak"]), storm_text, notes,
        ]
    )  # fmt: skip


def memory_report(sizes: Dict[int, Dict[str, Figures]], bare: int) -> Iterator[str]:
    """Bytes over the bare interpreter, and a peer's share of what is beyond the fixed part."""
    for count, loads in sorted(sizes.items()):
        steady_ones = [f for load, f in loads.items() if load in STEADY_LOADS]
        if not steady_ones:
            continue
        resident = max(f["resident"] for f in steady_ones) - bare
        peak = max(f["peak"] for f in steady_ones) - bare
        if count <= 10:
            yield "memory at %d peers over a bare interpreter: %s MiB" % (
                count,
                verdict(resident / MIB, FIXED_BAR / MIB, "%.1f"),
            )
        elif count >= 10_000:
            share = verdict((resident - FIXED_BAR) / count, RESIDENT_BAR, "%.0f")
            share_of_peak = verdict((peak - FIXED_BAR) / count, PEAK_BAR, "%.0f")
            yield f"memory a peer at {count:,}: resident {share} bytes, peak {share_of_peak} bytes"
            worst = max(f["peak"] for load, f in loads.items() if load in ("start", *LOADS)) - bare
            share_of_worst = verdict((worst - FIXED_BAR) / count, PEAK_BAR, "%.0f")
            yield f"memory a peer at {count:,}, the first reading and storms included: peak {share_of_worst} bytes"
        if "no store" in loads and "quiet" in loads:
            added = loads["quiet"]["resident"] - loads["no store"]["resident"]
            yield "the store adds at %d peers: %s MiB" % (count, verdict(added / MIB, STORE_BAR / MIB, "%.1f"))


def start_report(start: Figures) -> Iterator[str]:
    for name in ("help_s", "help_script_s"):
        yield "%s: %.0f ms, over `import argparse` (%.0f ms): %s" % (
            "--help" if name == "help_s" else "--help, not compiled before",
            1000 * start[name], 1000 * start["argparse_s"], verdict(start[name] / start["argparse_s"], HELP_BAR, "%.2f"),
        )  # fmt: skip
    least = start["imports_s"]
    for name in ("ready_s", "ready_script_s"):
        yield "%s: %.0f ms less one run of wg (%.1f ms), over `import argparse, sqlite3, subprocess` (%.0f ms): %s" % (
            "ready" if name == "ready_s" else "ready, not compiled before",
            1000 * start[name], 1000 * start["wg_run_s"], 1000 * least,
            verdict((start[name] - start["wg_run_s"]) / least, READY_BAR, "%.2f"),
        )  # fmt: skip


def words_of(choice: Sequence[str]) -> Any:
    def parse(text: str) -> List[str]:
        words = text.split(",")
        if not set(words) <= set(choice):
            raise argparse.ArgumentTypeError("allowed: " + ",".join(choice))
        return [word for word in choice if word in words]

    return parse


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=lambda text: [int(word) for word in text.split(",")], default=list(SIZES))
    parser.add_argument("--full", action="store_true", help="100,000 peers as well")
    parser.add_argument(
        "--loads", type=words_of(LOADS), default=[*STEADY_LOADS, "storm"], help=",".join(LOADS)
    )
    parser.add_argument("--readings", type=int, default=12, help="for each size and load (%(default)s)")
    parser.add_argument("--hung", action="store_true", help="only: an interface hangs beside ten others")
    parser.add_argument("--reports", action="store_true", help="only: `status` and `sessions` with the store of a year")
    parser.add_argument("--names", action="store_true", help="only: what names, journal and `metrics` cost")
    parser.add_argument("--trails", type=int, metavar="MB", help="only: `sessions --from-log` with trails of this size")
    parser.add_argument("--no-start", action="store_true", help="leave out how long the start takes")
    parser.add_argument("--json", metavar="FILE", help="the figures, in bytes, seconds and milliseconds")
    parser.add_argument("--module", default=MODULE, help="the wg_monitor.py to measure (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.full:
        arguments.sizes = sorted({*arguments.sizes, 100_000})
    return arguments


def own_namespace() -> None:
    """Nothing but the scripted device is to be seen by `wg`."""
    if os.geteuid() != 0:
        die("it takes root to show WireGuard interfaces")
    if not WG:
        die("wg is not installed: install wireguard-tools")
    if os.environ.pop("WG_MONITOR_BENCH", "") == "":
        unshare = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.environ["WG_MONITOR_BENCH"] = "in its namespace"
        os.execvp("unshare", unshare)
    for directory in (SOCKETS, os.path.dirname(JOURNAL)):
        os.makedirs(directory, 0o700, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)


def heading(titles: Sequence[str]) -> List[str]:
    return [row(titles), row(["---"] * len(titles))]


def alone(place: Place, arguments: argparse.Namespace) -> Iterator[str]:
    """The lines of the benchmarks that run only if they are asked for."""
    if arguments.trails:
        yield from heading(["format", "MB", "lines", "command", "s", "CPU s", "lines a second", "peak MiB"])
        yield from map(trail_row, measure_trails(place, arguments.trails))
    if arguments.reports:
        yield from heading(["peers", "sessions", "command", "s", "CPU s", "peak MiB"])
        for figures, bar_s in measure_reports(place):
            yield report_row(figures, bar_s)
    if arguments.names:
        figures = measure_names(place, 10_000, ("quiet", "handshakes"), arguments.readings)
        yield from ("- " + line for line in names_report(figures))
    for count in (1, 100, 1_000) if arguments.hung else ():
        yield from ("- " + line for line in hung_report(measure_hung(place, count, 20)))


def everything(place: Place, arguments: argparse.Namespace, report: Dict[str, Any]) -> Iterator[str]:
    """The lines of the table, and the figures for the report."""
    yield from heading(HEADINGS)
    for count in arguments.sizes:
        figures = report["sizes"].setdefault(count, {})
        for load, found in measure(place, count, arguments.loads, arguments.readings):
            figures[load] = found
            yield table_row(count, load, found)
    yield ""
    yield from ("- " + line for line in memory_report(report["sizes"], report["bare_resident"]))
    if not arguments.no_start:
        report["start"] = measure_start(place, arguments.module)
        yield from ("- " + line for line in start_report(report["start"]))


def main(argv: Optional[Sequence[str]] = None) -> int:
    arguments = parse_arguments(argv)
    own_namespace()
    report: Dict[str, Any] = {"machine": machine(), "bare_resident": baseline(arguments.module), "sizes": {}}
    print(", ".join("%s %s" % item for item in report["machine"].items()))
    print("a bare interpreter with the same imports: %s MiB\n" % mib(report["bare_resident"]))
    chosen = arguments.trails or arguments.reports or arguments.names or arguments.hung
    with closing(Place(arguments.module)) as place:
        for line in alone(place, arguments) if chosen else everything(place, arguments, report):
            print(line, flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
