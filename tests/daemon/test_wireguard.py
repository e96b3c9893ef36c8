"""Real peers connect and leave, and the trail reports it."""

import os
import re
import signal
from typing import List

import pytest

from device import peer
from expected import now, told
from harness import Place, Tunnel, wait_for

STAMP = r"(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d"  # around midnight, a handshake has its date


@pytest.fixture
def tunnel(place: Place) -> Tunnel:
    return Tunnel(place)


def line(kind: str, tunnel: Tunnel, rest: str, address: str = Tunnel.CLIENT) -> str:
    """The regular expression of a line about the client."""
    key = tunnel.client.public_key
    head = "%-7s [%s] %s...%s (%s:51820) [IP: %s]" % (
        kind,
        tunnel.name,
        key[:8],
        key[-8:],
        address,
        Tunnel.TUNNEL_CLIENT,
    )
    return re.escape(head) + rest


def test_a_peer_connects_goes_silent_comes_back_and_is_removed(place: Place, tunnel: Tunnel) -> None:
    tunnel.admit()
    monitor = place.start("--liveness", "traffic", "--threshold", "5")
    key = tunnel.client.public_key
    monitor.see(
        "OFFLINE [%s] %s...%s (N/A) [IP: %s] new (handshake: Never)"
        % (tunnel.name, key[:8], key[-8:], Tunnel.TUNNEL_CLIENT)
    )
    tunnel.connect()
    shaken = r" \(handshake: %s\)" % STAMP
    monitor.match(line("ONLINE", tunnel, shaken))
    tunnel.silence()
    monitor.match(line("OFFLINE", tunnel, shaken))
    tunnel.restore()
    wait_for("the second ONLINE", lambda: len(online_lines(monitor.trail())) == 2)
    tunnel.remove()
    monitor.match(line("REMOVED", tunnel, shaken))
    assert monitor.stop() == 0
    kinds = [text.split()[0] for text in monitor.trail()[1:-1]]
    assert kinds == ["OFFLINE", "ONLINE", "OFFLINE", "ONLINE", "REMOVED"]


def online_lines(trail: List[str]) -> List[str]:
    return [text for text in trail if text.startswith("ONLINE")]


def test_with_liveness_handshake_a_silent_peer_goes_offline_until_its_next_handshake(
    place: Place, tunnel: Tunnel
) -> None:
    tunnel.admit()
    tunnel.connect()
    first = wait_for("a handshake", tunnel.handshake)
    monitor = place.start("--threshold", "8")
    monitor.match(line("ONLINE", tunnel, r" new \(handshake: %s\)" % STAMP))
    tunnel.silence()
    monitor.match(line("OFFLINE", tunnel, r" \(handshake: %s\)" % STAMP))
    tunnel.restore()
    tunnel.connect()
    wait_for("another handshake", lambda: tunnel.handshake() > first)
    monitor.match(line("ONLINE", tunnel, r" \(handshake: %s\)" % STAMP))
    assert monitor.stop() == 0


def test_a_peer_that_changes_its_address_while_online_roams(place: Place, tunnel: Tunnel) -> None:
    tunnel.admit()
    tunnel.connect()
    monitor = place.start()
    monitor.match(line("ONLINE", tunnel, r" (?:new )?\(handshake: %s\)" % STAMP))
    tunnel.move("192.0.2.3")
    monitor.match(line("ROAMING", tunnel, re.escape(" from %s:51820" % Tunnel.CLIENT), "192.0.2.3"))
    assert monitor.stop() == 0
    assert not [text for text in monitor.trail() if text.startswith("OFFLINE") and " new " not in text]


def test_an_interface_that_is_deleted_takes_its_online_peers_with_it(place: Place, tunnel: Tunnel) -> None:
    tunnel.admit()
    tunnel.connect()
    monitor = place.start("--interface", tunnel.name)
    monitor.match(line("ONLINE", tunnel, r" (?:new )?\(handshake: %s\)" % STAMP))
    tunnel.server.inside("ip", "link", "delete", tunnel.name)
    monitor.see("IFDOWN  [%s] 1 peer, 1 was online" % tunnel.name)
    monitor.match(line("OFFLINE", tunnel, r" \(handshake: %s\)" % STAMP))
    assert not [text for text in monitor.trail() if text.startswith("REMOVED")]
    tunnel.server.down()
    tunnel.server.up(Tunnel.TUNNEL_SERVER + "/24")
    monitor.see("IFUP    [%s] 0 peers" % tunnel.name)
    assert monitor.stop() == 0


def test_an_interface_that_is_set_down_still_exists(place: Place, tunnel: Tunnel) -> None:
    """`ip link set down` stops the traffic, but `wg` still shows the interface and its peers."""
    tunnel.admit()
    tunnel.connect()
    monitor = place.start("--threshold", "8")
    monitor.match(line("ONLINE", tunnel, r" (?:new )?\(handshake: %s\)" % STAMP))
    tunnel.server.inside("ip", "link", "set", tunnel.name, "down")
    monitor.match(line("OFFLINE", tunnel, r" \(handshake: %s\)" % STAMP))
    assert monitor.stop() == 0
    assert not [text for text in monitor.trail() if text.startswith("IFDOWN")]


def test_a_wireguard_go_that_is_stopped_hides_no_other_interface(place: Place, tunnel: Tunnel) -> None:
    tunnel.admit()
    one = peer(1, now())
    wg0 = place.device("wg0", [one])
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    assert tunnel.server.process is not None
    os.killpg(tunnel.server.process.pid, signal.SIGSTOP)
    try:
        monitor.match(r"\[WARN\] \[%s\] cannot be read: .*" % tunnel.name)
        moved = one._replace(endpoint="198.51.100.7:1")
        wg0.publish([moved])
        monitor.see(told("ROAMING", moved, "from " + one.endpoint))
    finally:
        os.killpg(tunnel.server.process.pid, signal.SIGCONT)
    monitor.match(r"\[WARN\] \[%s\] can be read again after \d+s" % tunnel.name)
    tunnel.connect()
    monitor.match(line("ONLINE", tunnel, r" \(handshake: %s\)" % STAMP))
    assert monitor.stop() == 0
