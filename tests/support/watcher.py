"""The store in the tests of its effects: the pipeline from the text of wg to a real database, and queries of it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, List, Optional

import wg_monitor
from values import chosen, read
from wg_monitor import HOOK_DUE, HOOK_NONE, Delivered, Event, Moment, Record, Settings, Store, Table


def query(path: Path, statement: str, *values: Any) -> List[Any]:
    """As an administrator would, while the monitor runs."""
    with closing(sqlite3.connect(str(path))) as database:
        found = database.execute(statement, values).fetchall()
        database.commit()
        return found


class Watcher:
    """The pipeline from the text of wg to the store, one reading after another; no trail, no hook."""

    def __init__(self, path: Path, settings: Optional[Settings] = None) -> None:
        self.path, self.settings = path, settings or chosen()
        self.store = Store(str(path))
        self.store.open()
        self.table = Table()
        self.memo: Optional[wg_monitor.Memo] = None
        self.delivered = Delivered(0)

    def load(self, now: Moment) -> wg_monitor.Loaded:
        """As at the start of the monitor. The first reading does it by itself."""
        loaded = self.store.load(self.settings, now, now.wall)
        self.table, self.delivered = loaded.table, loaded.delivered
        return loaded

    def see(
        self, text: str, now: Moment, checkpoint: bool = False, hook: bool = False, blind_s: float = 0.0
    ) -> List[Event]:
        """`blind_s`: for how long nobody watched before."""
        if self.store.saved is None:
            self.load(now)
        reading, self.memo = read(text, "", self.table, self.memo, self.settings)
        last = self.table.sessions
        events = wg_monitor.decide(self.table, reading, now, self.settings)
        if blind_s:
            self.store.add_gap(now.wall - blind_s, now.wall, None, "stopped")
            gaps = dict.fromkeys(reading.interfaces, blind_s)
            events = wg_monitor.add_gaps(self.table, events, last, gaps, now)
        records = [self.record(event, hook) for event in events]
        self.save(records, now, checkpoint)
        return events

    def save(self, records: List[Record], now: Moment, checkpoint: bool = False) -> None:
        self.store.save(
            records, self.table, now, self.delivered, checkpoint=checkpoint, steady=9.5, utc_offset="+02:00"
        )

    def record(self, event: Event, hook: bool) -> Record:
        self.delivered = self.delivered.expecting()
        seq = self.delivered.last
        line = wg_monitor.render(seq, event, wg_monitor.event_text(event), "text")
        settings = self.settings._replace(on_change_script="/hook" if hook else "")
        due = HOOK_DUE if wg_monitor.runs_hook(event, settings) else HOOK_NONE
        return Record(seq, event, line, due)

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
