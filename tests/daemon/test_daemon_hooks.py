"""The hook as the daemon runs it: its events, its environment, its failures, and a restart."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import pytest

from device import PRIVATE_KEY, Peer, peer
from expected import console_oddities, now, short, told
from harness import (
    Place,
    alive,
    lines_of,
    wait_for,
)
from stores import ask, change
from wg_monitor import EVENT_KINDS, HOOK_DROPPED, HOOK_DUE, HOOK_NONE, HOOKS_WAITING_MAX


def recorder(place: Place, more: str = "") -> Tuple[Path, Callable[[], List[Dict[str, str]]]]:
    """A hook that records the environment of each run, and a function that reads the records."""
    kept = place.path / "kept"
    kept.mkdir()
    hook = place.script("hook", 'env -0 >%s/$PEER_SEQ.part && mv %s/$PEER_SEQ.part %s/$PEER_SEQ\n%s' % (kept, kept, kept, more))

    def runs() -> List[Dict[str, str]]:
        paths = sorted((path for path in kept.iterdir() if not path.suffix), key=lambda path: int(path.name))
        return [dict(pair.split("=", 1) for pair in path.read_text().split("\0") if pair) for path in paths]

    return hook, runs


IN_SESSION = {"TIME", "TEXT", "SESSION", "SESSION_START"}
OVER = IN_SESSION | {"REASON", "LAST_SEEN", "SESSION_SECONDS", "SESSION_RX", "SESSION_TX"}
MORE = (*OVER, "NAME", "NEW", "FIRST_SEEN", "PREVIOUS_ENDPOINT")
# Those that are not empty, if a peer that was new goes and is removed.
MORE_AT = {"ONLINE": IN_SESSION | {"NEW"}, "OFFLINE": OVER, "REMOVED": {"TIME", "TEXT"}}


def test_the_hooks_environment_has_the_event_and_nothing_else(place: Place) -> None:
    hook, runs = recorder(place)
    ips = "10.0.0.1/32,10.1.0.0/24,2001:db8::/64"
    one, offline = peer(1, now() - 175)._replace(allowed_ips=ips), peer(2)
    device = place.device(peers=[one, offline])
    monitor = place.start("--on-change-script", str(hook), environment={"SECRET": "inherited"})
    wait_for("two runs", lambda: len(runs()) == 2)
    device.publish([offline])
    wait_for("three runs", lambda: len(runs()) == 3)
    device.settle()
    monitor.stop()
    for run, event, online in zip(runs(), ("ONLINE", "OFFLINE", "REMOVED"), "100"):
        shell = {name: run.pop(name) for name in ("PWD", "SHLVL", "_", "OLDPWD") if name in run}  # set by the shell
        assert shell.get("PWD", "/") == "/"
        assert run.pop("PEER_SEQ").isdigit()
        facts = {name: run.pop("PEER_" + name) for name in MORE}
        assert {name for name, value in facts.items() if value} == MORE_AT[event]
        assert run == {
            "PATH": "/usr/bin:/usr/sbin:/bin:/sbin",
            "LANG": "C.UTF-8",
            "HOME": "/",
            "PEER_EVENT": event,
            "PEER_IFACE": "wg0",
            "PEER_PUBKEY": one.public_key,
            "PEER_ENDPOINT": one.endpoint,
            "PEER_ALLOWED_IPS": ips,
            "PEER_HANDSHAKE": str(one.handshake),
            "PEER_ONLINE": online,
        }
    assert len(runs()) == 3, "the hook ran for a peer that was offline from the start"


def test_thousands_of_allowed_ips_reach_the_hook_whole(place: Place) -> None:
    hook, runs = recorder(place)
    many = ",".join("10.1.%d.%d/32" % (i // 250, i % 250) for i in range(3000))
    place.device(peers=[peer(1, now())._replace(allowed_ips=many)])
    place.start("--on-change-script", str(hook))
    wait_for("a run", runs)
    assert runs()[0]["PEER_ALLOWED_IPS"] == many


def test_the_hook_runs_only_for_the_configured_events(place: Place) -> None:
    hook, runs = recorder(place)
    one = peer(1, now())
    device = place.device(peers=[one])
    events_wanted = "ROAMING,CHANGED,IFUP,IFDOWN"
    monitor = place.start("--on-change-script", str(hook), "--script-events", events_wanted)
    monitor.match("ONLINE .*")
    device.publish([one._replace(endpoint="198.51.100.1:1", allowed_ips="10.9.9.9/32")])
    monitor.match("CHANGED .*")
    device.close()
    monitor.match("IFDOWN .*")
    place.device("wg1")
    monitor.match("IFUP .*")
    wait_for("four runs", lambda: len(runs()) == 4)
    assert [(run["PEER_EVENT"], run["PEER_IFACE"]) for run in runs()] == [
        ("ROAMING", "wg0"),
        ("CHANGED", "wg0"),
        ("IFDOWN", "wg0"),
        ("IFUP", "wg1"),
    ]
    assert [run["PEER_PUBKEY"] for run in runs()] == [one.public_key, one.public_key, "", ""]


def test_the_hook_is_no_shell_has_no_input_and_a_session_of_its_own(place: Place) -> None:
    saw = place.path / "saw"
    look = "cat; echo $# $PWD; ls /proc/self/fd | tr '\\n' ' '; echo; echo $$; sed 's/.*) //' /proc/$$/stat"
    hook = place.script("a hook; touch x", "{ %s; } >%s.new; mv %s.new %s\n" % (look, saw, saw, saw))
    place.device(peers=[peer(1, now())])
    place.start("--on-change-script", str(hook))
    wait_for("the hook", saw.exists)
    arguments, descriptors, pid, status = saw.read_text().splitlines()
    assert arguments == "0 /"
    assert descriptors.split() == ["0", "1", "2", "3"], "more than the descriptor that ls opens"
    assert status.split()[3] == pid, "the hook does not lead a session"


def test_hooks_run_four_at_once_and_in_order_for_each_peer(place: Place) -> None:
    gate, log = place.path / "gate", place.path / "hook-log"
    wait = "while [ ! -e %s ]; do sleep 0.05; done" % gate
    hook = place.script("hook", "echo begin $PEER_PUBKEY $PEER_EVENT >>%s; %s; echo end >>%s\n" % (log, wait, log))
    crowd = [peer(number, now()) for number in range(6)]
    device = place.device(peers=crowd)
    monitor = place.start("--on-change-script", str(hook))
    wait_for("four hooks", lambda: len(lines_of(log)) == 4)
    device.publish(crowd[1:])
    monitor.match("REMOVED .*")  # readings continue
    device.publish(crowd)
    monitor.see(told("ONLINE", crowd[0], "new"), 2)
    device.settle()
    assert len(lines_of(log)) == 4
    gate.touch()
    wait_for("all hooks", lambda: lines_of(log).count("end") == 8)
    mine = [line.split()[2] for line in lines_of(log) if crowd[0].public_key in line]
    assert mine == ["ONLINE", "REMOVED", "ONLINE"]


def test_a_hook_that_takes_too_long_is_killed_with_its_children(place: Place) -> None:
    pids = place.path / "pids"
    hook = place.script("hook", "trap '' TERM; sleep 300 & echo $$ $! >%s; wait\n" % pids)
    place.device(peers=[peer(1, now())])
    monitor = place.start("--on-change-script", str(hook), "--script-timeout", "1")
    monitor.match(r"\[WARN\] Hook for ONLINE \[wg0\] %s took too long and was killed" % re.escape(short(peer(1))))
    wait_for("the end of the hook and its children", lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_a_failing_hook_is_reported_in_one_clean_bounded_line(place: Place) -> None:
    say = r"printf 'one\ntwo\033[2J\342\200\250%%s' %s; head -c 100000 /dev/zero | tr '\0' x" % PRIVATE_KEY
    hook = place.script("hook", say + "; exit 7\n")
    place.device(peers=[peer(1, now())])
    monitor = place.start("--on-change-script", str(hook))
    match = monitor.match(r"\[WARN\] Hook for ONLINE \[wg0\] .*")
    said = match.group().partition(" exited with status 7: ")[2]
    assert said.startswith("one two") and said.isprintable() and "\u2028" not in said
    assert PRIVATE_KEY not in said
    assert 3500 < len(said) <= 4096
    monitor.stop()
    assert not console_oddities(monitor)


def test_the_output_of_a_successful_hook_appears_only_with_debug(place: Place) -> None:
    hook = place.script("hook", "echo well done\n")
    one = peer(1, now())
    device = place.device(peers=[one])
    quiet = place.start("--on-change-script", str(hook))
    device.settle()
    quiet.stop()
    assert "well done" not in quiet.console_path.read_text()
    loud = place.start("--on-change-script", str(hook), "--debug")
    loud.hear(r"\[DEBUG\] Hook for ONLINE \[wg0\] .*: well done")


def test_a_grandchild_that_holds_the_hooks_output_delays_nobody(place: Place) -> None:
    pids = place.path / "pids"
    hook = place.script("hook", "echo started; sleep 300 & echo $! >>%s; exit 1\n" % pids)
    one = peer(1, now())
    device = place.device(peers=[one])
    monitor = place.start("--on-change-script", str(hook))
    try:
        monitor.match(r"\[WARN\] Hook for ONLINE \[wg0\] .* exited with status 1: started")
        device.publish([])
        monitor.match(r"\[WARN\] Hook for REMOVED \[wg0\] .* exited with status 1: started")
        assert monitor.stop() == 0
    finally:
        for pid in lines_of(pids):
            if alive(int(pid)):
                os.kill(int(pid), signal.SIGKILL)


def test_runs_wait_while_the_hook_is_unfit(place: Place) -> None:
    hook, runs = recorder(place)
    one, two = peer(1, now()), peer(2, now())
    device = place.device(peers=[one])
    monitor = place.start("--on-change-script", str(hook))
    wait_for("a run", runs)
    hook.chmod(0o777)
    for peers in ([], [one], [two]):
        device.publish(peers)
        device.settle()
    monitor.match(r"ONLINE .* %s .*" % re.escape(short(two)))
    assert len(runs()) == 1
    hook.chmod(0o755)
    wait_for("the other runs", lambda: len(runs()) == 5)
    told = [line for line in monitor.trail() if "The hook" in line]
    assert told[0] == "[WARN] The hook %s is not run: it is writable by others (mode 0777); its runs wait" % hook
    assert re.fullmatch(r"\[WARN\] The hook %s runs again after \d+s; 4 runs waited" % hook, told[1])
    assert len(told) == 2
    assert [run["PEER_EVENT"] for run in runs() if run["PEER_PUBKEY"] == one.public_key] == [
        "ONLINE",
        "REMOVED",
        "ONLINE",
        "REMOVED",
    ]
    assert monitor.stop() == 0
    assert not console_oddities(monitor)


def test_a_hook_that_the_kernel_refuses_is_tried_again_without_a_reading(place: Place) -> None:
    hook, runs = recorder(place)
    text = hook.read_text()
    hook.write_text("#!/no/such/interpreter\n")
    place.device(peers=[peer(1, now())])
    monitor = place.start("--on-change-script", str(hook), "--interval", "3600")
    monitor.match(r"\[WARN\] The hook \S+/hook is not run: No such file or directory.*; its runs wait")
    hook.write_text(text)
    monitor.match(r"\[WARN\] The hook \S+/hook runs again after \d+s; 1 run waited")
    wait_for("the run", runs)
    assert monitor.stop() == 0


def test_the_number_of_dropped_runs_is_reported_even_if_the_hook_never_runs_again(place: Place) -> None:
    hook = place.path / "hook"
    hook.write_text("#!/no/such/interpreter\n")
    hook.chmod(0o755)
    place.device(peers=[peer(number, now()) for number in range(HOOKS_WAITING_MAX + 5)])
    monitor = place.start("--on-change-script", str(hook))
    monitor.see("[WARN] More than 10000 hook runs are waiting: the oldest are dropped")
    assert monitor.stop() == 0
    warnings = [line for line in monitor.trail() if line.startswith("[WARN]")][-2:]
    assert warnings == ["[WARN] 5 hook runs were dropped", "[WARN] 10000 hook runs did not finish"]


# --- The delay ----------------------------------------------------------------------------------------------------


def gone(it: Peer) -> Peer:
    return it._replace(handshake=now() - 1000)


def back(it: Peer) -> Peer:
    return it._replace(handshake=now())


@pytest.mark.parametrize("chosen", ["ONLINE,OFFLINE,REMOVED", "OFFLINE,REMOVED"])
def test_a_peer_that_returns_within_the_delay_runs_no_hook(place: Place, chosen: str) -> None:
    """SIGKILL and a restart come between its absence and its return."""
    hook, runs = recorder(place)
    store = place.path / "state.db"
    flags = ["--state-path", str(store), "--on-change-script", str(hook), "--script-events", chosen]
    flags += ["--script-delay", "3600", "--debug"]
    one, two = peer(1, now()), peer(2, now())
    device = place.device(peers=[one, two])
    first = place.start(*flags)
    first.match("ONLINE .*")
    away = gone(two)
    device.publish([gone(one), away])
    first.match("OFFLINE .*%s.*" % re.escape(short(two)))
    device.settle()
    first.stop(signal.SIGKILL)
    second = place.start(*flags)
    second.match("Monitor started .*")
    device.publish([back(one), away])
    second.match(r"\[DEBUG\] No hook runs, since the peer returned in time: ONLINE .*%s.*" % re.escape(short(one)))
    device.publish([back(one)])
    wait_for("the other peer's runs", lambda: [r["PEER_EVENT"] for r in runs()][-2:] == ["OFFLINE", "REMOVED"])
    assert second.stop() == 0
    mine = [run["PEER_EVENT"] for run in runs() if run["PEER_PUBKEY"] == one.public_key]
    assert mine == ["ONLINE"] * ("ONLINE" in chosen)
    marks = dict(ask(store, "SELECT kind, hook FROM events WHERE public_key = ? ORDER BY seq", one.public_key))
    assert marks == {"ONLINE": HOOK_DROPPED if "ONLINE" in chosen else HOOK_NONE, "OFFLINE": HOOK_DROPPED}
    assert [run["PEER_EVENT"] for run in runs() if run["PEER_PUBKEY"] == two.public_key][-2:] == ["OFFLINE", "REMOVED"]


def test_the_loop_runs_the_hook_when_the_delay_is_over_without_a_reading(place: Place) -> None:
    hook, runs = recorder(place)
    flags = ["--on-change-script", str(hook), "--script-delay", "1", "--state-path", str(place.path / "state.db")]
    one = peer(1, now())
    device = place.device(peers=[one])
    first = place.start(*flags)
    first.await_("ONLINE", lambda: len(runs()) == 1)
    first.stop(signal.SIGKILL)
    device.publish([gone(one)])
    second = place.start(*flags, "--interval", "3600")
    second.match("OFFLINE .*")
    second.await_("OFFLINE", lambda: len(runs()) == 2)
    assert second.stop() == 0
    assert [run["PEER_EVENT"] for run in runs()] == ["ONLINE", "OFFLINE"]


@pytest.mark.parametrize("stored", [True, False], ids=["with a store", "without a store"])
def test_a_stop_says_that_a_run_was_held_back(place: Place, stored: bool) -> None:
    hook, runs = recorder(place)
    flags = ["--on-change-script", str(hook), "--script-delay", "3600"]
    flags += ["--state-path", str(place.path / "state.db")] if stored else []
    one = peer(1, now())
    device = place.device(peers=[one])
    monitor = place.start(*flags)
    monitor.await_("ONLINE", lambda: len(runs()) == 1)
    device.publish([gone(one)])
    monitor.match("OFFLINE .*")
    device.settle()
    assert monitor.stop() == 0
    said = [line for line in monitor.trail() if "hook run" in line]
    assert said == ["[WARN] 1 hook run held back" + (" for the next start" if stored else ", and lost without a store")]
    assert len(runs()) == 1


# --- Hooks after a restart ------------------------------------------------------------------------------------------


def test_a_run_after_a_crash_has_the_same_environment_for_every_kind_of_event(place: Place) -> None:
    """A power failure may lose the marks of the runs that are over: all of them run again."""
    hook, runs = recorder(place)
    store, kinds = place.path / "state.db", ",".join(EVENT_KINDS)
    flags = ["--state-path", str(store), "--on-change-script", str(hook), "--script-events", kinds]
    one, two = peer(1, now())._replace(rx=100, tx=50), peer(2, now())
    names = place.path / "names"
    names.write_text("%s alice-laptop\n" % one.public_key)
    flags += ["--peer-names", str(names)]
    device = place.device(peers=[one, two])
    first = place.start(*flags)
    first.match("ONLINE .* new .*")
    device.publish([one._replace(endpoint="198.51.100.1:1", rx=300), two._replace(allowed_ips="10.9.9.0/24")])
    first.match("CHANGED .*")
    device.publish([one._replace(endpoint="198.51.100.1:1", handshake=now() - 1000, rx=300, tx=60)])
    first.match("OFFLINE .*")
    place.device("wg1", [two])
    first.match("IFUP .*")
    device.close()
    first.match("IFDOWN .*")
    count = sum(" [wg" in line and "[WARN]" not in line for line in first.trail())
    first.await_("all runs", lambda: len(runs()) == count)
    assert {run["PEER_EVENT"] for run in runs()} == set(EVENT_KINDS)
    before = runs()
    assert {run["PEER_NAME"] for run in before} == {"alice-laptop", ""}
    first.stop(signal.SIGKILL)
    names.write_text("%s bob-laptop\n" % one.public_key)
    change(store, "UPDATE events SET hook = %d WHERE hook <> %d" % (HOOK_DUE, HOOK_NONE))
    for path in (place.path / "kept").iterdir():
        path.unlink()
    second = place.start(*flags)
    second.await_("all runs again", lambda: len(runs()) == count)
    assert runs() == before
    assert second.stop() == 0


def test_a_hook_that_was_cut_short_runs_again_with_the_same_number(place: Place) -> None:
    """Each hook runs at least once, even after SIGKILL, and PEER_SEQ identifies repeats. The next start runs the rest."""
    ran = place.path / "ran"
    hold = place.path / "hold"
    hold.touch()
    hook = place.script(
        "hook", 'echo "$PEER_SEQ $PEER_EVENT" >>%s; while [ -e %s ]; do sleep 0.1; done\n' % (ran, hold)
    )
    flags = ["--state-path", str(place.path / "state.db"), "--on-change-script", str(hook)]
    now = int(time.time())
    wg0 = place.device(peers=[peer(1, now)])
    first = place.start(*flags)
    first.await_("the hook", lambda: len(lines_of(ran)) == 1)
    wg0.publish([])
    first.match("REMOVED .*")  # its hook waits until the first one ends
    first.stop(signal.SIGKILL)
    hold.unlink()
    wg0.publish([])
    second = place.start(*flags)
    second.await_("both hooks", lambda: len(lines_of(ran)) == 3)
    assert second.stop() == 0
    once, again, next_ = lines_of(ran)
    assert once == again and once.endswith(" ONLINE") and next_.endswith(" REMOVED")
    third = place.start(*flags)
    wg0.settle()
    assert third.stop() == 0
    assert len(lines_of(ran)) == 3, "a finished hook ran again"


def test_hooks_that_did_not_run_before_the_end_run_after_the_next_start(place: Place) -> None:
    ran = place.path / "ran"
    hook = place.script("hook", 'echo "$PEER_SEQ" >>%s; [ -e %s/quick ] || sleep 1000\n' % (ran, place.path))
    flags = ["--state-path", str(place.path / "state.db"), "--on-change-script", str(hook)]
    now = int(time.time())
    place.device(peers=[peer(number, now) for number in range(7)])
    first = place.start(*flags)
    first.await_("four hooks", lambda: len(lines_of(ran)) == 4)
    assert first.stop() == 0
    assert "[WARN] 7 hook runs did not finish; they run again at the next start" in first.trail()
    (place.path / "quick").touch()
    second = place.start(*flags)
    second.await_("seven hooks", lambda: len(lines_of(ran)) == 11)
    assert second.stop() == 0
    assert sorted(set(lines_of(ran))) == sorted(lines_of(ran)[4:])


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_runs_that_wait_for_an_unfit_hook_survive_a_restart(place: Place, end: int) -> None:
    order = place.path / "order"
    hook, runs = recorder(place, "echo $PEER_EVENT >>%s" % order)
    flags = ["--state-path", str(place.path / "state.db"), "--on-change-script", str(hook)]
    one = peer(1, now())
    device = place.device(peers=[one])
    first = place.start(*flags)
    first.await_("a run", runs)
    hook.chmod(0o777)
    for peers in ([], [one], []):
        device.publish(peers)
        device.settle()
    first.await_("the last event", lambda: sum("REMOVED" in line for line in first.trail()) == 2)
    first.stop(end)
    hook.chmod(0o755)
    second = place.start(*flags)
    second.await_("the other runs", lambda: len(lines_of(order)) == 4)
    assert lines_of(order) == ["ONLINE", "REMOVED", "ONLINE", "REMOVED"]
    assert second.stop() == 0


def test_hooks_are_discarded_with_one_line_when_the_setting_is_removed(place: Place) -> None:
    hook = place.script("hook", "sleep 1000\n")
    store = ["--state-path", str(place.path / "state.db")]
    now = int(time.time())
    wg0 = place.device(peers=[peer(number, now) for number in range(3)])
    first = place.start(*store, "--on-change-script", str(hook))
    first.await_("three events", lambda: sum("ONLINE" in line for line in first.trail()) == 3)
    first.stop(signal.SIGKILL)
    second = place.start(*store)
    second.see("[WARN] 3 hook runs dropped: ON_CHANGE_SCRIPT is no longer set")
    wg0.settle()
    assert second.stop() == 0
    third = place.start(*store)
    third.hear("Monitor started .*")
    wg0.publish([])
    wg0.settle()
    assert third.stop() == 0
    assert sum("dropped" in line for line in third.trail()) == 1
