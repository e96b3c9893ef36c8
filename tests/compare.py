"""Compare two versions of the module: random histories run through both, and the tool reports every difference.

    python3 tests/compare.py OLD.py NEW.py [--histories 2000] [--seed N] [--jobs 2]

A history is a script that knows neither module: what `wg` prints at each reading, two clocks, faults of the trail and
the store, rotations, stops, restarts with other settings, reboots and crashes. Each module plays it in a process of its
own, with a real trail and a real store. The tool then compares, after every life of the monitor, the trail with its
rotated files, the console, the hook runs, the status for the service manager, the tables of the store, the answers to
the documented query, and the place that the store notes for the next line. A crash is a SIGKILL at a seam that both
modules share: a write or an fsync of the trail, or a COMMIT. A seam is chosen by the line that passes it, so that a
COMMIT more or less does not move it. Where a crash still lands in different steps, or at any line of Python, the tool
only checks that every line stands in each trail exactly once.

    $ python3 tests/compare.py old/wg_monitor.py wg_monitor.py --histories 500
    seed 8, life 0 (stop), trail, line 27:
        old: 2023-11-14 23:31:50 OFFLINE [wg1] bob/////...///////= (192.0.2.1:9) [IP: 10.0.0.2] (handshake: 23:29:50)
        new: 2023-11-14 23:32:20 ONLINE  [site-b] carol///...///////= (N/A) [IP: 10.0.0.2] (handshake: 23:32:20)
    500 histories, 1544 lives, 31873 readings in 34.1 s: 1 histories differ
    $ python3 tests/compare.py old/wg_monitor.py wg_monitor.py --seed 8 --histories 1 --verbose

`--verbose` shows each step with what both consoles say. Warnings and errors may have other words: of them only the
number, the times, the first interface and the first other number count, unless `--texts` is given. `--without` leaves
out kinds of steps, by the names of the do_ methods of Stage (`--without busy,reload`), where the versions differ on
purpose. Exit status: 0 no difference, 1 some.

What only one version can do is switched off in it, so that the rest can be compared (FEATURES). Where this is not possible,
as for a store that comes back after the start of a life, the tool says how many histories it followed only up to there.

The tool replaces the clocks, `subprocess.Popen`, `sqlite3.connect`, `os.write` and `os.fsync`. Of a module it uses what
the method Stage.start names; steps for which a monitor lacks a method are left out for both (OPTIONAL). It does not
play what the loop of the monitor does by itself: the run of `wg`, the statistics, the watchdog, and `Monitor started`.
"""

import argparse
import errno
import gc
import importlib.util
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Sequence, Set, Tuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))

from values import NEVER_SHOOK, START, P, blocks
from world import World

# Kinds of steps, and the methods of a Monitor that they need.
OPTIONAL = {"hooks": ("reap_hooks", "start_hooks", "mark_hooks"), "reload": ("reload",)}
TABLES = {
    "events": "seq", "sessions": "number", "peers": "interface, public_key", "interfaces": "name", "runs": "number",
    "unwatched": "number", "allowed_ips": "number", "addresses": "interface, public_key, address",
}  # fmt: skip
DOCUMENTED = """
    SELECT datetime(start, 'unixepoch', 'localtime'), ifnull(datetime(last_seen, 'unixepoch', 'localtime'), 'online'),
           endpoints, received, sent, reason
    FROM sessions
    WHERE public_key = ? AND date(start, 'unixepoch', 'localtime') <= ?
      AND ifnull(date(last_seen, 'unixepoch', 'localtime'), '9999') >= ?
    ORDER BY number"""
PATIENCE_S = 60  # for one life: a module that hangs is ended
STAMP_LENGTH = 19
FIGURES = ("last_seen", "length", "received", "sent")
CLOCKS = ("made", "heard", "heard_wall")
ALL_BUT_THE_NEWLINE = -1
DAY_S = 86_400

NUMBER = re.compile("[0-9]+")
TRAIL_NAME = re.compile(r"trail(\.[0-9]+)?")

write, fsync, connect = os.write, os.fsync, sqlite3.connect
Date = time.struct_time


# --- A history ----------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    wall: float
    boot: float
    steady: float  # the monotonic clock, which does not count suspended time
    what: str  # the name of a method of Stage, without its do_
    arguments: Tuple[Any, ...]


class Crash(NamedTuple):
    seam: str
    step: int  # the seam is armed right before this step; -1 = before the monitor is made
    nth: int  # line that passes the seam since then
    cut: int  # bytes of a line in the middle of which the crash comes


class Life(NamedTuple):
    """One run of the monitor."""

    environment: Dict[str, str]  # its settings
    boot_id: str
    before: List[Step]  # what happens before it starts
    steps: List[Step]
    crash: Optional[Crash]
    end: str  # stop or kill


class History(NamedTuple):
    seed: int
    store: bool
    lives: List[Life]
    sound: bool  # nothing is lost but by crashes: trail and store must have the same lines


SEAMS = (
    "before write", "in the middle of write", "after write", "in the middle of write after a rotation",
    "before fsync", "after fsync", "before mark", "after mark", "before COMMIT", "after COMMIT",
)  # fmt: skip
ANYWHERE = "any line of Python"

# Faults that last for a while, with the steps that begin them.
TRAIL_FAULTS = ("full", "fsync_fails", "directory", "link", "second_name")
STORE_FAULTS = ("locked", "commit_fails", "disk_fails")
SIMULATED = {"full", "fsync_fails", "locked", "commit_fails", "disk_fails", "busy"}  # they end with the process

HOOK_EVENTS = ("", "ONLINE,OFFLINE", "ONLINE,OFFLINE,ROAMING,CHANGED,REMOVED,IFDOWN,IFUP", "IFUP,ROAMING")
SETTINGS = {
    "LOG_FORMAT": ("text", "text", "json"),
    "THRESHOLD": ("60", "120", "180"),
    "LIVENESS": ("handshake", "traffic"),
    "INTERFACE": ("", "", "", "wg0", "wg0,site-b", "wg1,wg9"),
    "ON_CHANGE_SCRIPT": ("", "hook", "hook"),
    "SCRIPT_EVENTS": HOOK_EVENTS,
}
WHYS = ("wg gave no answer within 10s", "wg exited with status 1: it is only a test", "the output of wg breaks off")
ADDRESSES = ("192.0.2.1:51820", "192.0.2.1:9", "198.51.100.7:1", "[2001:db8::7]:51820", "")
SAYINGS = ("", "", "Warning: something else\n", "Unable to access interface wg7: No such device\n")
DAMAGES = (
    "",  # its first bytes
    "UPDATE peers SET handshake = 'soon'",
    "UPDATE sessions SET start = 'then'",
    "ALTER TABLE interfaces RENAME COLUMN up TO risen",
)


