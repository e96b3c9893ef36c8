"""What a hook is told, and when: the whole monitor with a store, whose moments come from here. No hook is started; the
tests look at the runs that wait, and at what is left of them after a crash."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

import wg_monitor
from harness import lines_of
from values import P, at, chosen, dump, give, name_of
from wg_monitor import DAY_S, Console, Monitor, Notifier, Store, Trail

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

    def kill(self) -> "Home":
        """Nothing is finished. What the kernel does for a process that was killed happens here."""
        if self.monitor is not None:
            for sink in (self.monitor.store, self.monitor.trail):
                if sink is not None:
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
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    handlers: Dict[int, Any] = {number: signal.getsignal(number) for number in wg_monitor.Wakeup.SIGNALS}
    made = Home(tmp_path, monkeypatch)
    yield made
    made.kill()
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
