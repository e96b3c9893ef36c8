"""Clocks that step, stand still, sleep and move to another time zone: the whole monitor, with a trail and a store,
whose moments come from here. The peer is a real one's model: it shakes hands every 120 s, and the handshake that `wg`
prints is what the wall clock said then."""

import os
import re
import signal
import sqlite3
import struct
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional

import pytest

import device
import wg_monitor
from harness import Place, lines_of, need, texts
from values import START, P, chosen, dump, give, give_at, ids, key
from wg_monitor import DAY_S, Console, Moment, Monitor, Notifier, Store, Trail, short_key

HOUR_S, YEAR_S = 3600, 365 * DAY_S
TO_1970 = -int(START.wall) + 60


class Machine:
    """Two clocks, one peer, and a monitor that can be started again."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trail, self.store = directory / "trail.log", directory / "state.db"
        self.monkeypatch = monkeypatch
        self.wall, self.boot = START
        self.shakes = True
        self.handshake, self.shaken = 0.0, float("-inf")  # what the wall clock said then, and the boot clock
        self.received = 0
        self.monitor: Optional[Monitor] = None
        self.boots = 0
        monkeypatch.setattr(wg_monitor, "moment", lambda: Moment(self.wall, self.boot))
        monkeypatch.setattr(wg_monitor, "boot_id", lambda: "boot %d" % self.boots)

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds

    def live(self) -> None:
        """The peer, at this moment."""
        if self.shakes and self.boot - self.shaken >= 120:
            self.handshake, self.shaken = self.wall, self.boot
            self.received += 1000

    def watch(self, seconds: int) -> None:
        """Readings every 30 s for so long."""
        for _ in range(seconds // 30):
            self.pass_time(30)
            self.live()
            assert self.monitor is not None
            shown = int(self.handshake) - START.wall
            give(self.monitor, dump("wg0", P("ann", shook=shown, rx=self.received)))

    def sleep(self, seconds: int) -> None:
        """Suspended: both clocks go on, nothing runs."""
        self.pass_time(seconds)

    def start(self, **changes: Any) -> None:
        trail = Trail(str(self.trail))
        settings = chosen(state_path=str(self.store), **changes)
        notifier = Notifier(os.environ)
        self.monitor = Monitor(settings, "/usr/bin/wg", Console(""), trail, Store(str(self.store)), notifier)
        self.monitor.open()
        self.monitor.flush()

    def stop(self) -> None:
        if self.monitor is not None:
            self.monitor.finish()
            os.close(self.monitor.wakeup.reader)
            os.close(signal.set_wakeup_fd(-1))
            self.monitor = None

    def reboot(self, wall: float) -> None:
        """The interface is made anew: nobody has shaken hands yet."""
        self.stop()
        self.boots += 1
        self.wall, self.boot = wall, 20.0
        self.handshake, self.shaken = 0.0, self.boot - 60

    def leave(self) -> None:
        self.shakes = False

    def lines(self) -> List[str]:
        """The trail's, without when the monitor was stopped."""
        return [line for line in texts(lines_of(self.trail)) if not line.startswith("Monitor")]

    def kinds(self) -> List[str]:
        return [line.split()[0] for line in self.lines() if not line.startswith("[WARN]")]

    def warnings(self, words: str) -> List[str]:
        return [line for line in self.lines() if words in line]

    def sessions(self) -> List[Any]:
        """Their lengths and reasons."""
        with closing(sqlite3.connect(str(self.store))) as database:
            return database.execute("SELECT length, reason FROM sessions ORDER BY number").fetchall()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: None) -> Iterator[Machine]:
    made = Machine(tmp_path, monkeypatch)
    yield made
    made.stop()


class Step(NamedTuple):
    name: str
    seconds: int
    words: str


