"""The events: a scripted device changes, the real `wg` reads it, and the trail receives the line."""

import json
import re

from device import peer
from expected import MONITOR_STARTED, events, now, short, told
from harness import (
    Place,
    lines_of,
    local_time,
    wait_for,
)


def test_the_first_reading_reports_every_peer_as_online_or_offline(place: Place) -> None:
    there, gone, never = peer(1, now() - 5), peer(2, now() - 500), peer(3)._replace(endpoint="")
    device = place.device(peers=[there, gone, never])
    monitor = place.start()
    device.settle()
    assert monitor.stop() == 0
    told_first, *told_then, told_last = monitor.trail()
    assert told_first == MONITOR_STARTED
    assert told_then == [told("ONLINE", there, "new"), told("OFFLINE", gone, "new"), told("OFFLINE", never, "new")]
    assert re.fullmatch(r"Monitor stopped \| .*", told_last)


def test_an_online_peer_whose_handshake_ages_goes_offline_and_comes_back(place: Place) -> None:
    ageing = peer(1, now() - 176)
    device = place.device(peers=[ageing])
    monitor = place.start()
    monitor.see(told("ONLINE", ageing, "new"))
    monitor.see(told("OFFLINE", ageing))
    back = ageing._replace(handshake=now())
    device.publish([back])
    monitor.see(told("ONLINE", back))
    device.settle()
    assert events(monitor) == [told("ONLINE", ageing, "new"), told("OFFLINE", ageing), told("ONLINE", back)]


def test_another_address_is_roaming_and_another_port_is_no_event(place: Place) -> None:
    home = peer(1, now())._replace(endpoint="192.0.2.1:1000")
    device = place.device(peers=[home])
    monitor = place.start()
    monitor.see(told("ONLINE", home, "new"))
    device.publish([home._replace(endpoint="192.0.2.1:2000")])
    device.settle()
    away = home._replace(endpoint="[2001:db8::7]:3000")
    device.publish([away])
    monitor.see(told("ROAMING", away, "from 192.0.2.1:2000"))
    device.settle()
    assert len(events(monitor)) == 2


def test_different_allowed_ips_are_a_change_and_another_order_is_no_event(place: Place) -> None:
    one = peer(1, now())._replace(allowed_ips="10.0.0.1/32,10.0.0.2/32,10.1.0.0/24")
    device = place.device(peers=[one])
    monitor = place.start()
    line = "%-7s [wg0] " + short(one) + " (" + one.endpoint + ") [IPs: %s] %s"
    shaken = "new (handshake: %s)" % local_time(one.handshake)[11:]
    monitor.see(line % ("ONLINE", "10.0.0.1, 10.0.0.2", shaken))
    device.publish([one._replace(allowed_ips="10.0.0.2/32,10.0.0.1/32,10.1.0.0/24")])
    device.settle()
    device.publish([one._replace(allowed_ips="10.1.0.0/24")])
    monitor.see(line % ("CHANGED", "10.1.0.0/24", "from [IPs: 10.0.0.2, 10.0.0.1]"))
    device.publish([one._replace(allowed_ips="")])
    nothing = "CHANGED [wg0] %s (%s) [IP: N/A] from [IPs: 10.1.0.0/24]" % (short(one), one.endpoint)
    monitor.see(nothing)
    device.publish([one._replace(allowed_ips="2001:db8::1/128")])
    monitor.see(nothing.replace("[IP: N/A] from [IPs: 10.1.0.0/24]", "[IP: 2001:db8::1] from [IP: N/A]"))
    assert len(events(monitor)) == 4


def test_a_peer_taken_out_of_the_configuration_is_removed_and_then_new_again(place: Place) -> None:
    one, two, offline = peer(1, now()), peer(2, now()), peer(3)
    device = place.device(peers=[one, two, offline])
    monitor = place.start()
    monitor.see(told("OFFLINE", offline, "new"))
    device.publish([two])
    monitor.see(told("REMOVED", one))
    monitor.see(told("REMOVED", offline))
    device.publish([one, two])
    monitor.see(told("ONLINE", one, "new"), times=2)
    device.settle()
    assert len(events(monitor)) == 6


def test_an_interface_goes_with_its_peers_and_returns(place: Place) -> None:
    online, offline, other = peer(1, now()), peer(2), peer(3, now())
    place.device("wg1", [other])
    monitor = place.start()
    monitor.see(told("ONLINE", other, "new", "wg1"))
    device = place.device("wg0", [online, offline])
    monitor.see("IFUP    [wg0] 2 peers")
    monitor.see(told("ONLINE", online, "new"))
    device.close()
    monitor.see("IFDOWN  [wg0] 2 peers, 1 was online")
    monitor.see(told("OFFLINE", online))
    again = online._replace(handshake=0, endpoint="")  # a new interface knows no handshake
    device = place.device("wg0", [again, offline])
    monitor.see("IFUP    [wg0] 2 peers", times=2)
    device.settle()
    device.publish([online._replace(handshake=online.handshake + 1), offline])
    monitor.see(told("ONLINE", online._replace(handshake=online.handshake + 1)))
    device.settle()
    kinds = [text.split()[0] for text in events(monitor)]
    assert kinds == "ONLINE IFUP ONLINE OFFLINE IFDOWN OFFLINE IFUP ONLINE".split()


