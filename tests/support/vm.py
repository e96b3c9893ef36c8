"""A virtual machine for the tests: Debian's own kernel with its WireGuard, systemd as process 1, a clock of its own.

qemu emulates the processor, so it needs no hardware support. The disk consists of the image of the throwaway machines and
a kernel. It is built once and kept in the user's cache; changes to it are discarded. An agent inside runs commands that
arrive on a serial line.
"""

import hashlib
import json
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from typing import NamedTuple, Optional, Sequence, Tuple

import machine
from machine import BASE, CACHE, MIRROR, RELEASE, SEARCH_PATH, Host, copy_project, retried

BOOT_S = 300
DISK = "3G"

AGENT = """
import base64, json, os, subprocess, tty

line = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
tty.setraw(line)
file = os.fdopen(line, "r+b", buffering=0)


def say(**message):
    data = json.dumps(message).encode() + b"\\n"
    while data:
        data = data[file.write(data):]


while True:
    request = b""
    while not request.endswith(b"\\n"):
        request += file.read(1)
    try:
        request = json.loads(request)
    except ValueError:
        continue  # sent before the line was raw
    try:
        done = subprocess.run(request["command"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=request["timeout"], env=request["environment"], cwd="/")
        say(id=request["id"], code=done.returncode, output=done.stdout.decode(errors="replace"))
    except (OSError, subprocess.TimeoutExpired) as error:
        say(id=request["id"], code=127, output=str(error))
"""

AGENT_UNIT = """
[Unit]
Description=Runs the commands of the tests
[Service]
Type=exec
ExecStart=/usr/bin/python3 /root/agent.py
[Install]
WantedBy=multi-user.target
"""


def missing() -> str:
    """Why no virtual machine can run here, or an empty string."""
    for tool in ("qemu-system-x86_64", "mke2fs"):
        if not shutil.which(tool):
            return "a virtual machine needs %s (apt-get install qemu-system-x86 e2fsprogs)" % tool
    return machine.missing()


class Parts(NamedTuple):
    disk: Path
    kernel: Path
    initrd: Path


def parts(release: str = RELEASE) -> Parts:
    """The parts of the virtual machine. The first call builds them."""
    bare = machine.image(release)
    recipe = (AGENT + AGENT_UNIT + DISK + " ".join(BASE)).encode()
    home = CACHE / ("vm-%s-%s" % (bare.name, hashlib.sha256(recipe).hexdigest()[:12]))
    if not home.is_dir():
        for outdated in CACHE.glob("vm-%s-*" % release):
            shutil.rmtree(str(outdated))
        building = CACHE / ("building-vm-" + release)
        shutil.rmtree(str(building), ignore_errors=True)
        build(bare, building)
        building.rename(home)
    return Parts(home / "disk", home / "kernel", home / "initrd")


def build(bare: Path, home: Path) -> None:
    root = home / "root"
    home.mkdir()
    subprocess.run(["cp", "--archive", str(bare), str(root)], check=True)
    sources = (root / "etc/apt/sources.list").read_text()
    (root / "etc/apt/sources.list").write_text("deb %s %s main\n" % (MIRROR, bare.name.split("-")[0]))
    shutil.copy("/etc/resolv.conf", str(root / "etc/resolv.conf"))
    apt = ["chroot", str(root), "apt-get", "--quiet", "--yes", "--no-install-recommends"]
    retried([*apt, "--option=Acquire::Check-Valid-Until=false", "update"])
    retried([*apt, "install", "linux-image-cloud-amd64", "initramfs-tools", "udev", "kmod", "zstd"])
    retried([*apt, "clean"])
    shutil.rmtree(str(root / "var/lib/apt/lists"))
    (root / "etc/apt/sources.list").write_text(sources)
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 0\n")
    (root / "root/agent.py").write_text(AGENT)
    (root / "etc/systemd/system/agent.service").write_text(AGENT_UNIT)
    for command in (["enable", "agent.service"], ["mask", "serial-getty@ttyS0.service", "apt-daily.timer"]):
        subprocess.run(["chroot", str(root), "systemctl", "--quiet", *command], check=True)
    for name in ("kernel", "initrd"):
        pattern = "boot/vmlinuz-*" if name == "kernel" else "boot/initrd.img-*"
        (found,) = root.glob(pattern)
        shutil.copy(str(found), str(home / name))
    make = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(home / "disk"), DISK]
    subprocess.run(make, check=True, env={"PATH": SEARCH_PATH})
    shutil.rmtree(str(root))


class VirtualMachine(Host):
    """A virtual machine, with the project in /root/wg_monitor."""

    def __init__(self, release: str = RELEASE) -> None:
        self.release = release
        self.requests = 0
        self.qemu: Optional["subprocess.Popen[bytes]"] = None

    def boot(self) -> None:
        made = parts(self.release)
        project = self.scratch / "project.tar"
        copy_project(self.scratch / "wg_monitor")
        with tarfile.open(str(project), "w") as archive:
            archive.add(str(self.scratch / "wg_monitor"), "wg_monitor")
        self.qemu = subprocess.Popen(
            [
                *"qemu-system-x86_64 -accel tcg,thread=multi -cpu qemu64,+cx16 -smp 2 -m 1024".split(),
                *["-display", "none", "-nic", "none", "-no-user-config", "-snapshot"],
                *["-kernel", str(made.kernel), "-initrd", str(made.initrd)],
                *["-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0"],
                *["-drive", "file=%s,format=raw,if=virtio" % made.disk],
                *["-drive", "file=%s,format=raw,if=virtio" % project],
                *["-serial", "file:%s" % self.console],
                *["-serial", "unix:%s,server=on,wait=off" % (self.scratch / "agent")],
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.await_boot()
        self.shell("tar --extract --file=/dev/vdb --directory=/root --no-same-owner")

    def halt(self) -> None:
        if self.qemu is not None:
            self.qemu.kill()
            self.qemu.wait()

    def await_boot(self) -> None:
        end = time.monotonic() + BOOT_S
        while time.monotonic() < end:
            if self.qemu is None or self.qemu.poll() is not None:
                break
            try:
                if "running" in self.execute(["systemctl", "is-system-running", "--wait"], 5)[1]:
                    return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError("the virtual machine did not boot:\n" + self.console_text())

    def reboot(self) -> None:
        before = self.read("/proc/sys/kernel/random/boot_id")
        self.run("systemctl", "reboot", "--no-block")
        end = time.monotonic() + BOOT_S
        while time.monotonic() < end:
            try:
                if self.execute(["cat", "/proc/sys/kernel/random/boot_id"], 5) not in ((0, before), (127, "")):
                    return self.await_boot()
            except OSError:
                time.sleep(0.5)
        raise RuntimeError("the virtual machine did not come back")

    def execute(self, command: Sequence[str], timeout: float) -> Tuple[int, str]:
        self.requests += 1
        environment = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "HOME": "/root", "TERM": "dumb"}
        request = {"id": self.requests, "command": list(command), "timeout": timeout, "environment": environment}
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(timeout + 5)
            line.connect(str(self.scratch / "agent"))
            line.sendall(json.dumps(request).encode() + b"\n")
            with line.makefile("rb") as answers:
                for raw in answers:
                    try:
                        answer = json.loads(raw)
                    except ValueError:
                        continue
                    if answer.get("id") == self.requests:
                        return int(answer["code"]), str(answer["output"])
        raise OSError("the virtual machine closed the line")