STEPS = [
    Step("a minute forward", 60, "forward by 1m 0s"),
    Step("a minute back", -60, "back by 1m 0s"),
    Step("an hour forward", HOUR_S, "forward by 1h 0m"),
    Step("an hour back", -HOUR_S, "back by 1h 0m"),
    Step("a year forward", YEAR_S, "forward by 365d 0h"),
    Step("a year back", -YEAR_S, "back by 365d 0h"),
    Step("to 1970", TO_1970, "back by"),
    Step("to 2200", 7_000_000_000 - int(START.wall), "forward by"),
]
# The peer shakes hands at the first reading, then every 120 s: for the last time at 1200 s of 1290 s.
WATCHED_S, LAST_SHAKE_S = 1290, 1200


@pytest.mark.parametrize("liveness", ["handshake", "traffic"])
@pytest.mark.parametrize("case", STEPS, ids=ids(STEPS))
def test_a_step_while_it_runs_is_one_line_and_no_event(machine: Machine, case: Step, liveness: str) -> None:
    machine.start()
    assert machine.monitor is not None
    machine.monitor.settings = machine.monitor.settings._replace(liveness=liveness)
    machine.watch(WATCHED_S)
    machine.wall += case.seconds
    machine.watch(WATCHED_S)
    assert machine.kinds() == ["ONLINE"]
    assert len(machine.warnings("The wall clock was set")) == len(machine.warnings(case.words)) == 1
    machine.leave()
    machine.watch(600)
    assert machine.kinds() == ["ONLINE", "OFFLINE"]
    ((length, reason),) = machine.sessions()
    assert length == 2 * WATCHED_S - 30 - (2 * WATCHED_S - 30) % 120
    assert reason == "idle"


@pytest.mark.parametrize("case", STEPS, ids=ids(STEPS))
def test_a_step_and_its_end_are_two_lines_and_no_event(machine: Machine, case: Step) -> None:
    machine.start()
    machine.watch(WATCHED_S)
    machine.wall += case.seconds
    machine.watch(45 * 60)
    machine.wall -= case.seconds
    machine.watch(WATCHED_S)
    assert machine.kinds() == ["ONLINE"]
    assert len(machine.warnings("The wall clock was set")) == 2


@pytest.mark.parametrize("case", STEPS, ids=ids(STEPS))
def test_a_step_at_the_very_moment_of_a_handshake(machine: Machine, case: Step) -> None:
    machine.start()
    machine.watch(WATCHED_S)
    machine.wall += case.seconds
    machine.shaken = float("-inf")
    machine.watch(600)
    assert machine.kinds() == ["ONLINE"]


@pytest.mark.parametrize("case", STEPS, ids=ids(STEPS))
def test_a_peer_that_left_before_a_step_is_offline_when_it_should(machine: Machine, case: Step) -> None:
    """A step neither wakes it nor ends it: 180 s after its last handshake it is offline."""
    machine.start()
    machine.watch(WATCHED_S)
    machine.leave()
    machine.wall += case.seconds
    machine.watch(60)
    assert machine.kinds() == ["ONLINE"]
    machine.watch(120)
    assert machine.kinds() == ["ONLINE", "OFFLINE"]
    machine.watch(HOUR_S)
    assert machine.kinds() == ["ONLINE", "OFFLINE"]
    assert machine.sessions() == [(LAST_SHAKE_S, "idle")]


@pytest.mark.parametrize("case", STEPS, ids=ids(STEPS))
def test_a_step_while_it_is_down_is_no_event(machine: Machine, case: Step) -> None:
    machine.start()
    machine.watch(WATCHED_S)
    machine.stop()
    machine.wall += case.seconds
    machine.pass_time(45)
    machine.start()
    machine.watch(WATCHED_S)
    assert machine.kinds() == ["ONLINE"]
    assert len(machine.warnings("Not watching from")) == 1
    machine.leave()
    machine.watch(600)
    # From the first handshake at 30 s to the last, at a reading after the restart.
    assert machine.sessions() == [(machine.shaken - START.boot - 30, "idle")]


@pytest.mark.parametrize("case", STEPS, ids=ids(STEPS))
def test_a_reboot_with_another_clock_knows_everybody(machine: Machine, case: Step) -> None:
    machine.start()
    machine.watch(WATCHED_S)
    machine.reboot(machine.wall + 90 + case.seconds)
    machine.start()
    machine.watch(300)
    assert machine.kinds() == ["ONLINE", "OFFLINE", "ONLINE"]
    assert not [line for line in machine.lines()[1:] if " new " in line]
    machine.leave()
    machine.watch(600)
    (first, second) = machine.sessions()
    assert first == (LAST_SHAKE_S, "reset")
    assert second == (240, "idle")


