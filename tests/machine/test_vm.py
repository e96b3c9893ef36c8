"""The service on a virtual machine: the kernel's WireGuard, the whole sandbox, steps of the clock, a reboot."""

import re
from typing import Iterator, List

import pytest

import test_machine
import vm
from harness import wait_for
from machine import CLIENT_PRIVATE, CLIENT_PUBLIC, SERVER_PRIVATE, SERVER_PUBLIC, Host, add_namespace
from test_machine import DEFAULTS, DROP_IN, INSTALL, PEER, SERVICE, TRAIL, Sandbox, events, lines, require
from vm import VirtualMachine

pytestmark = [pytest.mark.vm, pytest.mark.once]

SERVER = """
ip link add wg0 type wireguard
echo {private} > /run/key
wg set wg0 private-key /run/key listen-port 51821 peer {peer} allowed-ips 10.77.1.2/32
ip addr add 10.77.1.1/24 dev wg0
ip link set wg0 up
"""

CLIENT = """
ip -n client1 link add client type wireguard
echo {private} > /run/key
ip netns exec client1 wg set client private-key /run/key \\
    peer {peer} endpoint 192.0.2.5:51821 allowed-ips 10.77.1.1/32 persistent-keepalive 1
ip -n client1 link set client up
"""


def start_server(made: Host) -> None:
    add_namespace(made)
    made.shell(SERVER.format(private=SERVER_PRIVATE, peer=CLIENT_PUBLIC))


def start_client(made: Host) -> None:
    made.shell(CLIENT.format(private=CLIENT_PRIVATE, peer=SERVER_PUBLIC))


@pytest.fixture(scope="module")
def guest() -> Iterator[VirtualMachine]:
    """A machine with the service installed and a peer online on the kernel's wg0."""
    require(vm.missing(), vm.parts)
    with VirtualMachine() as made:
        made.shell("apt-get --quiet update && apt-get --quiet --yes install wireguard-tools")
        start_server(made)
        start_client(made)
        made.write(DEFAULTS, "INTERVAL=1\n")
        made.run(INSTALL)
        yield made


@pytest.fixture
def home(guest: VirtualMachine) -> VirtualMachine:
    """The guest with the service restarted on an empty trail and store."""
    guest.shell("systemctl stop wg-monitor; rm -rf %s /var/lib/wg-monitor/* %s" % (TRAIL, DROP_IN))
    guest.write(DEFAULTS, "INTERVAL=1\n")
    guest.shell("systemctl daemon-reload; systemctl start wg-monitor")
    wait_for("the peer", lambda: events(guest) == ["ONLINE [wg0] " + PEER])
    return guest


def warnings(made: Host) -> List[str]:
    return [line for line in lines(made) if line.startswith("[WARN]")]


def test_the_sandboxed_service_sees_the_kernels_peers(home: VirtualMachine) -> None:
    assert home.run("modinfo", "--field=intree", "wireguard").stdout == "Y\n"
    assert home.run("pgrep", "wireguard-go", check=False).stdout == ""
    assert home.property(SERVICE, "StatusText") == "1 of 1 peer online, 1 interface"


@pytest.mark.parametrize(
    "step",
    ["+1 hour", "-1 hour", "+1 year", "-2 years", "@86400", "+50 years"],
    ids=lambda step: step.replace(" ", "-"),
)
def test_a_step_of_the_clock_is_one_warning_and_no_event(home: VirtualMachine, step: str) -> None:
    before = float(home.run("date", "+%s").stdout)
    uptime = float(home.read("/proc/uptime").split()[0])
    try:
        home.run("date", "--set", step if step.startswith("@") else "now " + step)
        wait_for("the warning", lambda: warnings(home))
        home.shell("sleep 5")
        assert len(warnings(home)) == 1, warnings(home)
        assert events(home) == ["ONLINE [wg0] " + PEER]
        assert home.property(SERVICE, "StatusText") == "1 of 1 peer online, 1 interface"
    finally:
        now = before + float(home.read("/proc/uptime").split()[0]) - uptime
        home.run("date", "--set", "@%d" % now)


def test_an_instance_in_another_network_namespace_watches_the_wireguard_there(home: VirtualMachine) -> None:
    inside = "[Service]\nNetworkNamespacePath=/run/netns/client1\n"
    home.write("/etc/systemd/system/wg-monitor@client.service.d/container.conf", inside)
    home.shell("systemctl daemon-reload; systemctl start wg-monitor@client")
    trail = "/var/log/wg_monitor-client.log"
    wait_for("the peer", lambda: any("ONLINE  [client] " + SERVER_PUBLIC[:8] in line for line in lines(home, trail)))
    home.run("systemctl", "stop", "wg-monitor@client")
    assert events(home) == ["ONLINE [wg0] " + PEER]


def test_the_kernel_kills_only_the_hook_that_uses_all_the_memory(home: VirtualMachine) -> None:
    home.write("/usr/local/sbin/glutton", "#!/usr/bin/python3\nx = b'x' * (600 << 20)\n", 0o755)
    home.write(DEFAULTS, "INTERVAL=1\nSTATE_PATH=\nON_CHANGE_SCRIPT=/usr/local/sbin/glutton\n")
    home.run("systemctl", "restart", SERVICE)
    pid = home.property(SERVICE, "MainPID")
    wait_for("the end of the hook", lambda: re.search("WARN.*Hook for ONLINE .* SIGKILL", home.journal(SERVICE)))
    assert (home.property(SERVICE, "MainPID"), home.property(SERVICE, "NRestarts")) == (pid, "0")


def test_what_a_hook_may_do(home: VirtualMachine) -> None:
    sandbox = Sandbox(home)
    for name in test_machine.ALLOWED:
        rows = sandbox.under(name)
        assert {row for row in rows if rows[row].code == 0} == test_machine.ALLOWED[name], (name, rows)


def test_a_reboot_ends_the_session_and_keeps_the_peers(home: VirtualMachine) -> None:
    home.reboot()
    assert home.property(SERVICE, "ActiveState") == "active"
    wait_for("the end of the session", lambda: len(events(home)) == 2)
    start_server(home)
    wait_for("the interface", lambda: home.property(SERVICE, "StatusText") == "0 of 1 peer online, 1 interface")
    start_client(home)
    wait_for("the peer", lambda: len(events(home)) == 3)
    assert [event.split()[0] for event in events(home)] == ["ONLINE", "OFFLINE", "ONLINE"]
    assert len([line for line in lines(home) if re.search(r"\] new \(", line)]) == 1