def test_a_handshake_reset_to_never_ends_the_session_and_the_line_keeps_the_last_one(place: Place) -> None:
    one = peer(1, now())
    device = place.device(peers=[one])
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    device.publish([one._replace(handshake=0)])
    monitor.see(told("OFFLINE", one))
    device.settle()
    assert len(events(monitor)) == 2


def test_an_interface_that_cannot_be_read_keeps_its_peers(place: Place) -> None:
    good, unknown = peer(1, now()), peer(2, now() - 174)
    place.device("wg0", [good])
    device = place.device("wg1", [unknown])
    monitor = place.start()
    monitor.see(told("ONLINE", unknown, "new", "wg1"))
    device.fail(5)
    monitor.match(r"\[WARN\] \[wg1\] cannot be read.*")
    wait_for("the age of offline", lambda: now() > unknown.handshake + 182)
    assert "OFFLINE" not in " ".join(events(monitor))
    back = unknown._replace(handshake=now())
    device.publish([back])
    monitor.match(r"\[WARN\] \[wg1\] can be read again after \d+s")
    device.settle()
    assert [text.split()[0] for text in events(monitor)] == ["ONLINE", "ONLINE", "[WARN]", "[WARN]"]


def test_only_peers_of_the_configured_interfaces_are_reported(place: Place) -> None:
    mine, strange = peer(1, now()), peer(2, now())
    place.device("wg0", [mine])
    other = place.device("wg1", [strange])
    monitor = place.start("--interface", "wg0")
    monitor.see(told("ONLINE", mine, "new"))
    other.settle()
    other.close()
    monitor.stop()
    assert monitor.trail()[0] == MONITOR_STARTED + ", Interface: wg0"
    assert events(monitor) == [told("ONLINE", mine, "new")]


def test_a_missing_interface_is_one_warning_and_no_exit(place: Place) -> None:
    place.device("wg1")
    monitor = place.start("--interface", "wg0")
    monitor.match(r"\[WARN\] \[wg0\] no such WireGuard interface yet.*")
    one = peer(1, now())
    device = place.device("wg0", [one])
    monitor.see("IFUP    [wg0] 1 peer")
    monitor.see(told("ONLINE", one, "new"))
    device.settle()
    assert len([text for text in events(monitor) if text.startswith("[WARN]")]) == 1
    assert monitor.stop() == 0


def test_a_reading_without_interfaces_is_valid(place: Place) -> None:
    place.wg("printf ''")
    monitor = place.start()
    place.settle()
    assert monitor.stop() == 0
    assert events(monitor) == []


def test_without_a_store_every_peer_is_new_after_a_restart(place: Place) -> None:
    one = peer(1, now())
    place.device(peers=[one])
    for times in (1, 2):
        monitor = place.start()
        monitor.see(told("ONLINE", one, "new"), times)
        assert monitor.stop() == 0
    assert len(lines_of(place.trail)) == 6


def test_with_liveness_traffic_received_bytes_keep_a_peer_online(place: Place) -> None:
    one = peer(1, now() - 177)._replace(rx=1000)
    device = place.device(peers=[one])
    monitor = place.start("--liveness", "traffic")
    monitor.see(told("ONLINE", one, "new"))
    device.publish([one._replace(rx=2000)])
    device.settle()
    wait_for("the handshake's old age", lambda: now() > one.handshake + 182)
    device.publish([one._replace(rx=2000)])
    device.settle()
    assert events(monitor) == [told("ONLINE", one, "new")]


def test_json_has_the_whole_key_and_a_number_for_each_line(place: Place) -> None:
    one = peer(1, now() - 176)
    place.device(peers=[one])
    monitor = place.start("--log-format", "json")
    wait_for("OFFLINE", lambda: any('"OFFLINE"' in line for line in lines_of(place.trail)))
    monitor.stop()
    lines = [json.loads(line) for line in lines_of(place.trail)]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["event"] for line in lines] == ["START", "ONLINE", "OFFLINE", "STOP"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", line["time"]) for line in lines)
    offline = lines[2]
    assert (offline["interface"], offline["peer"], offline["endpoint"]) == ("wg0", one.public_key, one.endpoint)
    assert (offline["allowed_ips"], offline["online"], offline["reason"]) == (one.allowed_ips, False, "idle")


def test_thousands_of_allowed_ips_are_one_bounded_line(place: Place) -> None:
    many = ",".join("10.1.%d.%d/32" % (i // 250, i % 250) for i in range(3000))
    place.device(peers=[peer(1, now())._replace(allowed_ips=many)])
    monitor = place.start()
    match = monitor.match(r"ONLINE  \[wg0\] .*")
    assert len(match.group()) < 1000
    assert monitor.stop() == 0