class Wild(World):
    """A world that knows a few things more: what a hostile or broken `wg` could print."""

    def live(self) -> None:
        if self.chance.random() < 0.8:
            super().live()
            return
        deeds = (
            self.shake_back, self.shake_ahead, self.forget_handshake, self.count_anew, self.count_much,
            self.allow_many, self.shuffle, self.move_about, self.move_about, self.allow,
        )  # fmt: skip
        self.chance.choice(deeds)()

    def replace(self, changed: Callable[[P], P]) -> None:
        some = self.some_peer()
        if some is not None:
            link, p = some
            self.links[link][p.name] = changed(p)

    def shake_back(self) -> None:
        by = self.chance.choice((1, 60, 3600))
        self.replace(lambda p: p._replace(shook=max(p.shook - by, NEVER_SHOOK)))

    def shake_ahead(self) -> None:
        ahead = self.chance.choice((1, 45, 7200, 10**12))
        self.replace(lambda p: p._replace(shook=float(int(self.now.wall - START.wall) + ahead)))

    def move_about(self) -> None:
        """Its address is another one, perhaps its port only, and its networks may be as well."""
        name = self.chance.choice(("wg0", "wg1", "site-b"))
        for p in list(self.links.get(name, {}).values()):
            if p.shook > NEVER_SHOOK and self.chance.random() < 0.5:
                endpoint = self.chance.choice(ADDRESSES)
                ips = self.chance.choice((p.ips, p.ips, "10.9.0.1/32"))
                self.links[name][p.name] = p._replace(endpoint=endpoint, ips=ips, rx=p.rx + 148)

    def forget_handshake(self) -> None:
        self.replace(lambda p: p._replace(shook=NEVER_SHOOK))

    def count_anew(self) -> None:
        rx, tx = self.chance.choice(((0, 0), (5, 0), (0, 7), (100, 100)))
        self.replace(lambda p: p._replace(rx=min(rx, p.rx), tx=min(tx, p.tx)))

    def count_much(self) -> None:
        """The greatest number that a store can hold, and one more."""
        much = self.chance.choice((2**32, 2**62, 2**63 - 1, 2**63, 10**19))
        received = self.chance.random() < 0.5
        self.replace(lambda p: p._replace(rx=much) if received else p._replace(tx=much))

    def allow_many(self) -> None:
        ips = ",".join("10.%d.0.1/%s" % (n, self.chance.choice(("32", "24"))) for n in range(self.chance.randrange(25)))
        self.replace(lambda p: p._replace(ips=ips))

    def shuffle(self) -> None:
        """The lines come in another order from now on."""
        for link, members in self.links.items():
            self.links[link] = dict(self.chance.sample(sorted(members.items()), len(members)))

    def crowd(self, peers: int) -> None:
        members = self.links.setdefault("wg0", {})
        for number in range(peers):
            members["p%d" % number] = P("p%d" % number, ips="10.1.%d.%d/32" % divmod(number, 256))

    def storm(self) -> None:
        """Everybody on an interface shakes hands."""
        for members in self.links.values():
            for name, p in members.items():
                members[name] = p._replace(shook=float(int(self.now.wall - START.wall)), rx=p.rx + 148)


class Author:
    """Writes a history."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.seed = seed
        self.world = Wild(chance)
        for _ in range(chance.choice((0, 20, 40))):
            self.world.live()
        self.slept = 0.0
        self.store = chance.random() < 0.93
        self.on_grid = chance.random() < 0.4  # whole seconds and whole intervals: ages that are exactly the threshold
        self.has_crashes = chance.random() < 0.55
        self.anywhere = self.has_crashes and chance.random() < 0.15
        self.has_faults = not self.anywhere and chance.random() < 0.4
        self.has_losses = not self.anywhere and chance.random() < 0.25
        self.has_steps = not self.anywhere and chance.random() < 0.4
        self.has_reboots = chance.random() < 0.5
        self.is_strange = chance.random() < 0.6  # lines that cannot be parsed
        self.crowded = chance.random() < 0.02
        self.sound = self.store
        self.active: Set[str] = set()
        self.environment = {name: chance.choice(values) for name, values in SETTINGS.items()}
        self.environment["HISTORY_DAYS"] = "1" if not self.anywhere and chance.random() < 0.3 else "365"
        if self.environment["HISTORY_DAYS"] == "1":
            self.sound = False
        if self.on_grid:
            self.world.boot, self.world.offset = START.boot, START.wall - START.boot

    def step(self, what: str, *arguments: Any) -> Step:
        now = self.world.now
        return Step(now.wall, now.boot, now.boot - self.slept, what, arguments)

    def happens(self, probability: float) -> bool:
        return self.chance.random() < probability

    def write(self) -> History:
        readings = self.chance.randrange(30, 101)
        lives = self.chance.choice((2, 3, 4, 5) if self.has_crashes else (1, 2, 3, 4))
        if self.crowded:
            readings = 12
            self.world.crowd(300)
        written = []
        for number in range(lives):
            before = self.between() if number else []
            written.append(self.life(before, max(1, readings // lives), number == lives - 1))
        return History(self.seed, self.store, written, self.sound)

    def life(self, before: List[Step], readings: int, last: bool) -> Life:
        boot_id = "boot-%d" % self.world.boots
        before += [self.fault(name, True) for name in sorted(self.active & SIMULATED)]
        if self.has_faults and "busy" not in self.active and self.happens(0.05):
            before.append(self.fault("busy", True))
        steps: List[Step] = []
        for _ in range(readings):
            self.pass_time()
            steps += self.happenings()
            steps.append(self.reading())
            if self.happens(0.6):
                steps.append(self.step("hooks", self.hook_status(), self.happens(0.3)))
        if last:
            # All of them: a crash may have come before the step that ended one.
            steps += [self.fault(name, False) for name in (*TRAIL_FAULTS, *STORE_FAULTS, "unfit", "busy")]
            for _ in range(2):
                self.pass_time()
                steps.append(self.reading())
        crash = None
        if self.has_crashes and not last and self.happens(0.75):
            crash = self.crash(len(steps))
        return Life(dict(self.environment), boot_id, before, steps, crash, "stop" if last or self.happens(0.6) else "kill")

    def hook_status(self) -> Any:
        return self.chance.choice((3, 3, "error")) if self.happens(0.15) else 0

    def crash(self, steps: int) -> Crash:
        step = self.chance.randrange(-1, steps)
        if self.anywhere:
            return Crash(ANYWHERE, step, self.chance.choice((10, 100, 300, 1000)) + self.chance.randrange(300), 0)
        cut = self.chance.choice((1, 7, STAMP_LENGTH, ALL_BUT_THE_NEWLINE))
        return Crash(self.chance.choice(SEAMS), step, self.chance.choice((1, 1, 1, 2, 3, 5)), cut)

    def pass_time(self) -> None:
        world = self.world
        if self.happens(0.03):
            before = world.boot
            world.wait(100, 40_000)
            self.slept += world.boot - before
        elif self.environment["HISTORY_DAYS"] == "1" and self.happens(0.05):
            world.wait(DAY_S, 3 * DAY_S)
        elif self.on_grid:
            world.boot += 30 * self.chance.choice((1, 1, 1, 1, 2, 10))
        else:
            world.wait(25, 35) if self.happens(0.85) else world.wait(35, 400)
        for _ in range(self.chance.choice((0, 0, 1, 2, 4, 10))):
            world.live()
            if not self.on_grid:
                world.wait(0, 8)
        if self.crowded and self.happens(0.3):
            world.storm()

    def set_clock(self) -> None:
        before = self.world.now.wall
        self.world.step()
        if self.on_grid:
            self.world.offset = float(int(self.world.offset))
        if abs(self.world.now.wall - before) > 100 * DAY_S:
            self.sound = False  # history is forgotten

    def reading(self) -> Step:
        if self.happens(0.04):
            return self.step("no_reading", self.chance.choice(WHYS))
        sample = self.world.sample(faults=self.is_strange)
        complaints = sample.complaints + (self.chance.choice(SAYINGS) if self.is_strange else "")
        return self.step("read", blocks(sample.text.encode(), self.chance.choice((1, 300, 3000))), complaints)

    def fault(self, name: str, begins: bool) -> Step:
        if not begins:
            self.active.discard(name)
            return self.step(name, False)
        self.active.add(name)
        if name in STORE_FAULTS:
            self.sound = False
        if name == "full":
            return self.step(name, True, self.chance.choice((0, 0, 1, 3)), self.chance.choice((0, 1, STAMP_LENGTH, -1)))
        return self.step(name, True)

    def happenings(self) -> List[Step]:
        """What happens before a reading, besides to peers."""
        steps = []
        if self.happens(0.06):
            self.world.blink()
        if self.has_steps and self.happens(0.03):
            self.set_clock()
        if self.happens(0.05):
            steps.append(self.step("rotate", self.happens(0.5)))
        if self.happens(0.03):
            steps.append(self.step("reload"))
        if self.happens(0.03):
            steps.append(self.step("flush"))
        if self.has_losses and self.happens(0.03):
            steps.append(self.loss())
        if self.has_faults:
            steps += [self.fault(name, False) for name in sorted(self.active) if self.happens(0.25)]
            steps += [self.fault(name, True) for name in (*TRAIL_FAULTS, "unfit") if self.fits(name) and self.happens(0.012)]
            if self.has_losses or self.seed % 2:
                steps += [self.fault(name, True) for name in STORE_FAULTS if self.fits(name) and self.happens(0.015)]
        return steps

    def fits(self, name: str) -> bool:
        """Faults that exclude each other: what stands where the trail should be is one thing only."""
        return name not in self.active and not (name in TRAIL_FAULTS[2:] and self.active & set(TRAIL_FAULTS[2:]))

    def loss(self) -> Step:
        self.sound = False
        return self.step(self.chance.choice(("delete", "empty", "move_store")))

    def between(self) -> List[Step]:
        """From one life to the next."""
        steps = []
        if not self.on_grid:
            self.world.wait(0, self.chance.choice((1, 60, 600)))
        if self.has_steps and self.happens(0.2):
            self.set_clock()
        if self.has_reboots and self.happens(0.4):
            self.world.reboot()
            self.slept = 0.0
        if self.happens(0.5):
            name = self.chance.choice(["INTERFACE"] * 3 + sorted(SETTINGS))
            self.environment[name] = self.chance.choice(SETTINGS[name])
        if self.happens(0.15):
            steps.append(self.step("rotate", self.happens(0.5)))
        if self.has_losses and self.happens(0.3):
            steps.append(self.loss())
        if self.has_losses and self.happens(0.3):
            self.sound = False
            steps.append(self.step("tear") if self.happens(0.4) else self.step("damage", self.chance.choice(DAMAGES)))
        return steps


# --- A module on its stage ----------------------------------------------------------------------------------------


class Clock:
    """The clocks of the step that is played. There is one such object in a process."""

    wall = boot = steady = 0.0
    boot_id = ""


class Time:
    """The module `time`, as a module on the stage sees it."""

    def time(self) -> float:
        return Clock.wall

    def time_ns(self) -> int:
        return int(Clock.wall * 10**9)

    def monotonic(self) -> float:
        return Clock.steady

    def localtime(self, seconds: Optional[float] = None) -> Date:
        return time.localtime(Clock.wall if seconds is None else seconds)

    def strftime(self, shape: str, when: Optional[Date] = None) -> str:
        return time.strftime(shape, when or self.localtime())

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def load(path: str, name: str) -> Any:
    """A version of the module, with the clocks replaced."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("%s is no Python module" % path)
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    module.time = Time()
    module.moment = lambda: module.Moment(Clock.wall, Clock.boot)
    module.boot_id = lambda: Clock.boot_id
    if hasattr(module, "STORE_PATIENCE_S"):
        module.STORE_PATIENCE_S = 0  # the clock stands still while a module waits
    return module