def test_no_clock_chip_the_time_comes_from_the_network_a_little_later(machine: Machine) -> None:
    machine.start()
    machine.watch(WATCHED_S)
    right = machine.wall + 90
    machine.reboot(20.0)
    machine.start()
    machine.watch(300)
    machine.wall += right
    machine.watch(300)
    assert machine.kinds() == ["ONLINE", "OFFLINE", "ONLINE"]
    machine.leave()
    machine.watch(600)
    first, second = machine.sessions()
    assert first == (LAST_SHAKE_S, "reset") and second[1] == "idle"
    assert 480 <= second[0] <= 570


def test_a_long_sleep_ends_a_session_at_its_last_sign_of_life(machine: Machine) -> None:
    """Both clocks count it: that is no step."""
    machine.start()
    machine.watch(WATCHED_S)
    machine.leave()
    machine.sleep(8 * HOUR_S)
    machine.watch(60)
    assert machine.kinds() == ["ONLINE", "OFFLINE"]
    assert not machine.warnings("wall clock")
    assert machine.sessions() == [(LAST_SHAKE_S, "idle")]


def test_a_peer_that_shakes_hands_right_after_a_sleep_was_never_offline(machine: Machine) -> None:
    """What begins and ends between two readings is not seen."""
    machine.start()
    machine.watch(WATCHED_S)
    machine.sleep(8 * HOUR_S)
    machine.watch(600)
    assert machine.kinds() == ["ONLINE"]
    assert not machine.warnings("wall clock")


def test_a_sleep_with_a_clock_that_stood_still_is_a_step_and_no_false_event(machine: Machine) -> None:
    machine.start()
    machine.watch(WATCHED_S)
    machine.boot += HOUR_S
    machine.watch(600)
    assert machine.kinds() == ["ONLINE"]
    assert len(machine.warnings("The wall clock was set back by 1h 0m")) == 1


def test_a_clock_that_is_disciplined_is_no_step(machine: Machine) -> None:
    machine.start()
    for number in range(200):
        machine.wall += 0.9 if number % 2 else -0.9
        machine.watch(30)
    assert machine.kinds() == ["ONLINE"]
    assert not machine.warnings("wall clock")


# --- Local time ---------------------------------------------------------------------------------------------------


def zone_file(path: Path, hours: int) -> None:
    """tzfile(5), version 1, with one offset."""
    header = struct.pack(">4s16x6l", b"TZif", 0, 0, 0, 0, 1, 4)
    path.write_bytes(header + struct.pack(">lBB", hours * 3600, 0, 0) + b"XXX\0")


def test_another_time_zone_is_one_line_and_no_event(place: Place) -> None:
    """/etc/localtime is read again while the daemon runs, as when a machine is moved."""
    need("nsenter", "mount")
    here, there = place.path / "here", place.path / "there"
    zone_file(here, 9)
    zone_file(there, -3)
    wg0 = place.device(peers=[device.peer(1, int(time.time()))])
    monitor = place.start(wrapper="env -u TZ")
    monitor.match("ONLINE .*")
    for zone, line in ((here, "UTC+09:00, it was UTC"), (there, "UTC-03:00, it was UTC+09:00")):
        mount = ["mount", "--bind", str(zone), "/etc/localtime"]
        subprocess.run(["nsenter", "--mount=/proc/%d/ns/mnt" % monitor.pid, *mount], check=True)
        monitor.match(r"\[WARN\] Local time is now %s.*" % re.escape(line))
    wg0.settle()
    assert monitor.stop() == 0
    assert sum("Local time" in text for text in monitor.trail()) == 2
    assert sum("WARN" not in text and "Monitor" not in text for text in monitor.trail()) == 1


