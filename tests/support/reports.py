"""Reports as people get them: the commands of the second file, on stores that the daemon's own pipeline wrote."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import device
import wg_monitor
import wg_report
from harness import MODULE, PATIENCE_S
from values import P, at, dump, key
from watcher import Watcher, query


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> List[str]:
        return self.out.splitlines()


def report(*words: str, now: float = 220, width: int = 200, color: str = "never") -> Answer:
    """Runs a command in this process, `now` seconds after START. A refusal raises."""
    environment = {"COLUMNS": str(width), "WG_COLOR_MODE": color}
    kept = {name: os.environ.get(name) for name in environment}
    clock, out, err = wg_monitor.moment, io.StringIO(), io.StringIO()
    os.environ.update(environment)
    wg_monitor.moment = lambda: at(now)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = wg_report.main(words)
    finally:
        wg_monitor.moment = clock
        for name, value in kept.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    return Answer(code, out.getvalue(), err.getvalue())


def run(
    *words: str, behind: Iterable[str] = (), width: int = 200, user: Optional[int] = None, zone: str = "UTC",
    program: Sequence[str] = (sys.executable, "-IS", str(MODULE)),
) -> Answer:  # fmt: skip
    """Runs a command as a process of its own."""
    done = subprocess.run(
        [*behind, *program, *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "COLUMNS": str(width), "TZ": zone},
        preexec_fn=None if user is None else lambda: os.setuid(user),
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


def for_everybody(directory: Path) -> List[str]:
    """A copy of the program that any user can run: the checkout and the interpreter may be in root's home."""
    copy = directory / "program"
    copy.mkdir()
    for name in (MODULE.name, "wg_report.py"):
        (copy / name).write_bytes((MODULE.parent / name).read_bytes())
    directory.chmod(0o755)
    return ["/usr/bin/python3", "-IS", str(copy / MODULE.name)]


def on_terminal(*words: str, width: int, environment: Sequence[Tuple[str, str]] = ()) -> str:
    """What a command prints on a terminal of this width."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-IS", str(MODULE), *words], stdin=other, stdout=other, stderr=other,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "xterm", "TZ": "UTC", **dict(environment)},
    )  # fmt: skip
    os.close(other)
    said = b""
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:  # the terminal has no other end any more
            break
        if not data:
            break
        said += data
    os.close(main)
    process.wait(PATIENCE_S)
    return said.decode().replace("\r\n", "\n")


def online(number: int, age: float = 0) -> device.Peer:
    """A peer of a device, whose handshake is so old."""
    return device.peer(number, int(time.time() - age))._replace(rx=5000, tx=300)


# Some minutes at a gateway. Ann has a name, roams, and is silent from 60 s on. Cyd has a part of Bob's network
# until it is removed. Nobody watches from 60 s to 160 s. Bob connects at 190 s and is still there at 210 s.
ANN = P("ann", -5, 100, 50, "203.0.113.7:51820", "10.0.0.2/32")
BOB = P("bob", endpoint="", ips="10.0.0.3/32,10.20.0.0/16")
CYD = P("cyd", 20, 5, 0, "[2001:db8::7]:40001", "10.20.5.0/24")


def tell(watcher: Watcher) -> None:
    roamed = ANN._replace(rx=3 << 20, tx=5000, endpoint="198.51.100.88:37089")
    watcher.see(dump("wg0", ANN, BOB), at(0))
    watcher.see(dump("wg0", ANN._replace(rx=2000, tx=900), BOB, CYD), at(30))
    watcher.see(dump("wg0", roamed, BOB, CYD), at(60))
    watcher.see(dump("wg0", roamed, BOB, CYD), at(160), blind_s=100)
    watcher.see(dump("wg0", roamed, BOB, CYD._replace(rx=90)), at(190))
    back = BOB._replace(shook=190, endpoint="192.0.2.9:999", rx=10)
    watcher.see(dump("wg0", roamed, back, CYD._replace(rx=90)), at(195))
    watcher.see(dump("wg0", roamed, back), at(198))
    watcher.see(dump("wg0", roamed, back._replace(rx=2048)), at(210), checkpoint=True)
    watcher.store.take_note(watcher.delivered.last, watcher.table.sessions, watcher.table.last)
    for table in ("sessions", "peers"):
        query(watcher.path, "UPDATE %s SET name = 'alice-laptop' WHERE public_key = ?" % table, key("ann"))


def story(path: Path) -> Iterator[Path]:
    """A store with this story, while its monitor runs."""
    with Watcher(path) as watcher:
        tell(watcher)
        yield path
