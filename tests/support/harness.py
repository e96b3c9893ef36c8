"""Shared by the tests of the running daemon: a directory for each test, the daemon in it, and real WireGuard peers.

The daemon runs in a mount namespace, where /run/wireguard is a directory of the test and a script may replace `wg`. It
also runs in a network namespace, which hides the WireGuard interfaces of the machine.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Callable, Dict, Iterable, List, NoReturn, Optional, Tuple, Type, TypeVar

import pytest

import device

PROJECT = Path(__file__).resolve().parents[2]
MODULE = PROJECT / "wg_monitor.py"
PATIENCE_S = 60  # limit for anything a test waits for, on a busy machine; no test asserts a duration

STAMPED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)", re.DOTALL)

T = TypeVar("T")


def lacking(reason: str) -> NoReturn:
    """Skip the test on a developer's machine. CI installs everything, so there the test fails."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def need(*tools: str, root: bool = True) -> None:
    if root and os.geteuid() != 0:
        lacking("needs root")
    for tool in tools:
        if shutil.which(tool) is None:
            lacking("needs " + tool)


def wait_for(what: str, look: Callable[[], Optional[T]], patience_s: float = PATIENCE_S) -> T:
    """Call `look` until it returns something true, and return that."""
    deadline = time.monotonic() + patience_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError("timed out waiting for " + what)
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs. A zombie does not."""
    try:
        status = Path("/proc/%d/stat" % pid).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def lines_of(path: Path) -> List[str]:
    """The complete lines. Undecodable bytes and carriage returns stay visible: nothing is translated."""
    if not path.exists():
        return []
    return path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]


def texts(lines: Iterable[str]) -> List[str]:
    """The lines without their time stamps. A line without one fails the test."""
    found = []
    for line in lines:
        match = STAMPED.fullmatch(line)
        assert match, "no time stamp: %r" % line
        found.append(match.group(1))
    return found


def launcher() -> str:
    """The command as install.sh lays it."""
    text = (PROJECT / "install.sh").read_text(encoding="utf-8")
    return text.partition('>"$scratch/command" <<END\n')[2].partition("END\n")[0].replace("$PROGRAM_DIR", str(PROJECT))


# --- The daemon ---------------------------------------------------------------------------------------------------

# $1: the directory mounted at /run/wireguard; $2: at /var/log; $3: the script that replaces wg, or empty; $4: the path
# under which the real wg then appears.
ENTER = """
mkdir -p /run/wireguard && mount --bind "$1" /run/wireguard || exit 99
[ -z "$2" ] || mount --rbind "$2" /var/log || exit 99
wg=$(PATH=/usr/bin:/usr/sbin:/bin:/sbin; command -v wg)
[ -z "$3" ] || { mount --bind "$wg" "$4" && mount --bind "$3" "$wg"; } || exit 99
shift 4
exec "$@"
"""

# A time zone in which it is noon. Lines look different after midnight, which no test reaches this way.
EAST = 12 - time.gmtime().tm_hour
NOON = "NOON%+d" % -EAST


def local_time(wall: float) -> str:
    """Date and time in the format of the daemon's lines."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(wall + EAST * 3600))


class Place:
    """A test's directory under /tmp, which may hold trail, store and hook, and the processes that use it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="wg-monitor-test-", dir="/tmp"))
        self.sockets = self.path / "run"
        self.sockets.mkdir()
        self.logs = self.path / "log"
        self.logs.mkdir()
        self.trail = self.logs / "wg_monitor.log"  # the daemon sees it as /var/log/wg_monitor.log
        self.behaviour = self.path / "behaviour"  # what the script in place of wg does
        self.runs = self.path / "runs"  # one byte per run of the script
        self.real_wg = self.path / "real-wg"
        self.fake_wg: Optional[Path] = None
        self.asked = 0
        self.stack = ExitStack()

    def device(self, name: str = "wg0", peers: Iterable[device.Peer] = ()) -> device.Device:
        return self.stack.enter_context(device.Device(str(self.sockets), name, peers))

    def script(self, name: str, text: str, mode: int = 0o755) -> Path:
        path = self.path / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(mode)
        return path

    def wg(self, text: str) -> None:
        """Replace wg by this shell script, from its next run on. The first call must precede the start of the daemon."""
        if self.fake_wg is None:
            self.real_wg.touch()
            self.fake_wg = self.script("wg", "printf . >>%s; . %s\n" % (self.runs, self.behaviour))
        fresh = self.path / "behaviour.new"
        fresh.write_text(text + "\n")
        fresh.replace(self.behaviour)
        self.asked = self.run_count()

    def wg_prints(self, output: bytes, errors: str = "", status: int = 0) -> None:
        data = self.path / ("output-%d" % len(list(self.path.glob("output-*"))))
        data.write_bytes(output)
        complaints = data.with_name(data.name.replace("output", "errors"))
        complaints.write_text(errors)
        self.wg("cat %s; cat %s >&2; exit %d" % (data, complaints, status))

    def run_count(self) -> int:
        return self.runs.stat().st_size if self.runs.exists() else 0

    def settle(self) -> None:
        """Wait until the daemon has processed the current output of the script that replaces wg: see Device.settle."""
        wait_for("two more runs of wg", lambda: self.run_count() >= self.asked + 2)

    def start(self, *flags: str, environment: Optional[Dict[str, str]] = None, wrapper: str = "") -> "Daemon":
        """Start the daemon with a reading each second."""
        flags = ("--interval", "1", *flags)
        return self.stack.enter_context(Daemon(self, flags, environment or {}, wrapper.split()))

    def enter(self) -> List[str]:
        """The prefix that runs a command in the daemon's namespaces."""
        enter = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", ENTER, "sh"]
        return [*enter, str(self.sockets), str(self.logs), str(self.fake_wg or ""), str(self.real_wg)]

    def __enter__(self) -> "Place":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stack.close()
        wait_for("the last processes in the directory to end", self.removed)

    def removed(self) -> bool:
        shutil.rmtree(str(self.path), ignore_errors=True)
        return not self.path.exists()