# --- What only one version can do ---------------------------------------------------------------------------------


def forget_notes(module: Any) -> None:
    """The small file with the last reading and the last numbers: it stays empty, and a store without a save begins at 1."""
    unreached = module.UNREACHED_S

    def numbers(store: Any, now: Any) -> Tuple[int, int]:
        number = 0 if store.database is not None else int(max(now.wall, unreached) * 1000)
        return number, number

    module.Store.take_note = lambda *arguments: None
    module.Store.numbers = numbers


def forget_last_session(module: Any) -> None:
    """Numbers of sessions that are no longer in the store: they are given again."""
    load = module.Store.load

    def load_and_forget(store: Any, *arguments: Any) -> Any:
        loaded = load(store, *arguments)
        loaded.table.sessions = max(store.highest("sessions", "number"), store.highest("peers", "session"))
        return loaded

    module.Store.load = load_and_forget


def forget_ends(module: Any) -> None:
    """Sessions that do not overlap: a row forgets when its former session ended."""
    end_session = module.end_session

    def end_and_forget(table: Any, row: Any, *arguments: Any) -> Any:
        ended = end_session(table, row, *arguments)
        if "ended" in type(row).__slots__:
            row.ended = module.NOT_YET
        return ended

    module.end_session = end_and_forget


def forget_zone(module: Any) -> None:
    """The UTC offset of the former life: a life compares its first reading with the zone of its start."""
    load = module.Store.load
    module.Store.load = lambda *arguments: load(*arguments)._replace(utc_offset="")


def part(module: Any) -> None:
    """A store that comes back after the start, and lines that only a failing store has, which wait without delaying others:
    nothing to switch off. Histories part where a life begins without its store, or where such lines wait."""
    batch = module.Outbox.batch

    def batch_and_note(outbox: Any) -> Any:
        missing, store = outbox.delivered.missing, outbox.store
        if missing and store is not None and store.database is None:
            if not outbox.unwritten or missing[0][0] < outbox.unwritten[0].seq:
                append(Process.stage.paths.apart, b"-")
        return batch(outbox)

    module.Outbox.batch = batch_and_note


class Feature(NamedTuple):
    has: Callable[[Any], bool]
    switch_off: Callable[[Any], None]


FEATURES = {
    "note": Feature(lambda module: hasattr(module.Store, "take_note"), forget_notes),
    "last session": Feature(lambda module: "last_session" in module.MONITOR.names, forget_last_session),
    "ended": Feature(lambda module: "ended" in module.Row.__slots__, forget_ends),
    "zone": Feature(lambda module: "utc_offset" in module.Loaded._fields, forget_zone),
    "adoption": Feature(lambda module: hasattr(module.Monitor, "adopt"), part),
}


def switch_off(old: Any, new: Any) -> Set[str]:
    """Makes the modules equal. Returns the names of the features that only one of them has."""
    unequal = {name for name, feature in FEATURES.items() if feature.has(old) != feature.has(new)}
    for name in unequal:
        for module in (old, new):
            if FEATURES[name].has(module):
                FEATURES[name].switch_off(module)
    return unequal


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be survived")


