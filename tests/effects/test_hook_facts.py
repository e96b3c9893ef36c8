"""What a hook is told, and when: the whole monitor with a store, whose moments come from here. No hook is started; the
tests look at the runs that wait, and at what is left of them after a crash."""

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

import wg_monitor
from harness import lines_of
from values import P, at, chosen, dump, give, name_of
from wg_monitor import DAY_S, HOOK_DROPPED, HOOK_DUE, HOOK_NONE, Console, Monitor, Notifier, Store, Trail

EVERY = frozenset(wg_monitor.EVENT_KINDS)
ANN = P("ann", shook=-5)


class Home:
    """A monitor that can be killed and started again."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trail, self.path = directory / "trail.log", directory / "state.db"
        self.now = at(0)
        self.settings: Dict[str, Any] = {"on_change_script": "/hook", "script_events": EVERY}
        self.monitor: Optional[Monitor] = None
        self.stored = True
        monkeypatch.setattr(wg_monitor, "moment", lambda: self.now)

    def start(self, **settings: Any) -> "Home":
        self.settings.update(settings)
        state_path = str(self.path) if self.stored else ""
        store = Store(state_path) if state_path else None
        made = chosen(state_path=state_path, **self.settings)
        self.monitor = Monitor(made, "/usr/bin/wg", Console(""), Trail(str(self.trail)), store, Notifier(os.environ))
        self.monitor.open()
        self.monitor.flush()
        return self

    def see(self, second: float, *peers: P, step: float = 0.0) -> "Home":
        """A reading. `step`: how far the wall clock was set."""
        assert self.monitor is not None
        self.now = at(second, step)
        give(self.monitor, dump("wg0", *peers))
        self.monitor.mark_hooks()
        return self

    def kill(self, stopped: bool = False) -> "Home":
        """Nothing is finished. What the kernel does for a process that was killed happens here."""
        if self.monitor is not None:
            for sink in (self.monitor.store, self.monitor.trail):
                if sink is not None and not stopped:
                    sink.close()
            os.close(self.monitor.wakeup.reader)
            os.close(signal.set_wakeup_fd(-1))
            self.monitor = None
        return self

    def query(self, statement: str) -> List[Any]:
        with closing(sqlite3.connect(str(self.path))) as database:
            found = database.execute(statement).fetchall()
            database.commit()
            return found

    def environments(self) -> List[Dict[str, str]]:
        """Those of the runs that wait, in order."""
        assert self.monitor is not None
        return [wg_monitor.hook_environment(record) for record in self.monitor.hooks.queue.waiting.values()]

    def sightings(self) -> List[Tuple[str, str]]:
        """PEER_FIRST_SEEN of each run that waits."""
        return [(found["PEER_EVENT"], found["PEER_FIRST_SEEN"]) for found in self.environments()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: None) -> Iterator[Home]:
    made = Home(tmp_path, monkeypatch)
    yield made
    made.kill()


# --- The first time at an address ---------------------------------------------------------------------------------


def elsewhere(endpoint: str, shook: float) -> P:
    return ANN._replace(endpoint=endpoint, shook=shook)


def test_the_first_time_at_an_address_is_told_once(home: Home) -> None:
    home.start().see(0, ANN)
    home.see(10, elsewhere("192.0.2.1:9", 5)).see(20, elsewhere("[2001:db8::1]:51820", 15))  # a port; an address
    home.see(30, elsewhere("192.0.2.1:9", 25)).see(40, elsewhere("[2001:db8::1]:7", 35)).see(300, ANN)
    home.see(310, elsewhere("[2001:db8::1]:7", 305)).see(600).see(610, elsewhere("192.0.2.1:9", 605))
    assert home.sightings() == [
        ("ONLINE", "1"), ("ROAMING", "1"), ("ROAMING", ""), ("ROAMING", ""), ("OFFLINE", ""), ("ONLINE", ""),
        ("REMOVED", ""), ("ONLINE", ""),
    ]  # fmt: skip
    assert home.query("SELECT kind, first_seen FROM events WHERE public_key IS NOT NULL") == [
        ("ONLINE", 1), ("ROAMING", 1), ("ROAMING", 0), ("ROAMING", 0), ("OFFLINE", None), ("ONLINE", 0),
        ("REMOVED", None), ("ONLINE", 0),
    ]  # fmt: skip


def test_each_peer_and_each_interface_has_addresses_of_its_own(home: Home) -> None:
    home.start().see(0, ANN).see(10, ANN, P("bob", shook=5))
    assert home.monitor is not None
    give(home.monitor, dump("wg0", ANN) + dump("wg1", ANN))
    assert home.sightings() == [("ONLINE", "1"), ("ONLINE", "1"), ("IFUP", ""), ("REMOVED", ""), ("ONLINE", "1")]


def test_the_first_time_at_an_address_is_told_once_over_a_crash_and_the_same_after_it(home: Home) -> None:
    home.start().see(0, ANN).see(10, elsewhere("198.51.100.1:1", 5))
    before = home.environments()
    home.kill().start()
    assert home.environments() == before and home.sightings() == [("ONLINE", "1"), ("ROAMING", "1")]
    home.see(20, elsewhere("192.0.2.1:1", 15)).see(30, elsewhere("198.51.100.2:1", 25))
    assert home.sightings()[2:] == [("ROAMING", ""), ("ROAMING", "1")]


def test_without_a_store_nothing_is_known_about_addresses(home: Home) -> None:
    home.stored = False
    home.start(log_format="json").see(0, ANN).see(10, elsewhere("198.51.100.1:1", 5))
    assert home.sightings() == [("ONLINE", ""), ("ROAMING", "")]
    assert not any("first_seen" in line for line in lines_of(home.trail))


def test_nothing_is_invented_while_the_store_is_locked_and_what_was_seen_then_is_known_afterwards(home: Home) -> None:
    home.start(log_format="json").see(0, ANN)
    with closing(sqlite3.connect(str(home.path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        home.see(10, elsewhere("198.51.100.1:1", 5))  # the store can still be asked, but not written
        home.see(20, elsewhere("198.51.100.2:1", 15))
        other.execute("ROLLBACK")
    home.see(30, elsewhere("198.51.100.2:2", 25)).see(40, elsewhere("198.51.100.1:1", 35))
    home.see(50, elsewhere("198.51.100.3:1", 45))
    expected = ["1", "1", "", "", "1"]
    assert [seen for _, seen in home.sightings()] == expected
    rows = home.query("SELECT first_seen FROM events WHERE kind IN ('ONLINE', 'ROAMING') ORDER BY seq")
    assert rows == [(1,), (1,), (None,), (0,), (1,)]
    told = ['"first_seen": true' in line for line in lines_of(home.trail) if '"peer"' in line]
    assert told == [seen == "1" for seen in expected]


def test_a_store_that_cannot_even_be_read_is_a_fault_and_delays_no_event(home: Home) -> None:
    home.start().see(0, ANN)
    with closing(sqlite3.connect(str(home.path), isolation_level=None)) as other:
        other.execute("ALTER TABLE addresses RENAME TO elsewhere")
        home.see(10, elsewhere("198.51.100.1:1", 5))
        other.execute("ALTER TABLE elsewhere RENAME TO addresses")
    assert home.sightings() == [("ONLINE", "1"), ("ROAMING", "")]
    assert any("ROAMING" in line for line in lines_of(home.trail))


def test_events_of_a_run_that_adopts_its_store_late_have_no_first_time(home: Home) -> None:
    home.start().see(0, ANN).kill()
    home.path.rename(home.path.with_name("away"))
    home.path.mkdir()
    home.start().see(60, elsewhere("198.51.100.1:1", 55))
    home.path.rmdir()
    home.path.with_name("away").rename(home.path)
    home.see(90, elsewhere("198.51.100.1:1", 55)).see(120, elsewhere("198.51.100.1:2", 115)._replace(ips=""))
    found = [(each["PEER_EVENT"], each["PEER_FIRST_SEEN"]) for each in home.environments()]
    assert found == [("ONLINE", "1"), ("ONLINE", ""), ("CHANGED", "")]
    home.see(150, elsewhere("192.0.2.1:2", 145)._replace(ips=""))
    home.see(180, elsewhere("198.51.100.1:2", 175)._replace(ips=""))
    assert home.sightings()[3:] == [("ROAMING", ""), ("ROAMING", "")]


@pytest.mark.parametrize("endpoint", ["192.0.2.1:1", "[2001:db8::]:65535", "[fe80::1%wg-0]:9", "[::ffff:192.0.2.1]:10"])
def test_an_address_is_found_as_it_was_saved(home: Home, endpoint: str) -> None:
    home.start().see(0, ANN._replace(endpoint=endpoint)).see(300, ANN._replace(endpoint=endpoint))
    home.see(310, ANN._replace(endpoint=endpoint[:-1] + "8", shook=305))
    assert home.sightings() == [("ONLINE", "1"), ("OFFLINE", ""), ("ONLINE", "")]


def test_the_address_of_a_session_that_is_longer_than_the_history_is_not_forgotten(home: Home) -> None:
    home.start(history_days=1).see(0, ANN, P("bob", shook=-5, endpoint="198.51.100.7:1")).see(5, ANN)
    late = 3 * DAY_S
    home.see(late, ANN._replace(shook=late - 5))
    assert home.monitor is not None and home.monitor.store is not None
    home.monitor.store.prune(at(late).wall - DAY_S, 99)
    assert [name_of(key) for (key,) in home.query("SELECT public_key FROM addresses")] == ["ann"]
    home.see(late + 300, ANN._replace(shook=late - 5)).see(late + 310, ANN._replace(shook=late + 305))
    assert home.sightings()[-1] == ("ONLINE", "")


def test_a_run_that_waits_has_the_session_that_goes_on_when_its_store_is_adopted(home: Home) -> None:
    home.start().see(0, ANN).kill()
    home.path.rename(home.path.with_name("away"))
    home.path.mkdir()
    home.start().see(60, ANN)
    (own,) = home.environments()
    home.path.rmdir()
    home.path.with_name("away").rename(home.path)
    home.see(90, ANN).see(120, ANN)
    before = home.environments()
    assert own["PEER_SESSION"] != "1" and [found["PEER_SESSION"] for found in before] == ["1", "1"]
    home.kill().start()
    assert home.environments() == before


# --- The delay ----------------------------------------------------------------------------------------------------

HOLD = {"script_delay": 60, "script_events": frozenset(["ONLINE", "OFFLINE", "REMOVED", "CHANGED"])}


def ready(home: Home) -> List[str]:
    """The events of the runs that may start now."""
    assert home.monitor is not None
    return [record.event.kind for record in home.monitor.hooks.queue.ready(frozenset(), home.now.boot)]


def marks(home: Home) -> List[Tuple[str, int]]:
    rows = home.query("SELECT kind, hook FROM events WHERE public_key IS NOT NULL ORDER BY seq")
    return [(kind, hook) for kind, hook in rows]


def begin(home: Home, **settings: Any) -> Home:
    """ann was online, her run is over, and she has just gone."""
    home.start(**{**HOLD, **settings}).see(0, ANN)
    assert home.monitor is not None
    home.monitor.hooks.queue.close(*home.monitor.hooks.queue.waiting)
    return home.see(300, ANN)


def test_the_trail_and_the_store_do_not_wait_for_the_delay(home: Home) -> None:
    begin(home)
    assert sum("OFFLINE" in line for line in lines_of(home.trail)) == 1
    assert marks(home) == [("ONLINE", HOOK_DROPPED), ("OFFLINE", HOOK_DUE)]
    assert ready(home) == []
    assert home.see(355, ANN) and ready(home) == []
    assert home.see(361, ANN) and ready(home) == ["OFFLINE"]


def test_a_peer_that_returns_in_time_has_no_runs_and_one_debug_line(home: Home) -> None:
    begin(home, debug=True).see(355, ANN._replace(shook=350))
    assert home.monitor is not None
    home.monitor.flush()
    assert ready(home) == [] and home.environments() == []
    assert marks(home)[1:] == [("OFFLINE", HOOK_DROPPED), ("ONLINE", HOOK_DROPPED)]
    told = [line for line in lines_of(home.trail) if "returned" in line]
    assert [line.partition("[DEBUG] ")[2] for line in told] == [
        "No hook runs, since the peer returned in time: ONLINE  [wg0] ann/////...///////= (192.0.2.1:51820) [IP: 10.0.0.1]"
        " (handshake: %s)" % wg_monitor.stamp(int(at(350).wall))[11:]
    ]


@pytest.mark.parametrize("second, left", [(355, []), (361, ["OFFLINE"])])
def test_an_offline_that_waits_survives_a_crash_and_its_time_counts_from_the_event(
    home: Home, second: float, left: List[str]
) -> None:
    begin(home).kill()
    home.now = at(second)
    home.start()
    assert ready(home) == left
    home.see(second + 2, ANN._replace(shook=second + 1))
    assert ready(home) == [*left, *(["ONLINE"] if left else [])]
    assert [mark for _, mark in marks(home)[1:]] == [HOOK_DUE if left else HOOK_DROPPED] * 2


@pytest.mark.parametrize("chosen_events", [HOLD["script_events"], frozenset(["OFFLINE"])], ids=["ONLINE too", "OFFLINE only"])
def test_a_return_counts_even_if_a_crash_comes_before_its_marks(home: Home, chosen_events: Any) -> None:
    begin(home, script_events=chosen_events).see(310, ANN._replace(shook=305)).kill()
    home.query("UPDATE events SET hook = 1 WHERE hook = 3 AND kind = 'OFFLINE'")
    home.query("UPDATE events SET hook = 1 WHERE hook = 3 AND kind = 'ONLINE' AND seq > 2")
    home.now = at(320)
    home.start()
    assert ready(home) == [] and home.environments() == []
    home.see(330, ANN._replace(shook=325))
    assert dict(marks(home)[1:])["OFFLINE"] == HOOK_DROPPED and (HOOK_DUE not in dict(marks(home)).values())


def test_only_runs_are_dropped_when_there_is_no_hook_any_more(home: Home) -> None:
    begin(home, script_events=frozenset(["OFFLINE"])).see(310, ANN._replace(shook=305)).kill()
    home.query("UPDATE events SET hook = 1 WHERE hook = 3 AND kind = 'OFFLINE'")
    home.start(on_change_script="").see(320, ANN._replace(shook=305))
    assert marks(home) == [("ONLINE", HOOK_NONE), ("OFFLINE", HOOK_DROPPED), ("ONLINE", HOOK_NONE)]
    assert [line[20:] for line in lines_of(home.trail) if "dropped" in line] == [
        "[WARN] 1 hook run dropped: ON_CHANGE_SCRIPT is no longer set"
    ]


def test_a_removal_ends_the_delay_and_follows_the_offline(home: Home) -> None:
    begin(home).see(310)
    assert ready(home) == ["OFFLINE", "REMOVED"]
    home.kill().start()
    assert ready(home) == ["OFFLINE", "REMOVED"]


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_step_of_the_wall_clock_changes_no_delay(home: Home, step: float) -> None:
    begin(home).see(330, ANN, step=step)
    assert ready(home) == []
    home.see(355, ANN._replace(shook=350 + step), step=step)
    assert marks(home)[1:] == [("OFFLINE", HOOK_DROPPED), ("ONLINE", HOOK_DROPPED)]


def test_a_clock_that_was_set_back_during_a_restart_waits_no_longer_than_the_delay(home: Home) -> None:
    begin(home).kill()
    home.now = at(310, -3600.0)
    home.start()
    assert ready(home) == []
    home.see(370, ANN, step=-3600.0)
    assert ready(home) == ["OFFLINE"]


@pytest.mark.parametrize("delay, left", [(0, ["OFFLINE"]), (5, ["OFFLINE"]), (600, [])])
def test_a_delay_that_was_changed_holds_for_what_waits(home: Home, delay: int, left: List[str]) -> None:
    begin(home).kill()
    home.now = at(310)
    home.start(script_delay=delay)
    assert ready(home) == left


def test_a_delay_that_is_new_holds_for_what_waits(home: Home) -> None:
    begin(home, script_delay=0).kill()
    home.now = at(310)
    home.start(script_delay=60)
    assert ready(home) == []
    assert home.see(360, ANN) and ready(home) == ["OFFLINE"]


def test_the_loop_wakes_up_when_a_delay_is_over(home: Home) -> None:
    begin(home)
    assert home.monitor is not None
    monitor, before = home.monitor, time.monotonic()
    monitor.grid.next = monitor.statistics.next = before + 1e6
    at_ = monitor.wake_at()
    assert before + 60 <= at_ <= time.monotonic() + 60
    home.now = at(360)
    assert monitor.wake_at() == before + 1e6


@pytest.mark.parametrize("stored, words", [
    (True, "1 hook run held back for the next start"),
    (False, "1 hook run held back, and lost without a store"),
])  # fmt: skip
def test_a_stop_says_what_becomes_of_what_waits(home: Home, stored: bool, words: str) -> None:
    home.stored = stored
    begin(home)
    assert home.monitor is not None
    home.monitor.finish()
    home.kill(stopped=True)
    warnings = [line.partition("[WARN] ")[2] for line in lines_of(home.trail) if "hook run" in line]
    assert warnings == [words]


def test_the_statistics_count_what_waits_and_what_was_dropped(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    begin(home).see(310, ANN._replace(shook=305)).see(600, ANN._replace(shook=305))
    assert home.monitor is not None
    home.monitor.print_statistics()
    assert ", Hooks: 0 run, 0 failed, 1 waiting, 3 dropped, Writes: " in capfd.readouterr().err