class Daemon:
    """wg_monitor.py, started as the service manager starts it."""

    def __init__(self, place: Place, flags: Iterable[str], environment: Dict[str, str], wrapper: List[str]) -> None:
        need("unshare", "wg")
        self.place = place
        number = len(list(place.path.glob("console-*")))
        self.console_path = place.path / ("console-%d" % number)
        self.stdout_path = place.path / ("stdout-%d" % number)
        with self.console_path.open("wb") as console, self.stdout_path.open("wb") as stdout:
            status = os.fstat(console.fileno())
            values = {key: value.format(console=status) for key, value in environment.items()}
            self.process = subprocess.Popen(
                [*place.enter(), *wrapper, sys.executable, "-I", str(MODULE), *flags],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=console,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": NOON, **values},
                start_new_session=True,
            )
        self.pid = self.process.pid  # unshare and sh exec the daemon

    def console(self) -> List[str]:
        return lines_of(self.console_path)

    def trail(self) -> List[str]:
        """The trail's lines without their time stamps."""
        return texts(lines_of(self.place.trail))

    def see(self, text: str, times: int = 1) -> None:
        """Wait until the trail contains the line `times` times."""
        self.await_("%r in the trail" % text, lambda: self.trail().count(text) >= times)

    def match(self, pattern: str) -> "re.Match[str]":
        """Wait for a line of the trail that matches the whole pattern."""
        return self.await_("%r in the trail" % pattern, lambda: first(pattern, self.trail()))

    def hear(self, pattern: str) -> "re.Match[str]":
        """Wait for a line of the console that matches the whole pattern, apart from its time stamp."""
        pattern = r"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d )?" + pattern
        return self.await_("%r on the console" % pattern, lambda: first(pattern, self.console()))

    def await_(self, what: str, look: Callable[[], Optional[T]]) -> T:
        def look_while_it_runs() -> Optional[T]:
            ended = self.process.poll() is not None
            found = look()
            if ended and not found:
                raise AssertionError("the daemon exited (%s) before %s%s" % (self.process.returncode, what, self.said()))
            return found

        try:
            return wait_for(what, look_while_it_runs)
        except AssertionError as error:
            raise AssertionError("%s%s" % (error, self.said())) from None

    def said(self) -> str:
        return "\n--- console\n%s\n--- trail\n%s" % ("\n".join(self.console()), "\n".join(lines_of(self.place.trail)))

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError("the daemon did not exit" + self.said()) from None

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def first(pattern: str, lines: Iterable[str]) -> "Optional[re.Match[str]]":
    for line in lines:
        match = re.fullmatch(pattern, line)
        if match:
            return match
    return None


def command_line(
    *arguments: str, behind: Iterable[str] = (), environment: Optional[Dict[str, str]] = None
) -> "subprocess.CompletedProcess[str]":
    """Run the module with these arguments until it exits."""
    return subprocess.run(
        [*behind, sys.executable, "-I", str(MODULE), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(environment or {})},
        text=True,
        timeout=PATIENCE_S,
    )


# --- Real WireGuard -----------------------------------------------------------------------------------------------


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError("%s: %s" % (" ".join(command), done.stderr.strip()))
    return done.stdout.strip()