class Paths:
    """Where a module's files are. Both modules use the same paths, one after the other."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.home = root + "/home"  # what the module sees
        self.trail = self.home + "/trail"
        self.store = self.home + "/state.db"
        self.hook = self.home + "/hook"
        self.console, self.hooks, self.status = root + "/console", root + "/hooks", root + "/status"
        self.lost = root + "/lost"  # what was in trails that are deleted
        self.progress, self.outcomes = root + "/progress", root + "/outcomes"
        self.apart = root + "/apart"  # where something happened in this life that only one version can do

    def clean(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        os.makedirs(self.home)
        with open(self.hook, "w") as file:
            file.write("#!/bin/sh\n")
        os.chmod(self.hook, 0o755)

    def next_name(self) -> str:
        """For a rotated trail."""
        return "%s.%03d" % (self.trail, 1 + sum(name.startswith("trail.") for name in os.listdir(self.home)))

    def rotated(self) -> List[str]:
        """The names of all trails, oldest first."""
        names = [name for name in os.listdir(self.home) if TRAIL_NAME.fullmatch(name)]
        names.sort(key=lambda name: (name == "trail", name))
        return [name for name in names if os.path.isfile(self.home + "/" + name)]


def append(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    write(descriptor, data)
    os.close(descriptor)


class Seams:
    """The system calls and statements that both modules share, with the crash and the faults that come there."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.crash: Optional[Crash] = None  # once it is armed
        self.lines = 0  # that the trail got since then
        self.first = 0  # number of the last event when the crash was armed
        self.synced = self.is_rotated = False
        self.room: Optional[Tuple[int, int]] = None  # lines and bytes that the disk of the trail still takes
        self.fsync_fails = False
        self.store_fault = ""
        self.database: Optional[sqlite3.Connection] = None
        self.commits = 0
        self.left = 0  # lines of Python
        os.write, os.fsync = self.write, self.fsync  # type: ignore[assignment]
        sqlite3.connect = self.connect  # type: ignore[assignment]

    def arm(self, crash: Crash, source: str) -> None:
        self.crash, self.lines, self.synced, self.first = crash, 0, False, self.last_event()
        if crash.seam == ANYWHERE:
            self.left = crash.nth
            sys.settrace(lambda frame, what, argument: self.trace if frame.f_code.co_filename == source else None)

    def trace(self, *arguments: Any) -> Any:
        self.left -= 1
        if not self.left:
            die()
        return self.trace

    def reach(self, *seams: str) -> bool:
        return self.crash is not None and self.crash.seam in seams

    def is_trail(self, descriptor: int) -> bool:
        return os.readlink("/proc/self/fd/%d" % descriptor).startswith(self.paths.trail)

    def write(self, descriptor: int, data: Any) -> int:
        if self.crash is None and self.room is None or not self.is_trail(descriptor):
            return write(descriptor, data)
        text = bytes(data)
        count = text.count(b"\n")
        if self.crash is not None and self.lines + count >= self.crash.nth:
            if self.reach("before write"):
                die()
            if self.reach("in the middle of write") or self.is_rotated:
                write(descriptor, text[: place_in(text, max(0, self.crash.nth - 1 - self.lines), self.crash.cut)])
                die()
        if self.room is not None:
            room, cut = self.room
            if count > room:
                text = text[: place_in(text, room, cut)]
                count, cut = room, 0
            self.room = (room - count, cut)
            if not text:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, text)
        self.lines += text.count(b"\n")
        if self.crash is not None and self.lines >= self.crash.nth and self.reach("after write"):
            die()
        return written

    def fsync(self, descriptor: int) -> None:
        if self.crash is None and not self.fsync_fails or not self.is_trail(descriptor):
            fsync(descriptor)
            return
        here = self.crash is not None and self.lines >= self.crash.nth
        if here and self.reach("before fsync"):
            die()
        if self.fsync_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)
        if here and self.reach("after fsync"):
            die()
        self.synced = here

    def connect(self, path: Any, *arguments: Any, **more: Any) -> sqlite3.Connection:
        """A lock is not waited for: the tool is faster so."""
        if self.store_fault == "disk_fails":
            raise sqlite3.OperationalError("unable to open database file")
        self.database = None
        more.update(factory=Connection, timeout=0)
        database: Connection = connect(path, *arguments, **more)
        self.database, database.seams = database, self
        return database

    def last_event(self) -> int:
        try:
            if self.database is not None:
                found: int = sqlite3.Connection.execute(
                    self.database, "SELECT coalesce(max(seq), 0) FROM events"
                ).fetchone()[0]
                return found
        except sqlite3.Error:
            pass
        return 0

    def check(self, statement: str) -> bool:
        """Is it a COMMIT? Errors: sqlite3.OperationalError, where a fault lasts."""
        if self.store_fault == "disk_fails":
            raise sqlite3.OperationalError("disk I/O error")
        if statement[:6].upper() != "COMMIT":
            return False
        self.commits += 1
        if self.store_fault == "commit_fails":
            raise sqlite3.OperationalError("database or disk is full")
        return True

    def commit(self, really: Callable[[], Any]) -> Any:
        crash = self.crash
        here = crash is not None and (
            self.synced if self.reach("before mark", "after mark") else self.last_event() >= self.first + crash.nth
        )
        if here and self.reach("before COMMIT", "before mark"):
            die()
        result = really()
        if here and self.reach("after COMMIT", "after mark"):
            die()
        if here and self.reach("in the middle of write after a rotation") and not self.is_rotated:
            if os.path.isfile(self.paths.trail):
                os.rename(self.paths.trail, self.paths.next_name())
            self.is_rotated, self.lines = True, 0
        return result


