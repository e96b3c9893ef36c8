"""wg_monitor.py with a fault point: it ends by SIGKILL when a seam is reached for the nth time.

    python3 crash_driver.py SEAM NTH INTERVAL PATIENCE TRUTH FLAG...

The monitor has no test hooks; its functions are wrapped from here, before its main() runs. INTERVAL may be a fraction
of a second. PATIENCE replaces the seconds that the monitor waits at its start for a store that somebody else has locked.

TRUTH is a file to which each run adds lines:

    run                           it begins
    loaded                        it has the store, before its first reading
    adopted                       it got the store after its first reading
    read OUTPUT ERRORS            a successful `wg`, before the monitor deals with it
    line SEQ WALL KIND TEXT LINE  a line, before the monitor has it: the text as for a text trail, and the whole line

OUTPUT, ERRORS, TEXT and LINE are in base64.
"""

import base64
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wg_monitor

ROTATED = "in the middle of the write after a rotation"
TRAIL = "/var/log/wg_monitor.log"

write, fsync = os.write, os.fsync


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Fault:
    """The one seam of this run, and how often it is still to be passed."""

    def __init__(self, seam: str, nth: int) -> None:
        self.seam, self.left = seam, nth

    def reach(self, seam: str) -> bool:
        """Is this the moment?"""
        if seam != self.seam:
            return False
        self.left -= 1
        return self.left == 0

    def at(self, seam: str) -> None:
        if self.reach(seam):
            die()


def around(owner: Any, name: str, fault: Fault, seam: str) -> None:
    """Seams before and after a function."""
    inner: Callable[..., Any] = getattr(owner, name)

    def wrapped(*arguments: Any, **more: Any) -> Any:
        fault.at("before " + seam)
        result = inner(*arguments, **more)
        fault.at("after " + seam)
        return result

    setattr(owner, name, wrapped)