class End:
    """One end of a tunnel: a network namespace that runs wireguard-go."""

    def __init__(self, namespace: str, name: str, sockets: Path, address: str) -> None:
        self.namespace, self.name, self.sockets, self.address = namespace, name, sockets, address
        self.private_key = run("wg", "genkey")
        made = subprocess.run(["wg", "pubkey"], input=self.private_key.encode(), stdout=subprocess.PIPE, check=True)
        self.public_key = made.stdout.decode().strip()
        run("ip", "netns", "add", namespace)
        self.process: Optional["subprocess.Popen[bytes]"] = None

    def enter(self, *command: str) -> Tuple[str, ...]:
        """The command with the prefix that runs it at this end."""
        enter = "nsenter --net=/run/netns/%s unshare --mount --propagation private sh -c" % self.namespace
        return (*enter.split(), ENTER, "sh", str(self.sockets), "", "", "", *command)

    def inside(self, *command: str) -> str:
        return run(*self.enter(*command))

    def up(self, tunnel_address: str) -> None:
        with (self.sockets.parent / (self.namespace + ".log")).open("ab") as log:
            self.process = subprocess.Popen(
                self.enter("wireguard-go", "-f", self.name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "LOG_LEVEL": "verbose"},
                start_new_session=True,
            )
        wait_for("wireguard-go", (self.sockets / (self.name + ".sock")).exists)
        key_file = self.sockets.parent / (self.namespace + ".key")
        key_file.write_text(self.private_key)
        self.inside("wg", "set", self.name, "private-key", str(key_file), "listen-port", "51820")
        self.inside("ip", "address", "add", tunnel_address, "dev", self.name)
        self.inside("ip", "link", "set", self.name, "up")

    def down(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.down()
        run("ip", "netns", "delete", self.namespace)


class Tunnel:
    """Two real peers. The monitor sees the server's interface. The client sends handshakes and keepalives."""

    SERVER, CLIENT = "192.0.2.1", "192.0.2.2"
    TUNNEL_SERVER, TUNNEL_CLIENT = "10.99.0.1", "10.99.0.2"

    def __init__(self, place: Place) -> None:
        need("wg", "wireguard-go", "ip", "nsenter", "unshare")
        if not os.path.exists("/dev/net/tun"):
            lacking("needs /dev/net/tun")
        away = place.path / "client"
        away.mkdir()
        self.name = "wgm%d" % os.getpid()
        self.server = End(self.name + "-s", self.name, place.sockets, self.SERVER)
        place.stack.callback(self.server.close)
        self.client = End(self.name + "-c", self.name, away, self.CLIENT)
        place.stack.callback(self.client.close)
        ends = self.server.namespace, self.client.namespace
        run("ip", "-n", ends[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", ends[1])
        for end in (self.server, self.client):
            end.inside("ip", "address", "add", end.address + "/24", "dev", "eth0")
            end.inside("ip", "link", "set", "eth0", "up")
        self.server.up(self.TUNNEL_SERVER + "/24")
        self.client.up(self.TUNNEL_CLIENT + "/24")

    def admit(self, allowed_ips: str = TUNNEL_CLIENT + "/32") -> None:
        """Add the client to the server's peers."""
        self.server.inside("wg", "set", self.name, "peer", self.client.public_key, "allowed-ips", allowed_ips)

    def remove(self) -> None:
        self.server.inside("wg", "set", self.name, "peer", self.client.public_key, "remove")

    def connect(self, keepalive_s: int = 1) -> None:
        """The client starts a handshake, as after its own start."""
        peer = ["wg", "set", self.name, "peer", self.server.public_key]
        self.client.inside(*peer, "remove")
        networks = ["allowed-ips", self.TUNNEL_SERVER + "/32", "endpoint", self.SERVER + ":51820"]
        self.client.inside(*peer, *networks, "persistent-keepalive", str(keepalive_s))

    def silence(self) -> None:
        """Drop all packets without notice to either end, as a pulled cable does."""
        self.client.inside("ip", "link", "set", "eth0", "down")

    def restore(self) -> None:
        self.client.inside("ip", "link", "set", "eth0", "up")

    def move(self, address: str) -> None:
        """The client continues from another address."""
        self.client.inside("ip", "address", "flush", "dev", "eth0")
        self.client.inside("ip", "address", "add", address + "/24", "dev", "eth0")
        # wireguard-go keeps the source address that it used before, until the endpoint is set again.
        endpoint = ["peer", self.server.public_key, "endpoint", self.SERVER + ":51820"]
        self.client.inside("wg", "set", self.name, *endpoint)

    def handshake(self) -> int:
        """The time of the last handshake, as the server reports it."""
        said = self.server.inside("wg", "show", self.name, "latest-handshakes").split()
        return int(said[1]) if said else 0
