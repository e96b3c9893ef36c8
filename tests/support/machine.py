"""Throwaway machines with a booted systemd, for the tests.

debootstrap creates an image once, in the user's cache. systemd-nspawn boots it within seconds and keeps every change in
memory. A machine has only a private network. The image contains a repository with the Debian packages that the tests
install, so the machine starts bare and apt-get still works.

`python3 tests/support/machine.py [RELEASE]` boots one with this project in /root/wg_monitor and opens a shell in it.
"""

import base64
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple, Type, TypeVar

PROJECT = Path(__file__).resolve().parents[2]
RELEASE = os.environ.get("WG_MONITOR_RELEASE", "bookworm")
MIRROR = "http://deb.debian.org/debian"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wg-monitor-tests"

# The packages of a small Debian server. wireguard-go is added, in place of the kernel's WireGuard.
BASE = "systemd systemd-sysv dbus python3 logrotate iproute2 procps curl".split()
# The packages that the tests install with apt-get.
LATER = "wireguard-tools postfix prometheus-node-exporter".split()

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = "srv/packages"
BOOTSTRAP_S = 900
BOOT_S = 60


def missing() -> str:
    """Why no machine can run here, or an empty string."""
    if os.geteuid() != 0:
        return "a throwaway machine needs root"
    for tool in ("debootstrap", "systemd-nspawn", "nsenter"):
        if not shutil.which(tool):
            return "a throwaway machine needs %s (apt-get install debootstrap systemd-container)" % tool
    if not Path("/dev/net/tun").exists():
        return "a throwaway machine needs /dev/net/tun"
    return ""


# --- The image ----------------------------------------------------------------------------------------------------