def connection(fault: Fault) -> Any:
    class Connection(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            if statement != "COMMIT":
                return super().execute(statement, *arguments)
            fault.at("before COMMIT")
            cursor = super().execute(statement)
            fault.at("after COMMIT")
            return cursor

        def executemany(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            cursor = super().executemany(statement, *arguments)
            fault.at("inside a transaction")
            return cursor

    return Connection


def cut_database(fault: Fault) -> None:
    connect = sqlite3.connect
    kind = connection(fault)

    def connect_(*arguments: Any, **more: Any) -> Any:
        return connect(*arguments, factory=kind, **more)

    sqlite3.connect = connect_


def cut_trail(fault: Fault) -> None:
    """The trail's own writes, in their middle too, and the fsync that follows."""
    trail_write = wg_monitor.Trail.write
    inside = rest = False

    def write_(descriptor: int, data: Any) -> int:
        if inside:
            fault.at("before the write")
            if (
                fault.reach(ROTATED)
                or fault.reach("in the middle of the write")
                or rest
                and fault.reach("in the middle of a torn line's rest")
            ):
                # One byte has no middle: the newline may be all that is left of a torn line.
                write(descriptor, data[: random.randrange(min(1, len(data) - 1), len(data))])
                die()
        count = write(descriptor, data)
        if inside:
            fault.at("after the write")
        return count

    def fsync_(descriptor: int) -> None:
        fsync(descriptor)
        if inside:
            fault.at("after fsync")

    def trail_write_(self: wg_monitor.Trail, lines: Any) -> Any:
        nonlocal inside, rest
        inside, rest = True, bool(self.cut)
        try:
            return trail_write(self, lines)
        finally:
            inside = False

    os.write, os.fsync = write_, fsync_  # type: ignore[assignment]
    wg_monitor.Trail.write = trail_write_  # type: ignore[method-assign]


def rotate(fault: Fault) -> None:
    """logrotate is as fast as it can be: between the store and the trail, and then the write is cut short."""
    save = wg_monitor.Store.save

    def save_(self: wg_monitor.Store, *arguments: Any, **more: Any) -> None:
        save(self, *arguments, **more)
        if fault.seam == ROTATED and fault.left == 1 and os.path.exists(TRAIL):
            os.rename(TRAIL, "%s.%020d" % (TRAIL, time.time_ns()))

    wg_monitor.Store.save = save_  # type: ignore[method-assign]


def cut_lines(fault: Fault) -> None:
    """At the nth line of Python that runs in the monitor's effects, whichever it is."""
    if fault.seam != "any line":
        return
    first = wg_monitor.Trail.__init__.__code__.co_firstlineno
    last = wg_monitor.Wakeup.__init__.__code__.co_firstlineno
    loop = wg_monitor.Monitor.note.__code__.co_firstlineno

    def trace(frame: FrameType, what: str, argument: Any) -> Optional[Callable[..., Any]]:
        number = frame.f_code.co_firstlineno
        mine = frame.f_code.co_filename == wg_monitor.__file__ and (first <= number < last or number >= loop)
        return line if mine else None

    def line(frame: FrameType, what: str, argument: Any) -> Optional[Callable[..., Any]]:
        fault.at("any line")
        return line

    sys.settrace(trace)


def tell_truth(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def tell(*words: object) -> None:
        encoded = [base64.b64encode(word).decode() if isinstance(word, bytes) else str(word) for word in words]
        write(descriptor, " ".join(encoded).encode() + b"\n")

    tell("run")
    answer, emit = wg_monitor.Probe.answer, wg_monitor.Monitor.emit
    continue_from, adopt = wg_monitor.Monitor.continue_from, wg_monitor.Monitor.adopt

    def answer_(self: wg_monitor.Probe) -> Any:
        said = answer(self)
        if said is not None and not said.why:
            tell("read", b"".join(self.blocks(said.size)), said.complaints.encode())
        return said

    def emit_(self: wg_monitor.Monitor, event: wg_monitor.Event, text: str) -> None:
        seq = self.outbox.delivered.last + 1
        line = wg_monitor.render(seq, event, text, self.settings.log_format)
        tell("line", seq, event.wall, event.kind, text.encode(), line)
        emit(self, event, text)

    def continue_from_(self: wg_monitor.Monitor, loaded: wg_monitor.Loaded, saved: Any) -> None:
        continue_from(self, loaded, saved)
        tell("loaded")

    def adopt_(self: wg_monitor.Monitor, *arguments: Any, **more: Any) -> None:
        adopt(self, *arguments, **more)
        if self.first is not None:
            tell("adopted")

    wg_monitor.Probe.answer = answer_  # type: ignore[method-assign]
    wg_monitor.Monitor.emit = emit_  # type: ignore[method-assign]
    wg_monitor.Monitor.continue_from = continue_from_  # type: ignore[method-assign]
    wg_monitor.Monitor.adopt = adopt_  # type: ignore[method-assign]


def hurry(interval: float, patience: float) -> None:
    parse_settings = wg_monitor.parse_settings

    def parse_settings_(*arguments: Any) -> wg_monitor.Settings:
        return parse_settings(*arguments)._replace(interval=interval)  # type: ignore[arg-type]

    wg_monitor.parse_settings = parse_settings_  # type: ignore[assignment]
    wg_monitor.STORE_PATIENCE_S = patience  # type: ignore[assignment]


def main() -> int:
    seam, nth, interval, patience, truth = sys.argv[1:6]
    fault = Fault(seam, int(nth))
    random.seed(seam + nth)
    tell_truth(truth)
    hurry(float(interval), float(patience))
    cut_database(fault)
    cut_trail(fault)
    rotate(fault)
    around(wg_monitor.Trail, "open", fault, "opening the trail")
    around(wg_monitor.Trail, "take_lock", fault, "taking the trail's lock")
    around(wg_monitor, "find_inode", fault, "finding the trail's inode")
    around(wg_monitor.Trail, "resume", fault, "striking out lines")
    around(wg_monitor, "judge_script", fault, "starting a hook")
    around(wg_monitor.Store, "open", fault, "opening the store")
    around(wg_monitor.Store, "load", fault, "loading the store")
    around(wg_monitor.Store, "take_note", fault, "taking a note")
    around(wg_monitor.Store, "make_room", fault, "making room in the store")
    around(wg_monitor.Monitor, "adopt", fault, "adopting the store")
    around(wg_monitor.Monitor, "take_up_lines", fault, "taking up lines")
    around(wg_monitor.Store, "mark_trail", fault, "marking the trail")
    around(wg_monitor.Store, "mark_hooks", fault, "marking hooks")
    around(wg_monitor.HookQueue, "add", fault, "queueing a hook")
    around(wg_monitor.Run, "words", fault, "reporting a hook")
    around(wg_monitor.Trail, "position", fault, "asking where the trail stands")
    around(wg_monitor.Trail, "mend", fault, "mending the trail")
    cut_lines(fault)
    return wg_monitor.main(sys.argv[6:])


if __name__ == "__main__":
    sys.exit(main())