SEASONS = [
    ("winter begins, and an hour comes twice", 1_698_541_200, ["[WARN] Local time is now UTC+01:00, it was UTC+02:00"]),
    ("summer begins, and an hour is left out", 1_679_792_400, ["[WARN] Local time is now UTC+02:00, it was UTC+01:00"]),
    ("nothing begins", 1_685_000_000, []),
]


@pytest.mark.parametrize("name, wall, lines", SEASONS, ids=[case[0] for case in SEASONS])
def test_a_change_of_season_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, wall: int, lines: List[str]
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        machine.wall = wall - 600.0
        machine.start()
        assert machine.monitor is not None
        machine.monitor.clocks.offset = wg_monitor.utc_offset(machine.wall)  # of when it was started
        machine.watch(1200)
        assert machine.kinds() == ["ONLINE"]
        assert machine.warnings("Local time") == lines
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_a_peer_that_is_removed_from_its_file_as_well_has_its_last_line_with_its_name(
    machine: Machine, tmp_path: Path
) -> None:
    names = tmp_path / "names"
    names.write_text("%s Ann\n%s Bob\n" % (key("ann"), key("bob")))
    machine.start(peer_names=(str(names),))
    assert machine.monitor is not None
    give(machine.monitor, dump("wg0", P("ann"), P("bob")))
    names.write_text("")
    machine.pass_time(30)
    give(machine.monitor, dump("wg0", P("bob")))
    machine.pass_time(30)
    give(machine.monitor, dump("wg0"))
    removed = [line.split(" (")[0] for line in machine.lines() if line.startswith("REMOVED")]
    assert removed == ["REMOVED [wg0] Ann " + short_key(key("ann")), "REMOVED [wg0] " + short_key(key("bob"))]


def test_a_slow_run_of_wg_that_began_before_a_step_tells_no_second_one(machine: Machine) -> None:
    """Several run at once while one interface hangs."""
    machine.start()
    machine.watch(60)
    monitor = machine.monitor
    assert monitor is not None
    monitor.round.names = frozenset(("wg0", "wg1", ""))
    slow = Moment(machine.wall, machine.boot)
    machine.wall += HOUR_S
    for began, name in ((None, "wg0"), (slow, "wg1"), (None, "wg0")):
        machine.pass_time(3)
        text = dump(name, P("ann" if name == "wg0" else "bob"))
        at = began or Moment(machine.wall, machine.boot)
        give_at(at, monitor, text, interface=name)
    told = [line.partition("[WARN] ")[2] for line in lines_of(machine.trail) if "wall clock" in line]
    assert told == ["The wall clock was set forward by 1h 0m"]


def test_a_step_while_wg_runs_shortens_no_delay_of_a_hook(machine: Machine) -> None:
    machine.start(on_change_script="/bin/true", script_delay=300)
    machine.watch(60)
    monitor = machine.monitor
    assert monitor is not None
    machine.pass_time(200)
    began = Moment(machine.wall, machine.boot)
    machine.wall += HOUR_S
    machine.pass_time(2)
    text = dump("wg0", P("ann", shook=int(machine.handshake - START.wall), rx=machine.received))
    give_at(began, monitor, text)
    (until,) = [until for _, until in monitor.hooks.queue.held.values()]
    assert machine.boot + 290 <= until <= machine.boot + 300
    monitor.hooks.queue.waiting.clear()


def test_the_fault_of_a_full_queue_ends_although_no_hook_is_left_to_run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All peers returned in time."""
    monkeypatch.setattr(wg_monitor, "HOOKS_WAITING_MAX", 2)
    machine.start(on_change_script="/bin/true", script_delay=300, script_events=frozenset({"OFFLINE"}))
    monitor = machine.monitor
    assert monitor is not None
    for _, age in enumerate((10, 1000, 5, 4, 3)):
        machine.pass_time(30)
        shook = machine.wall - START.wall - age
        give(monitor, dump("wg0", *[P(name, shook=int(shook)) for name in ("ann", "bob", "cy")]))
        monitor.start_hooks()
    assert not monitor.hooks.queue.waiting and "queue" not in monitor.faults
    assert any("1 hook run was dropped; none is waiting now" in line for line in lines_of(machine.trail))