class Connection(sqlite3.Connection):
    seams: Seams

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        seams = getattr(self, "seams", None)
        if seams is None or not seams.check(statement):
            return super().execute(statement, *arguments)
        found: sqlite3.Cursor = seams.commit(lambda: sqlite3.Connection.execute(self, statement))
        return found

    def executemany(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        self.seams.check(statement)
        return super().executemany(statement, *arguments)

    def executescript(self, script: str) -> sqlite3.Cursor:
        if re.search(r"\bCOMMIT\s*;?\s*$", script):
            self.seams.check("COMMIT")
        return super().executescript(script)

    def commit(self) -> None:
        if self.in_transaction:
            self.seams.check("COMMIT")
            self.seams.commit(lambda: sqlite3.Connection.commit(self))


def place_in(text: bytes, lines: int, cut: int) -> int:
    """How many bytes of a text are `lines` lines and a part of the next one."""
    first = 0
    for _ in range(lines):
        first = text.index(b"\n", first) + 1
    end = text.find(b"\n", first)
    if end < 0:
        end = len(text)
    return end if cut == ALL_BUT_THE_NEWLINE else min(first + cut, end)


class Process:
    """What subprocess.Popen makes: a hook that does nothing, and lasts as long as the stage wants."""

    stage: "Stage"
    pid = 2**22 + 1  # none that Linux gives

    def __init__(self, arguments: Sequence[str], **more: Any) -> None:
        self.returncode: Optional[int] = None
        if self.stage.hook_status == "error":
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        told = json.dumps([os.path.basename(arguments[0]), more["env"]], sort_keys=True)
        append(self.stage.paths.hooks, told.encode() + b"\n")
        self.stdout: Any = None
        output: Any = more.get("stdout")
        if output == subprocess.PIPE:
            reader, output = os.pipe()
            self.stdout = open(reader, "rb", buffering=0)
        if self.stage.hook_status and isinstance(output, int):
            write(output, b"it failed\n")
        if self.stdout is not None:
            os.close(output)

    def poll(self) -> Optional[int]:
        if self.returncode is None and not self.stage.hooks_last:
            self.returncode = int(self.stage.hook_status != 0)
        return self.returncode

    def wait(self, timeout: Optional[float] = None) -> Optional[int]:
        return self.poll()


class Stage:
    """One life of one module. Each do_ method is a kind of step; `begins` says whether a fault begins or ends."""

    def __init__(self, module: Any, life: Life, store: bool, paths: Paths, seams: Seams, without: Sequence[str]) -> None:
        self.module, self.life, self.has_store = module, life, store
        self.paths, self.seams, self.without = paths, seams, without
        self.hook_status: Any = 0
        self.hooks_last = False
        self.monitor: Any = None
        self.lock: Optional[sqlite3.Connection] = None
        self.other: Any = None  # another monitor's trail
        seams.crash = seams.room = seams.database = None
        seams.fsync_fails, seams.store_fault = False, ""
        Process.stage = self
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.address = "compare-%d-%d" % (os.getpid(), self.listener.fileno())
        self.listener.bind("\0" + self.address)

    def play(self, note: Callable[[int], None]) -> None:
        crash = self.life.crash
        Clock.boot_id = self.life.boot_id
        note(-1)
        for step in self.life.before:
            self.do(step)
        if crash is not None and crash.step < 0:
            self.seams.arm(crash, self.module.__file__)
        self.set_clocks(self.life.steps[0])
        self.start()
        for number, step in enumerate(self.life.steps):
            note(number)
            if crash is not None and crash.step == number:
                self.seams.arm(crash, self.module.__file__)
            self.do(step)
            self.listen()
        note(len(self.life.steps))
        if self.life.end == "kill":
            die()
        self.finish()

    def set_clocks(self, step: Step) -> None:
        Clock.wall, Clock.boot, Clock.steady = step.wall, step.boot, step.steady

    def do(self, step: Step) -> None:
        self.set_clocks(step)
        if step.what not in self.without:
            getattr(self, "do_" + step.what)(*step.arguments)

    def start(self) -> None:
        """What the function `watch` of the module does."""
        module, paths = self.module, self.paths
        environment = dict(self.life.environment, LOG_PATH=paths.trail, STATE_PATH=paths.store if self.has_store else "")
        if environment["ON_CHANGE_SCRIPT"]:
            environment["ON_CHANGE_SCRIPT"] = paths.hook
        settings = module.parse_settings({}, environment)
        console = module.Console("")
        notifier = module.Notifier({"NOTIFY_SOCKET": "@" + self.address})
        store = module.Store(paths.store) if self.has_store else None
        trail = module.open_own_trail(paths.trail, self.has_store)
        self.monitor = module.Monitor(settings, "/no/wg", console, trail, store, notifier)
        self.monitor.open()
        if self.has_store and "store" in self.monitor.faults:
            append(paths.apart, b"-")

    def finish(self) -> None:
        self.hooks_last = False
        os.kill(os.getpid(), signal.SIGCHLD)  # hooks that still run end now
        self.monitor.finish()
        self.listen()
        self.do_locked(False)
        self.do_busy(False)
        self.listener.close()

    def listen(self) -> None:
        """The numbers of online and known peers and of interfaces, as the service manager gets them."""
        while True:
            try:
                said = self.listener.recv(4096).decode()
            except BlockingIOError:
                return
            for line in said.split("\n"):
                if line.startswith("STATUS=") and self.monitor is not None:
                    numbers = NUMBER.findall(line.partition(";")[0])
                    append(self.paths.status, (" ".join(numbers) + "\n").encode())

    # What the monitor is told

    def do_read(self, output: List[bytes], complaints: str) -> None:
        answer = self.module.Answer
        at = (self.module.moment(),) if "at" in answer._fields else ()
        self.monitor.take(answer(sum(map(len, output)), complaints, "", *at), output)
        self.end_turn()

    def do_no_reading(self, why: str) -> None:
        self.monitor.no_reading(why)
        self.end_turn()

    def end_turn(self) -> None:
        if hasattr(self.monitor, "urgent"):  # earlier versions end each reading by themselves
            self.monitor.conclude()

    def do_flush(self) -> None:
        self.monitor.flush()

    def do_reload(self) -> None:
        self.monitor.reload()

    def do_hooks(self, status: Any, last: bool) -> None:
        """The part of a turn that deals with hooks. Those that are started now fail or last, if so wanted."""
        self.hooks_last = False
        self.monitor.reap_hooks()
        self.monitor.flush()
        self.hook_status, self.hooks_last = status, last
        self.monitor.start_hooks()
        self.monitor.flush()
        self.monitor.mark_hooks()

    # What happens to the trail

    def do_rotate(self, anew: bool) -> None:
        if os.path.isfile(self.paths.trail) and not os.path.islink(self.paths.trail):
            os.rename(self.paths.trail, self.paths.next_name())
            if anew:
                os.close(os.open(self.paths.trail, os.O_CREAT | os.O_EXCL, 0o640))

    def keep_lost(self) -> bool:
        if not os.path.isfile(self.paths.trail) or os.path.islink(self.paths.trail):
            return False
        append(self.paths.lost, Path(self.paths.trail).read_bytes())
        return True

    def do_delete(self) -> None:
        if self.keep_lost():
            os.unlink(self.paths.trail)

    def do_empty(self) -> None:
        if self.keep_lost():
            os.truncate(self.paths.trail, 0)

    def do_tear(self) -> None:
        if os.path.isfile(self.paths.trail):
            append(self.paths.trail, b"half a li")

    def do_full(self, begins: bool, lines: int = 0, cut: int = 0) -> None:
        self.seams.room = (lines, cut) if begins else None

    def do_fsync_fails(self, begins: bool) -> None:
        self.seams.fsync_fails = begins

    def do_directory(self, begins: bool) -> None:
        if begins:
            self.do_rotate(False)
            if not os.path.lexists(self.paths.trail):
                os.mkdir(self.paths.trail)
        elif os.path.isdir(self.paths.trail):
            os.rmdir(self.paths.trail)

    def do_link(self, begins: bool) -> None:
        if begins:
            self.do_rotate(False)
            if not os.path.lexists(self.paths.trail):
                os.symlink(self.paths.root + "/elsewhere", self.paths.trail)
        elif os.path.islink(self.paths.trail):
            os.unlink(self.paths.trail)

    def do_second_name(self, begins: bool) -> None:
        name = self.paths.root + "/second"
        if begins and os.path.isfile(self.paths.trail) and not os.path.lexists(name):
            os.link(self.paths.trail, name)
        elif not begins and os.path.lexists(name):
            os.unlink(name)

    def do_busy(self, begins: bool) -> None:
        """Another monitor writes to the trail."""
        if begins:
            other = self.module.Trail(self.paths.trail)
            try:
                other.open()
                self.other = other
            except OSError:
                other.close()  # it may have the lock already
        elif self.other is not None:
            self.other.close()
            self.other = None

    # What happens to the store, and to the hook

    def do_locked(self, begins: bool) -> None:
        if begins and self.lock is None and os.path.exists(self.paths.store):
            self.lock = connect(self.paths.store, timeout=0, isolation_level=None)
            try:
                self.lock.execute("BEGIN IMMEDIATE")
            except sqlite3.Error:
                pass
        elif not begins and self.lock is not None:
            self.lock.close()
            self.lock = None

    def do_commit_fails(self, begins: bool) -> None:
        self.seams.store_fault = "commit_fails" if begins else ""

    def do_disk_fails(self, begins: bool) -> None:
        self.seams.store_fault = "disk_fails" if begins else ""

    def do_move_store(self) -> None:
        self.do_locked(False)
        if self.monitor is not None:
            append(self.paths.apart, b"-")  # versions that adopt a store notice this earlier
        number = len(os.listdir(self.paths.root))
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(self.paths.store + suffix):
                os.rename(self.paths.store + suffix, "%s/moved-%d%s" % (self.paths.root, number, suffix))

    def do_damage(self, statement: str) -> None:
        if not os.path.exists(self.paths.store):
            return
        if statement:
            with closing(connect(self.paths.store, isolation_level=None)) as database:
                try:
                    database.execute(statement)
                except sqlite3.Error:
                    pass  # nothing is there yet
            return
        for suffix in ("-wal", "-shm"):
            if os.path.exists(self.paths.store + suffix):
                os.unlink(self.paths.store + suffix)
        with open(self.paths.store, "r+b") as file:
            file.write(b"this is no database at all" * 10)

    def do_unfit(self, begins: bool) -> None:
        os.chmod(self.paths.hook, 0o777 if begins else 0o755)


# --- What is left -------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    columns: List[str]
    rows: List[Tuple[Any, ...]]


class Outcome(NamedTuple):
    """What there is after a life."""

    ended: str
    step: int  # in which it ended
    trails: Dict[str, bytes]
    lost: bytes
    console: bytes  # of this life, and so the next two
    hooks: bytes
    status: bytes
    tables: Dict[str, Table]
    position: Tuple[Any, ...]
    answers: List[Tuple[Any, ...]]
    apart: bool  # something happened that only one version can do


def content(path: str, offset: int = 0) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""


def size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


Offsets = Tuple[int, int, int]


def offsets(paths: Paths) -> Offsets:
    return size_of(paths.console), size_of(paths.hooks), size_of(paths.status)


def look(paths: Paths, ended: str, step: int, begun: Offsets, day: str) -> Outcome:
    trails = {name: content(paths.home + "/" + name) for name in paths.rotated()}
    tables: Dict[str, Table] = {}
    position: Tuple[Any, ...] = ()
    answers: List[Tuple[Any, ...]] = []
    if os.path.exists(paths.store):
        try:
            tables, position, answers = look_at_store(paths, trails, day)
        except (sqlite3.Error, ValueError) as error:
            tables = {"damaged": Table([type(error).__name__], [])}
    return Outcome(
        ended,
        step,
        trails,
        content(paths.lost),
        content(paths.console, begun[0]),
        content(paths.hooks, begun[1]),
        content(paths.status, begun[2]),
        tables,
        position,
        answers,
        os.path.exists(paths.apart),
    )


def look_at_store(paths: Paths, trails: Dict[str, bytes], day: str) -> Any:
    """From a copy, since SQLite tidies up the original after a crash when somebody reads it."""
    copy = paths.root + "/copy.db"
    for suffix in ("", "-wal"):
        data = content(paths.store + suffix)
        if data or not suffix:
            Path(copy + suffix).write_bytes(data)
    try:
        with closing(connect(copy)) as database:
            tables = {}
            known = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for name, order in TABLES.items():
                if name not in known:
                    continue
                cursor = database.execute("SELECT * FROM %s ORDER BY %s" % (name, order))
                tables[name] = Table([column[0] for column in cursor.description], cursor.fetchall())
            row = next(where_the_next_line_goes(database), None)
            keys = [key for (key,) in database.execute("SELECT DISTINCT public_key FROM sessions ORDER BY 1 LIMIT 8")]
            answers = [answer for key in keys for answer in database.execute(DOCUMENTED, (key, day, day))]
            return tables, place_of(row, paths, trails), answers
    finally:
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(copy + suffix):
                os.unlink(copy + suffix)


def where_the_next_line_goes(database: sqlite3.Connection) -> Iterator[Tuple[Any, ...]]:
    """Device, inode, offset, and the last line up to which the trail lacks none."""
    cursor = database.execute("SELECT * FROM monitor")
    for values in cursor:
        row = dict(zip([column[0] for column in cursor.description], values))
        if "missing" in row:
            missing = NUMBER.search(row["missing"])
            row["written"] = int(missing.group(0)) - 1 if missing else row["last_line"]
        yield row["device"], row["inode"], row["size"], row["written"]


def place_of(row: Optional[Sequence[Any]], paths: Paths, trails: Dict[str, bytes]) -> Tuple[Any, ...]:
    """Where the next line goes: the file's name and the number of the line, since texts may have other lengths."""
    if row is None or row[1] is None:
        return (None, None, None, row[3] if row else None)
    for name, data in trails.items():
        status = os.stat(paths.home + "/" + name)
        if (str(status.st_dev), str(status.st_ino)) == (str(row[0]), str(row[1])):
            before = data[: row[2]]
            return (name, before.count(b"\n"), row[2] <= len(data) and before[-1:] in (b"", b"\n"), row[3])
    return ("a file that is gone", None, None, row[3])


class Played(NamedTuple):
    """What a module made of a history."""

    outcomes: List[Outcome]
    console: bytes  # of all lives
    marks: Dict[Tuple[int, int], int]  # how long the console was before each step of each life
    commits: int


def play(module: Any, history: History, paths: Paths, without: Sequence[str]) -> Played:
    """All lives of a history. Those up to the next crash share a process."""
    paths.clean()
    outcomes: List[Outcome] = []
    while len(outcomes) < len(history.lives):
        begun = offsets(paths)
        child = os.fork()
        if not child:
            perform(module, history, len(outcomes), paths, without)
        status = os.waitpid(child, 0)[1]
        for outcome in unpickled(paths.outcomes):
            outcomes.append(outcome)
            begun = tuple(old + len(new) for old, new in zip(begun, outcome[4:7]))  # type: ignore[assignment]
        if os.path.exists(paths.outcomes):
            os.unlink(paths.outcomes)
        if not status:
            continue
        if not os.WIFSIGNALED(status):
            raise RuntimeError("seed %d: the tool itself failed: %s" % (history.seed, content(paths.root + "/error").decode()))
        life = history.lives[len(outcomes)]
        step = [number for number, _ in progress(paths).get(len(outcomes), [])][-1]
        how = "killed" if os.WTERMSIG(status) == signal.SIGKILL else signal.Signals(os.WTERMSIG(status)).name
        outcomes.append(look(paths, how, step, begun, day_of(life.steps[-1].wall)))
    marks = {(life, step): size for life, steps in progress(paths).items() for step, size in steps}
    return Played(outcomes, content(paths.console), marks, size_of(paths.root + "/commits"))


def day_of(wall: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(min(wall, 2.0**37)))


def unpickled(path: str) -> Iterator[Outcome]:
    if os.path.exists(path):
        with open(path, "rb") as file:
            while file.peek(1):
                yield pickle.load(file)


def progress(paths: Paths) -> Dict[int, List[Tuple[int, int]]]:
    found: Dict[int, List[Tuple[int, int]]] = {}
    for line in content(paths.progress).decode().splitlines():
        life, step, size = map(int, line.split())
        found.setdefault(life, []).append((step, size))
    return found


def perform(module: Any, history: History, first: int, paths: Paths, without: Sequence[str]) -> NoReturn:
    """In a child: the lives from `first` on, until one of them ends by a crash."""
    code = 3
    try:
        signal.alarm(PATIENCE_S)
        console = os.open(paths.console, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(console, 1)
        os.dup2(console, 2)
        notes = os.open(paths.progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        subprocess.Popen = Process  # type: ignore[assignment, misc]
        seams = Seams(paths)
        for number in range(first, len(history.lives)):
            life = history.lives[number]
            begun = offsets(paths)

            def note(step: int, number: int = number) -> None:
                write(notes, b"%d %d %d\n" % (number, step, os.stat(paths.console).st_size))

            ended = "stopped"
            try:
                Stage(module, life, history.store, paths, seams, without).play(note)
            except Exception:
                ended = "failed: " + traceback.format_exc()
            if seams.commits:
                append(paths.root + "/commits", b"." * seams.commits)
            seams.commits = 0
            step = progress(paths)[number][-1][0]
            outcome = look(paths, ended, step, begun, day_of(life.steps[-1].wall))
            append(paths.outcomes, pickle.dumps(outcome))
            if ended != "stopped":
                break  # what it leaves open must not reach the next life
        code = 0
    except BaseException:
        append(paths.root + "/error", traceback.format_exc().encode())
    finally:
        os._exit(code)


# --- What differs -------------------------------------------------------------------------------------------------


LINK = re.compile(r"\[([a-zA-Z0-9_=+.-]{1,15})\]")
STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}|UTC[+-][0-9]{2}:[0-9]{2}")
LOUD = ("WARN", "ERROR")
LOUD_TEXT = re.compile(r" \[(?:%s)\] " % "|".join(LOUD))
LOUD_JSON = re.compile(r'"event": "(?:%s)"' % "|".join(LOUD))


class Difference(NamedTuple):
    life: int
    where: str
    old: str
    new: str


def essence(text: str) -> str:
    """What two versions of a warning share: times, the first interface, the first other number."""
    text = re.sub(r"/\S*compare-\S*", "", text)
    link = LINK.search(text)
    rest = STAMP.sub("", text)
    number = NUMBER.search(rest.replace(link.group(0), "", 1) if link else rest)
    return "%s %s %s" % (STAMP.findall(text), link and link.group(1), number and number.group(0))


def normal(line: bytes) -> str:
    """A line of the trail or the console, without the words of a warning. Behind a torn line stands another one."""
    text = line.decode("utf-8", "replace")
    if text.startswith("{"):
        try:
            fields = json.loads(text)
        except ValueError:
            return essence(text) if LOUD_JSON.search(text) else text
        if fields.get("event") in LOUD:
            fields["message"] = essence(fields["message"])
        return json.dumps(fields)
    match = LOUD_TEXT.search(text)
    return text[: match.end()] + essence(text[match.end() :]) if match else text


def same(old: Any, new: Any) -> bool:
    if old == new:
        return True
    return isinstance(old, float) and isinstance(new, float) and abs(old - new) <= 1e-6


class Judge:
    def __init__(self, history: History, texts: bool, unequal: Set[str]) -> None:
        """`unequal`: the features that only one version has."""
        self.history, self.texts, self.unequal = history, texts, unequal
        self.notes = Worker.notes
        self.found: List[Difference] = []
        self.elsewhere = 0  # crashes that the modules did not have in the same step
        self.apart = 0  # histories that part because something happened that only one version can do
        self.crashes: "Counter[str]" = Counter()

    def differ(self, life: int, where: str, old: Any, new: Any) -> None:
        self.found.append(Difference(life, where, str(old), str(new)))

    def lines(self, life: int, where: str, old: bytes, new: bytes, torn: bool = False) -> None:
        if old == new:
            return
        olds, news = old.split(b"\n"), new.split(b"\n")
        if torn and olds[-1] and news[-1]:  # warnings may end in other places
            olds[-1], news[-1] = olds[-1][:STAMP_LENGTH], news[-1][:STAMP_LENGTH]
        view: Callable[[bytes], str] = normal if not self.texts else lambda line: line.decode("utf-8", "replace")
        for number, (one, other) in enumerate(zip(olds, news), 1):
            if one != other and view(one) != view(other):
                self.differ(life, "%s, line %d" % (where, number), one.decode(), other.decode())
                return
        if len(olds) != len(news):
            number = min(len(olds), len(news))
            more = [lines[number - 1].decode() if number <= len(lines) else "(no more)" for lines in (olds, news)]
            self.differ(life, "%s, %d and %d lines" % (where, len(olds) - 1, len(news) - 1), *more)

    def judge(self, old: Played, new: Played) -> None:
        parted = False  # a crash came at different moments: from here on the histories are not the same
        for number, (one, other) in enumerate(zip(old.outcomes, new.outcomes)):
            life = self.history.lives[number]
            crashed = one.ended == "killed" and one.step < len(life.steps)
            if crashed and life.crash is not None:
                self.crashes[life.crash.seam] += 1
            for name, outcome in (("old", one), ("new", other)):
                if outcome.ended not in ("stopped", "killed"):
                    self.differ(number, "the %s module" % name, outcome.ended, "")
            if parted:
                continue
            if "adoption" in self.unequal and (one.apart or other.apart):
                self.apart, parted = 1, True
                continue
            if life.crash is not None and (life.crash.seam == ANYWHERE or (one.ended, one.step) != (other.ended, other.step)):
                self.elsewhere += life.crash.seam != ANYWHERE
                parted = True
                continue
            if (one.ended, one.step) != (other.ended, other.step):
                self.differ(number, "end", "%s in step %d" % one[:2], "%s in step %d" % other[:2])
            self.outcomes(number, one, other, crashed)
        if self.history.sound:
            for name, played in (("old", old), ("new", new)):
                self.once(name, played.outcomes[-1])

    def outcomes(self, life: int, old: Outcome, new: Outcome, crashed: bool) -> None:
        if list(old.trails) != list(new.trails):
            self.differ(life, "names of the trails", list(old.trails), list(new.trails))
        for name in old.trails.keys() & new.trails.keys():
            self.lines(life, name, old.trails[name], new.trails[name], crashed)
        self.lines(life, "deleted trails", old.lost, new.lost)
        self.lines(life, "console", old.console, new.console)
        self.lines(life, "hook runs", old.hooks, new.hooks)
        self.lines(life, "status", old.status, new.status)
        if crashed:
            return  # what stands in the tables at that moment is the module's own affair
        for name in sorted(old.tables.keys() | new.tables.keys()):
            if name in old.tables and name in new.tables:
                self.tables(life, name, old.tables[name], new.tables[name])
            elif name in old.tables or name == "damaged":
                self.differ(life, "table " + name, name in old.tables, name in new.tables)
        if old.ended == "stopped" and old.position != new.position:
            self.differ(life, "place of the next line", old.position, new.position)
        answers = [[self.known(answer, (1, 3, 4)) for answer in outcome.answers] for outcome in (old, new)]
        if answers[0] != answers[1]:
            self.differ(life, "answers to the documented query", *answers)

    def known(self, row: Tuple[Any, ...], figures: Sequence[int]) -> Tuple[Any, ...]:
        """Without the figures of a session that nobody saw end: versions without former ends compute them otherwise."""
        if "ended" not in self.unequal or "unknown" not in row:
            return row
        return tuple(None if number in figures else value for number, value in enumerate(row))

    def tables(self, life: int, name: str, old: Table, new: Table) -> None:
        """Columns and tables that only the new version has are its own affair."""
        lacking = [column for column in old.columns if column not in new.columns]
        if lacking:
            self.differ(life, "columns of %s" % name, lacking, "lacking")
        columns = [column for column in old.columns if column in new.columns]
        if old.columns != new.columns or not old.rows == new.rows:
            olds, news = ([rows_by_key(table, columns, name)] for table in (old, new))
            self.rows(life, name, columns, olds[0], news[0])

    def rows(self, life: int, name: str, columns: List[str], old: Dict[Any, Any], new: Dict[Any, Any]) -> None:
        figures = [columns.index(column) for column in FIGURES if column in columns] if name == "sessions" else []
        old, new = ({key: self.known(row, figures) for key, row in rows.items()} for rows in (old, new))
        watched = self.history.lives[life].environment["INTERFACE"].split(",")
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in old or key not in new:
                self.differ(life, "row %s of %s" % (key, name), old.get(key, "(none)"), new.get(key, "(none)"))
                return
            for column, one, other in zip(columns, old[key], new[key]):
                if same(one, other):
                    continue
                if column in CLOCKS and "ended" in self.unequal and key[0] not in watched and watched != [""]:
                    continue  # the present clocks date a session that nobody saw end
                if column == "line" and not self.texts and normal(one[:-1]) == normal(other[:-1]):
                    continue
                self.differ(life, "%s of row %s of %s" % (column, key, name), repr(one), repr(other))
                return

    def once(self, name: str, last: Outcome) -> None:
        """Every line stands in the trail exactly once, in the order of the numbers."""
        if "events" not in last.tables:
            return
        events = last.tables["events"]
        line, seq = events.columns.index("line"), events.columns.index("seq")
        stored = [row[line] for row in events.rows]
        written = [text + b"\n" for text in b"".join(last.trails.values()).split(b"\n")[:-1]]
        life = len(self.history.lives) - 1
        for number, (one, other) in enumerate(zip(stored, written), 1):
            if one != other:
                self.differ(life, "exactly once, %s module, line %d: store, trail" % (name, number), one, other)
                return
        if len(stored) != len(written):
            self.differ(life, "exactly once, %s module: lines in store, trail" % name, len(stored), len(written))
        numbers = [row[seq] for row in events.rows]
        if self.notes and numbers == sorted(set(numbers)):
            return  # a number that was noted and not used has no line
        if numbers != list(range(1, len(numbers) + 1)):
            self.differ(life, "numbers of events, %s module" % name, numbers, "1 to %d" % len(numbers))


def rows_by_key(table: Table, columns: List[str], name: str) -> Dict[Any, Tuple[Any, ...]]:
    places = [table.columns.index(column) for column in columns]
    keys = [columns.index(column) for column in TABLES.get(name, "").split(", ") if column in columns]
    rows = [tuple(row[place] for place in places) for row in table.rows]
    return {tuple(row[place] for place in keys): row for row in rows}


# --- Reports ------------------------------------------------------------------------------------------------------


class Report(NamedTuple):
    """Of one history."""

    seed: int
    lives: int
    readings: int
    differs: bool
    text: str
    crashes: "Counter[str]"
    elsewhere: int
    apart: int
    commits: Tuple[int, int]


def named(life: Life) -> str:
    if life.crash is None:
        return life.end
    return "crash %s, armed at step %d" % (life.crash.seam, life.crash.step)


def tell(history: History, found: Sequence[Difference], most: int) -> str:
    lines = []
    for difference in found[:most]:
        life = history.lives[difference.life]
        lines.append("seed %d, life %d (%s), %s:" % (history.seed, difference.life, named(life), difference.where))
        lines += ["    old: " + difference.old, "    new: " + difference.new]
    if len(found) > most:
        lines.append("    and %d more" % (len(found) - most))
    return "\n".join(lines)


def replay(history: History, old: Played, new: Played) -> str:
    """Every step, with what both consoles said."""
    lines = []
    for number, life in enumerate(history.lives):
        settings = " ".join("%s=%s" % item for item in sorted(life.environment.items()))
        lines.append("=== life %d: %s; %s; %s" % (number, life.boot_id, settings, named(life)))
        for step in life.before:
            lines.append("--- before: %s %s" % (step.what, step.arguments))
        for index in range(-1, len(life.steps) + 1):
            if 0 <= index < len(life.steps):
                step = life.steps[index]
                lines.append("--- %d.%d at wall %s, boot %s: %s" % (number, index, step.wall, step.boot, step.what))
                if step.what == "read":
                    lines += ["    " + text for text in b"".join(step.arguments[0]).decode().splitlines()]
                    lines += ["    stderr: " + text for text in step.arguments[1].splitlines()]
                else:
                    lines[-1] += " %s" % (step.arguments,)
            else:
                lines.append("--- %d: %s" % (number, "start" if index < 0 else "end"))
            said = [said_in(played, number, index) for played in (old, new)]
            for name, text in zip(("both",) if said[0] == said[1] else ("old", "new"), said):
                lines += ["  %s: %s" % (name, part) for part in text.splitlines() or ([] if name == "both" else [""])]
    return "\n".join(lines)


def said_in(played: Played, life: int, step: int) -> str:
    begin = played.marks.get((life, step))
    if begin is None:
        return "(not reached)"
    end = min((mark for place, mark in played.marks.items() if place > (life, step)), default=len(played.console))
    return played.console[begin:end].decode("utf-8", "replace")


class Worker:
    """Plays histories; each process has its own."""

    modules: Tuple[Any, Any]
    unequal: Set[str]  # features that only one version has
    notes = False  # both versions have a small file with the last numbers
    root = ""
    options: argparse.Namespace

    @classmethod
    def prepare(cls, options: argparse.Namespace) -> None:
        """Before the processes are made, which share this."""
        cls.options = options
        os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
        time.tzset()
        cls.modules = (load(options.old, "compared_old"), load(options.new, "compared_new"))
        cls.unequal = switch_off(*cls.modules)
        cls.notes = "note" not in cls.unequal and FEATURES["note"].has(cls.modules[0])
        if cls.unequal:
            print("Switched off, since only one version has it: " + ", ".join(sorted(cls.unequal)))
        for step, methods in OPTIONAL.items():
            if not all(hasattr(module.Monitor, name) for module in cls.modules for name in methods):
                print("The steps `%s` are left out: a Monitor lacks one of %s" % (step, ", ".join(methods)))
                options.without += "," + step

    @classmethod
    def begin(cls, root: str) -> None:
        cls.root = "%s/%d" % (root, os.getpid())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        gc.disable()  # as the daemon does; a child that collects copies all its memory
        gc.freeze()

    @classmethod
    def work(cls, seed: int) -> Report:
        history = Author(seed).write()
        without = cls.options.without.split(",")
        old, new = (play(module, history, Paths(cls.root), without) for module in cls.modules)
        judge = Judge(history, cls.options.texts, cls.unequal)
        judge.judge(old, new)
        text = tell(history, judge.found, 100 if cls.options.verbose else 3)
        if cls.options.verbose:
            text = replay(history, old, new) + "\n" + text
        readings = sum(step.what in ("read", "no_reading") for life in history.lives for step in life.steps)
        crashes, commits = judge.crashes, (old.commits, new.commits)
        differs, parted = judge.found != [], (judge.elsewhere, judge.apart)
        return Report(seed, len(history.lives), readings, differs, text, crashes, *parted, commits)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare two versions of the module in random histories.")
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--histories", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first history; the next ones follow")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--most", type=int, default=10, help="stop after so many histories that differ")
    parser.add_argument("--without", default="", metavar="STEPS", help="kinds of steps to leave out, with commas")
    parser.add_argument("--texts", action="store_true", help="warnings must have the same words, too")
    parser.add_argument("--verbose", action="store_true", help="show every step")
    return parser.parse_args()


def main() -> int:
    options = parse_arguments()
    Worker.prepare(options)
    seeds = range(options.seed, options.seed + options.histories)
    began = time.monotonic()
    total: "Counter[str]" = Counter()
    crashes: "Counter[str]" = Counter()
    shared_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="compare-", dir=shared_memory) as root:
        with multiprocessing.get_context("fork").Pool(options.jobs, Worker.begin, (os.path.realpath(root),)) as pool:
            for report in pool.imap(Worker.work, seeds, chunksize=4):
                total.update(histories=1, lives=report.lives, readings=report.readings, elsewhere=report.elsewhere)
                total.update(old=report.commits[0], new=report.commits[1], apart=report.apart)
                crashes.update(report.crashes)
                total["differ"] += report.differs
                if report.text:
                    print(report.text, flush=True)
                if total["differ"] >= options.most:
                    break
    seconds = time.monotonic() - began
    print("Crashes: " + ", ".join("%d %s" % (count, seam) for seam, count in sorted(crashes.items())))
    print("Crashes that the modules had in different steps: %d" % total["elsewhere"])
    if Worker.unequal:
        print("Histories that were followed only up to what one version alone can do: %d" % total["apart"])
    print("COMMITs in lives without a crash: %d old, %d new" % (total["old"], total["new"]))
    played = (total["histories"], total["lives"], total["readings"], seconds)
    print("%d histories, %d lives, %d readings in %.1f s: " % played, end="")
    print("%d histories differ" % total["differ"] if total["differ"] else "no difference")
    return int(total["differ"] > 0)


if __name__ == "__main__":
    sys.exit(main())