def image(release: str = RELEASE) -> Path:
    """The root directory of a bare system. The first call creates it."""
    recipe = Path(__file__).read_text().split("\n# --- The machine ---")[0]
    root = CACHE / ("%s-%s" % (release, hashlib.sha256(recipe.encode()).hexdigest()[:12]))
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(str(CACHE / "image.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            for outdated in CACHE.glob(release + "-*"):
                shutil.rmtree(str(outdated))
            building = CACHE / ("building-" + release)
            bootstrap(release, building)
            building.rename(root)
    return root


def bootstrap(release: str, root: Path) -> None:
    command = ["debootstrap", "--variant=minbase", "--include=" + ",".join(BASE), release, str(root), MIRROR]
    retried(command, lambda: shutil.rmtree(str(root), ignore_errors=True))
    packages = root / PACKAGES
    (packages / "partial").mkdir(parents=True)
    # A mirror that lags behind, or a clock that is ahead, must not prevent the tests.
    options = ["--quiet", "--yes", "--option=Acquire::Retries=3", "--option=Acquire::Check-Valid-Until=false"]
    apt = ["chroot", str(root), "apt-get", *options, "--no-install-recommends"]
    retried([*apt, "update"])
    retried([*apt, "--download-only", "--option=Dir::Cache::Archives=/" + PACKAGES, "install", *LATER])
    if release == "bullseye":
        borrow_wireguard_go(root, apt)
    else:
        retried([*apt, "install", "wireguard-go"])
        retried([*apt, "clean"])
    (packages / "Packages").write_text("".join(index_entry(root, deb) for deb in sorted(packages.glob("*.deb"))))
    (root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/%s ./\n" % PACKAGES)
    shutil.rmtree(str(root / "var/lib/apt/lists"))
    (root / "etc/hostname").write_text("machine\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost machine\n")
    (root / "etc/resolv.conf").write_text("")


# wireguard-go executes itself again to go into the background. That fails when the loader runs it.
BORROWED = """#!/bin/sh
cd /srv/bookworm
setsid lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path lib/x86_64-linux-gnu \\
    usr/bin/wireguard-go -f "$1" < /dev/null > /dev/null 2>&1 &
until [ -S "/run/wireguard/$1.sock" ]; do sleep 0.05; done
"""


def borrow_wireguard_go(root: Path, apt: List[str]) -> None:
    """bullseye has no wireguard-go. That of bookworm runs there with its own C library."""
    (root / "etc/apt/sources.list").write_text("deb %s bookworm main\n" % MIRROR)
    retried([*apt, "update"])
    fetch = (
        "cd /srv && apt-get download wireguard-go libc6 && for deb in *.deb; do dpkg-deb --extract $deb bookworm; done"
    )
    retried(["chroot", str(root), "sh", "-ec", fetch + "; rm *.deb"])
    (root / "usr/bin/wireguard-go").write_text(BORROWED)
    (root / "usr/bin/wireguard-go").chmod(0o755)


def retried(command: List[str], clean: Callable[[], None] = lambda: None, tries: int = 3) -> None:
    """Run the command, several times if it fails: mirrors fail now and then."""
    for attempt in range(1, tries + 1):
        clean()
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=BOOTSTRAP_S,
                env={"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"},
            )
            failure = "" if done.returncode == 0 else done.stdout.decode(errors="replace")[-2000:]
        except subprocess.TimeoutExpired:
            failure = "no end after %d s" % BOOTSTRAP_S
        if not failure:
            return
        print("try %d of %d failed: %s\n%s" % (attempt, tries, " ".join(command), failure), file=sys.stderr)
    raise RuntimeError("%s: %s" % (command[0], failure))


def index_entry(root: Path, deb: Path) -> str:
    """The paragraph of a package in the repository's index."""
    control = subprocess.run(
        ["chroot", str(root), "dpkg-deb", "--field", "/%s/%s" % (PACKAGES, deb.name)],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    content = deb.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return "%sFilename: ./%s\nSize: %d\nSHA256: %s\n\n" % (control, deb.name, len(content), digest)


# --- The machine --------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    returncode: int
    stdout: str  # and stderr


H = TypeVar("H", bound="Host")


class Host:
    """A machine of any kind. It runs as long as the context lasts."""

    scratch: Path  # holds the machine's console; deleted with the machine

    def boot(self) -> None:
        """Start the machine and return when it runs."""
        raise NotImplementedError

    def halt(self) -> None:
        """Stop the machine, whether its boot is complete or not."""
        raise NotImplementedError

    def __enter__(self: H) -> H:
        self.scratch = Path(tempfile.mkdtemp(prefix="wg-monitor-machine-"))
        try:
            self.boot()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        try:
            self.halt()
        finally:
            shutil.rmtree(str(self.scratch), ignore_errors=True)

    @property
    def console(self) -> Path:
        return self.scratch / "console"

    def console_text(self) -> str:
        return self.console.read_text(errors="replace")[-4000:]

    def execute(self, command: Sequence[str], timeout: float) -> Tuple[int, str]:
        """Run a command inside as root. Returns its exit status and its output, stderr included."""
        raise NotImplementedError

    def run(self, *command: str, check: bool = True, timeout: float = 120) -> Done:
        done = Done(*self.execute(command, timeout))
        if check and done.returncode != 0:
            raise AssertionError("%s: exit status %d\n%s" % (" ".join(command), done.returncode, done.stdout))
        return done

    def read(self, inside: str) -> str:
        return self.run("cat", inside).stdout

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        script = 'mkdir -p "$(dirname "$1")"; printf %s "$2" > "$1"; chmod "$3" "$1"'
        self.run("sh", "-ec", script, "sh", inside, text, "%o" % mode)

    def shell(self, script: str, check: bool = True, timeout: float = 120) -> str:
        return self.run("sh", "-ec", script, check=check, timeout=timeout).stdout

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--property=" + name, unit).stdout.strip().split("=", 1)[1]

    def journal(self, unit: str, *options: str) -> str:
        # The journal may not have received the service's last line yet.
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit=" + unit, *options).stdout


class Machine(Host):
    """A machine in a container."""

    def __init__(self, release: str = RELEASE) -> None:
        self.release = release
        self.leader = 0
        self.stack = ExitStack()

    def boot(self) -> None:
        root = image(self.release)
        # Without a service manager that delegates control groups, all machines share one. So only one may run.
        turn = self.stack.enter_context(open(str(CACHE / "machine.lock"), "w"))
        fcntl.flock(turn, fcntl.LOCK_EX)
        notify = str(self.scratch / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(str(self.console), "wb") as console:
            ready.bind(notify)
            ready.settimeout(BOOT_S)
            nspawn = subprocess.Popen(
                [
                    "systemd-nspawn",
                    "--quiet",
                    "--boot",
                    "--register=no",
                    "--keep-unit",
                    "--volatile=overlay",
                    "--private-network",
                    "--capability=CAP_NET_ADMIN",
                    "--bind=/dev/net/tun",
                    "--notify-ready=yes",
                    "--console=read-only",
                    "--machine=wg-monitor-test-%d" % os.getpid(),
                    "--directory=%s" % root,
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=dict(os.environ, NOTIFY_SOCKET=notify, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=self.hierarchy()),
            )
            self.stack.callback(self.end, nspawn)
            message = ""
            while "READY=1" not in message.splitlines():
                try:
                    message = ready.recv(4096).decode()
                except socket.timeout:
                    raise RuntimeError("the machine did not boot:\n" + self.console_text()) from None
                for line in message.splitlines():
                    if line.startswith("X_NSPAWN_LEADER_PID="):
                        self.leader = int(line.split("=")[1])
        self.run("systemctl", "is-system-running", "--wait")

    def hierarchy(self) -> str:
        """systemd 256 and newer require unified control groups, even on a host with the old ones."""
        if Path("/sys/fs/cgroup/cgroup.controllers").exists():
            return "1"
        return "0" if self.release in ("bullseye", "bookworm") else "1"

    def halt(self) -> None:
        self.stack.close()

    def end(self, nspawn: "subprocess.Popen[bytes]") -> None:
        if self.leader:
            os.kill(self.leader, signal.SIGKILL)
        else:
            nspawn.terminate()
        nspawn.wait(timeout=BOOT_S)

    def path(self, inside: str) -> Path:
        """The path outside of a file in the machine. Absolute links inside resolve wrongly."""
        return Path("/proc/%d/root%s" % (self.leader, inside))

    def read(self, inside: str) -> str:
        return self.path(inside).read_text()

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def enter(self) -> List[str]:
        inside = ["env", "-i", "PATH=" + SEARCH_PATH, "LANG=C.UTF-8", "HOME=/root", "TERM=dumb", "SYSTEMD_PAGER="]
        return ["nsenter", "--target=%d" % self.leader, "--all", *inside]

    def execute(self, command: Sequence[str], timeout: float) -> Tuple[int, str]:
        done = subprocess.run(
            [*self.enter(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        return done.returncode, done.stdout

    def bring(self) -> None:
        """Copy the project into the machine, as an administrator would unpack it."""
        copy_project(self.path("/root/wg_monitor"))


def copy_project(target: Path) -> None:
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "tests", "*.egg-info", "build")
    shutil.copytree(str(PROJECT), str(target), ignore=unwanted)


# --- WireGuard on the machine ---------------------------------------------------------------------------------------

# These keys are used only by the tests.
SERVER_PRIVATE = "UPZENEb5fwxp0ARldqDfSjoAtdQhMZ9FkIQKOTPe6kc="
SERVER_PUBLIC = "A0g923yMjnqTp26qy16WPoXIpGrDKbOiu9SXm+lYYkY="
CLIENT_PRIVATE = "KGjMoE7dGa7Av2eFY6ioQC5zD0LMxJfTl0AaVYLfGEA="
CLIENT_PUBLIC = "w0d1ymHzdmgbTXWv+3ZsLueUUHkbK/MddwBisZ3mDAs="

# The machine has no `wg` at first. This program uses the interfaces' sockets (cross-platform userspace interface).
ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as device:
    device.connect("/run/wireguard/%s.sock" % sys.argv[1])
    device.sendall(("\\n".join(sys.argv[2:]) + "\\n\\n").encode())
    answer = ""
    while not answer.endswith("\\n\\n"):
        answer += device.recv(4096).decode()
print(answer)
assert answer.endswith("errno=0\\n\\n"), answer
"""


def hexadecimal(key: str) -> str:
    return base64.b64decode(key).hex()


def set_device(name: str, *lines: str) -> str:
    return " ".join(["python3 /root/ask.py", name, "set=1", *lines])


# $1: the number; $2 and $3: the last octets of both addresses
NAMESPACE = """
ip link set lo up
ip netns add client$1
ip link add outer$1 type veth peer name inner$1 netns client$1
ip addr add 192.0.2.$2/30 dev outer$1
ip -n client$1 addr add 192.0.2.$3/30 dev inner$1
ip link set outer$1 up
ip -n client$1 link set inner$1 up
"""


def add_namespace(machine: Host, number: int = 1) -> None:
    """Create a network namespace `clientN` and connect it to the machine."""
    machine.run("sh", "-ec", NAMESPACE, "sh", *("%d" % word for word in (number, number * 4 + 1, number * 4 + 2)))


def start_server(machine: Host, name: str = "wg0", number: int = 1) -> None:
    """Create a WireGuard interface with one peer, and the namespace `clientN` for that peer."""
    machine.write("/root/ask.py", ASK)
    add_namespace(machine, number)
    machine.shell(
        """
        wireguard-go {name} >/dev/null 2>&1
        {set}
        ip addr add 10.77.{n}.1/24 dev {name}
        ip link set {name} up
        """.format(
            n=number,
            name=name,
            set=set_device(
                name,
                "private_key=" + hexadecimal(SERVER_PRIVATE),
                "listen_port=%d" % (51820 + number),
                "public_key=" + hexadecimal(CLIENT_PUBLIC),
                "allowed_ip=10.77.%d.2/32" % number,
            ),
        )
    )


def start_client(machine: Host, number: int = 1) -> None:
    """Bring the peer online. Its socket lies in a separate /run/wireguard, as it would on another machine."""
    machine.shell(
        """
        ip netns exec client{n} unshare --mount sh -ec '
        mount -t tmpfs none /run/wireguard
        wireguard-go client >/dev/null 2>&1
        {set}
        ip link set client up'
        """.format(
            n=number,
            set=set_device(
                "client",
                "private_key=" + hexadecimal(CLIENT_PRIVATE),
                "public_key=" + hexadecimal(SERVER_PUBLIC),
                "endpoint=192.0.2.%d:%d" % (number * 4 + 1, 51820 + number),
                "allowed_ip=10.77.%d.1/32" % number,
                "persistent_keepalive_interval=1",
            ),
        )
    )


def has_shaken_hands(machine: Host, name: str = "wg0") -> bool:
    answer = machine.run("python3", "/root/ask.py", name, "get=1").stdout
    return bool(re.search(r"last_handshake_time_sec=[1-9]", answer))


def main() -> int:
    with Machine(sys.argv[1] if len(sys.argv) > 1 else RELEASE) as machine:
        machine.bring()
        return subprocess.call([*machine.enter(), "sh", "-c", "cd /root/wg_monitor && exec bash -i"])


if __name__ == "__main__":
    sys.exit(main())
