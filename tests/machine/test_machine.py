"""The service on a machine with systemd: installation, operation, rotation, upgrade and removal."""

import json
import random
import re
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import pytest

import machine
import wg_monitor
from harness import lacking, wait_for
from machine import CLIENT_PUBLIC, PROJECT, Host, Machine
from metrics import Samples, family, labels, one, samples_of
from settings_files import ALIKE

pytestmark = [pytest.mark.machine, pytest.mark.once]

SERVICE = "wg-monitor.service"
TRAIL = "/var/log/wg_monitor.log"
DEFAULTS = "/etc/default/wg-monitor"
DROP_IN = "/etc/systemd/system/wg-monitor.service.d/test.conf"
INSTALL = "/root/wg_monitor/install.sh"
PEER = CLIENT_PUBLIC[:8] + "..." + CLIENT_PUBLIC[-8:]
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture
def bare() -> Iterator[Machine]:
    """A new machine without `wg`, with the project in /root and one online peer on wg0."""
    with fresh() as made:
        yield made


@pytest.fixture
def home(bare: Machine) -> Machine:
    """The same machine with the service installed and running, with a reading each second."""
    bare.write(DEFAULTS, "INTERVAL=1\n")
    bare.run(INSTALL)
    return bare


def require(why_not: str, build: Callable[[], object]) -> None:
    """`why_not` says what is missing here, if anything. `build` creates what the machine boots from."""
    if why_not:
        lacking(why_not)
    try:
        build()
    except RuntimeError as failure:
        lacking("the machine cannot be built: %s" % failure)


@contextmanager
def fresh() -> Iterator[Machine]:
    require(machine.missing(), machine.image)
    with Machine() as made:
        made.bring()
        machine.start_server(made)
        machine.start_client(made)
        wait_for("a handshake", lambda: machine.has_shaken_hands(made))
        yield made


def lines(made: Host, trail: str = TRAIL) -> List[str]:
    """The lines of a trail without their time stamps."""
    return [re.sub("^" + STAMP, "", line) for line in made.read(trail).splitlines()]


def events(made: Host, trail: str = TRAIL) -> List[str]:
    """Kind, interface and peer of the lines about peers."""
    return [" ".join(line.split()[:3]) for line in lines(made, trail) if PEER in line]


def invocation(made: Host, unit: str = SERVICE) -> str:
    return made.property(unit, "InvocationID")


def drop_in(made: Host, *settings: str) -> None:
    made.write(DROP_IN, "\n".join(("[Service]", *settings, "")))
    made.run("systemctl", "daemon-reload")


EVERYTHING = """
find / -xdev \\( -path /root -o -path /var/log/journal -o -path /var/lib/systemd -o -path /var/cache -o -path /srv \\) \\
    -prune -o ! -path '*/__pycache__*' -printf '%s\\n' | sort
"""


def files(made: Machine, form: str = "%p") -> Set[str]:
    return set(made.shell(EVERYTHING % form).splitlines())


# --- The installer ------------------------------------------------------------------------------------------------


def test_one_command_on_a_bare_system_ends_with_a_peer_in_the_trail(bare: Machine) -> None:
    assert bare.run("sh", "-c", "command -v wg", check=False).returncode != 0
    output = bare.shell("cd / && " + INSTALL)
    assert "Active: active (running)" in output
    assert 'Status: "1 of 1 peer online, 1 interface"' in output

    started, online = bare.read(TRAIL).splitlines()
    assert re.match(STAMP + r"Monitor started \| Interval: 30s, Threshold: 180s, Stats: 3600s$", started)
    pattern = STAMP + r"ONLINE  \[wg0\] %s \(192\.0\.2\.6:\d+\) \[IP: 10\.77\.1\.2\] new \(handshake: \d\d:\d\d:\d\d\)$"
    assert re.match(pattern % re.escape(PEER), online), online
    assert lines(bare)[1] in bare.journal(SERVICE).splitlines()

    assert bare.property(SERVICE, "UnitFileState") == "enabled"
    assert bare.shell("stat --format='%a %U:%G' " + TRAIL) == "640 root:adm\n"
    assert bare.run("wg-monitor", "--version").stdout.startswith("wg_monitor ")


def test_a_second_run_changes_and_restarts_nothing(home: Machine) -> None:
    def state() -> Set[str]:
        # The running service changes its own files. /tmp and /run belong to everyone; of /run, only its own line is listed.
        moving = ("/var/log", "/var/lib/wg-monitor", "/tmp", "/run ")
        return {line for line in files(home, "%p %i %m %U %G %s %T@") if not line.startswith(moving)}

    before, running = state(), invocation(home)
    assert "is already running, and nothing has changed" in home.run(INSTALL).stdout
    assert state() ^ before == set()
    assert invocation(home) == running


def test_a_second_run_makes_root_the_owner_again_and_restarts(home: Machine) -> None:
    names = "/opt/wg-monitor /opt/wg-monitor/__pycache__ /opt/wg-monitor/wg_monitor.py /usr/local/bin/wg-monitor"
    before, running = home.shell("stat --format='%n %U:%G %a' " + names), invocation(home)
    home.shell("chown nobody:nogroup " + names)
    output = home.run(INSTALL).stdout
    assert output.count("corrected the owner and mode of ") == 3 and "removed /opt/wg-monitor/__pycache__: " in output
    assert home.shell("stat --format='%n %U:%G %a' " + names) == before
    assert invocation(home) != running
    assert events(home) == ["ONLINE [wg0] " + PEER]


def test_an_upgrade_keeps_the_settings_restarts_once_and_reports_no_false_event(home: Machine) -> None:
    home.run("systemctl", "start", "wg-monitor@wg0")
    before = invocation(home), invocation(home, "wg-monitor@wg0")
    home.shell("cd /root/wg_monitor && echo '# newer' | tee -a wg_monitor.py >> wg-monitor.default")
    output = home.run(INSTALL).stdout

    assert home.read(DEFAULTS) == "INTERVAL=1\n"
    assert home.read(DEFAULTS + ".dpkg-dist").endswith("\n# newer\n")
    assert "kept %s as it is" % DEFAULTS in output
    after = invocation(home), invocation(home, "wg-monitor@wg0")
    assert before[0] != after[0] and before[1] != after[1]
    assert [line.split(" |")[0] for line in lines(home) if "Monitor" in line] == [
        "Monitor started",
        "Monitor stopped",
        "Monitor started",
    ]
    assert events(home) == ["ONLINE [wg0] " + PEER]
    assert events(home, "/var/log/wg_monitor-wg0.log") == ["ONLINE [wg0] " + PEER]


def test_an_upgrade_does_not_start_a_service_that_was_disabled_in_favour_of_instances(home: Machine) -> None:
    home.run("systemctl", "disable", "--now", SERVICE)
    home.run("systemctl", "enable", "--now", "wg-monitor@wg0")
    before = invocation(home, "wg-monitor@wg0")
    home.shell("echo '# newer' >> /root/wg_monitor/wg_monitor.py")
    assert "stays disabled, because instances are running" in home.run(INSTALL).stdout
    assert home.property(SERVICE, "ActiveState") == "inactive"
    assert invocation(home, "wg-monitor@wg0") != before


def test_uninstall_leaves_what_it_lists_and_purge_leaves_nothing(bare: Machine) -> None:
    bare.shell("apt-get --quiet update; apt-get --quiet --yes install wireguard-tools")
    before = files(bare)
    bare.run(INSTALL)
    bare.run("systemctl", "enable", "--now", "wg-monitor@wg0")
    bare.run("systemctl", "start", "wg-monitor@wg7")

    output = bare.run(INSTALL, "--uninstall").stdout

    kept = {line.split()[1] for line in output.splitlines() if line.startswith("left ")}
    assert kept == {
        DEFAULTS,
        "/var/lib/wg-monitor",
        *("/var/log/wg_monitor%s.log" % name for name in ("", "-wg0", "-wg7")),
        *("/var/log/.wg_monitor%s.log.lock" % name for name in ("", "-wg0", "-wg7")),
    }
    left = {name for name in files(bare) - before if not name.startswith("/var/lib/wg-monitor/")}
    assert left == kept
    assert before <= files(bare)
    assert bare.run("systemctl", "list-units", "--all", "--no-legend", "wg-monitor*.service").stdout == ""
    assert bare.run("pgrep", "--full", "bin/wg-monitor", check=False).stdout == ""

    bare.run(INSTALL, "--uninstall", "--purge")
    assert files(bare) == before


def test_no_deps_reports_what_is_missing_and_does_not_start(bare: Machine) -> None:
    output = bare.run(INSTALL, "--no-deps").stdout
    assert "missing, and not installed because of --no-deps: wireguard-tools\n" in output
    assert bare.property(SERVICE, "ActiveState") == "inactive"
    assert bare.property(SERVICE, "UnitFileState") == "disabled"
    assert bare.path("/opt/wg-monitor/wg_monitor.py").exists()


def test_no_start_installs_the_files_and_a_later_run_starts(bare: Machine) -> None:
    bare.run(INSTALL, "--no-start")
    assert bare.property(SERVICE, "ActiveState") == "inactive"
    bare.run(INSTALL)
    assert bare.property(SERVICE, "ActiveState") == "active"


def test_without_systemd_the_installer_says_how_to_run_by_hand(bare: Machine) -> None:
    bare.write(DEFAULTS, "INTERVAL=1\nLOG_FORMAT=json\n")
    hide = "mount -t tmpfs none /run/systemd; mount --bind /dev/null /usr/bin/systemctl; "
    output = bare.run("unshare", "--mount", "sh", "-ec", hide + INSTALL).stdout
    assert "systemd is not running, so nothing was started" in output
    assert not bare.path("/etc/systemd/system/" + SERVICE).exists()
    by_hand = re.search(r"^  (set -a; .*--from-environment)  ", output, re.M)
    assert by_hand, output
    bare.run("timeout", "--preserve-status", "3", "sh", "-c", by_hand.group(1))
    assert "ONLINE" in {json.loads(line)["event"] for line in bare.read(TRAIL).splitlines()}


# --- Instances ----------------------------------------------------------------------------------------------------


def test_an_instance_works_without_a_file_of_its_own_beside_the_service(home: Machine) -> None:
    machine.start_server(home, "wg1", 2)
    home.run("systemctl", "start", "wg-monitor@wg0")
    trail = "/var/log/wg_monitor-wg0.log"
    assert lines(home, trail)[0].endswith(", Interface: wg0")
    assert events(home, trail) == ["ONLINE [wg0] " + PEER]
    wait_for("both interfaces' peers", lambda: len(events(home)) == 2)
    assert {line.split()[1] for line in events(home)} == {"[wg0]", "[wg1]"}
    assert home.property(SERVICE, "StatusText") == "1 of 2 peers online, 2 interfaces"
    assert home.property("wg-monitor@wg0", "StatusText") == "1 of 1 peer online, 1 interface"


def test_an_instances_own_file_overrides_any_setting(home: Machine) -> None:
    machine.start_server(home, "wg1", 2)
    home.write(DEFAULTS + "-wg0", "INTERFACE=\nLOG_PATH=/var/log/everything.log\nLOG_FORMAT=json\nSTATE_PATH=\n")
    home.run("systemctl", "start", "wg-monitor@wg0")
    records = [json.loads(line) for line in home.read("/var/log/everything.log").splitlines()]
    assert {record.get("interface") for record in records if "peer" in record or "key" in record} <= {"wg0", "wg1"}
    assert home.property("wg-monitor@wg0", "StatusText") == "1 of 2 peers online, 2 interfaces"
    assert not home.path("/var/log/wg_monitor-wg0.log").exists()
    assert not home.path("/var/lib/wg-monitor/state-wg0.db").exists()


def test_an_instance_warns_once_about_a_missing_interface_and_waits_for_it(home: Machine) -> None:
    home.write(DEFAULTS + "-wg-7", "INTERVAL=1\n")
    home.run("systemctl", "start", "wg-monitor@wg-7")
    trail = "/var/log/wg_monitor-wg-7.log"
    pid = home.property("wg-monitor@wg-7", "MainPID")
    home.shell("sleep 3")
    warnings = [line for line in lines(home, trail) if line.startswith("[WARN]")]
    assert len(warnings) == 1 and "wg-7" in warnings[0]
    in_journal = home.journal("wg-monitor@wg-7", "--priority=warning").splitlines()
    assert in_journal == warnings
    machine.start_server(home, "wg-7", 2)
    wait_for("IFUP", lambda: any(line.startswith("IFUP    [wg-7]") for line in lines(home, trail)))
    assert home.property("wg-monitor@wg-7", "MainPID") == pid


# --- The command check --------------------------------------------------------------------------------------------


def test_check_reads_what_the_running_service_reads_and_names_it(home: Machine) -> None:
    home.run("systemctl", "start", "wg-monitor@wg0")
    for unit, arguments, suffix in ((SERVICE, [], ""), ("wg-monitor@wg0", ["wg0"], "-wg0")):
        found = home.run("wg-monitor", "check", *arguments).stdout.splitlines()
        assert all(line.startswith("ok ") for line in found)
        things = dict(line.split(None, 2)[1:] for line in found)
        used = r", in use by process %s \(\S+\)" % home.property(unit, "MainPID")
        assert things["reading"] == "wg0; 1 peer"
        assert re.fullmatch("/var/lib/wg-monitor/state%s.db" % suffix + used, things["store"])
        assert re.fullmatch("/var/log/wg_monitor%s.log" % suffix + "(%s)?" % used, things["trail"])
    home.run("systemctl", "stop", SERVICE, "wg-monitor@wg0")
    assert "in use" not in home.run("wg-monitor", "check").stdout


def test_check_reports_what_the_service_is_refused_for(home: Machine) -> None:
    home.write(DEFAULTS, "INTERVAL=0\nINTERVALL=5\nTHRESHOLD=abc\n")
    assert home.run("systemctl", "restart", SERVICE, check=False).returncode != 0
    done = home.run("wg-monitor", "check", check=False)
    assert done.returncode == 2
    assert [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("FAIL ")] == [
        ["file", "line"], ["settings", "INTERVAL:"], ["settings", "THRESHOLD:"],
    ]  # fmt: skip


# Each file is read by a service of its own.
CORPUS = """
[Service]
Type=oneshot
EnvironmentFile=/root/corpus/%i
ExecStart=/usr/bin/env -0
StandardOutput=file:/root/read/%i
"""


def random_files(number: int) -> Iterator[Tuple[str, Dict[str, str]]]:
    """Random settings files that `check` accepts, and what it reads."""
    chance = random.Random(number)
    pieces = "a b A = A= B= \nA= \nB= ' ' \" \" \\ \\\n \n # $ ; ~ : ! { } * % ü 状态 \\\\ \\' \\\"".split(" ") + [" ", "\t"]
    while number:
        text = "A=" + "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 9)))
        found = list(wg_monitor.assignments(text))
        if all(name for _, name, _ in found):
            number -= 1
            yield text, {name: value for _, name, value in found}


def test_systemd_reads_alike_what_check_accepts(bare: Machine) -> None:
    cases = [(line.text, line.values) for line in ALIKE]
    cases += [(text.encode(), values) for text, values in random_files(300)]
    bare.write("/etc/systemd/system/corpus@.service", CORPUS)
    bare.shell("mkdir -p /root/corpus /root/read; systemctl daemon-reload")
    for number, (text, _) in enumerate(cases):
        bare.path("/root/corpus/%d" % number).write_bytes(text)
    bare.shell("cd /root/corpus; ls | sed 's/.*/corpus@&.service/' | xargs -n 20 systemctl start", timeout=120)
    for number, (text, values) in enumerate(cases):
        entries = bare.path("/root/read/%d" % number).read_bytes().decode().split("\0")[:-1]
        read = dict(entry.split("=", 1) for entry in entries)
        assert {name: value for name, value in read.items() if len(name) == 1 or name in values} == values, text


# --- Failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "code"),
    [("INTERVAL=0", 2), ("INTERVAL=1 # a comment", 2), ("LOG_PATH=/etc/trail", 2), ("ON_CHANGE_SCRIPT=/gone", 2)],
)
def test_an_invalid_setting_fails_the_unit_with_one_line_and_no_restart(home: Machine, setting: str, code: int) -> None:
    home.write(DEFAULTS, setting + "\n")
    assert home.run("systemctl", "restart", SERVICE, check=False).returncode != 0
    # A unit that systemd will restart is "activating", not "failed".
    assert home.property(SERVICE, "ActiveState") == "failed"
    assert home.property(SERVICE, "ExecMainStatus") == str(code)
    assert home.property(SERVICE, "NRestarts") == "0"
    said = home.journal(SERVICE, "--identifier=wg-monitor", "_SYSTEMD_INVOCATION_ID=" + invocation(home)).splitlines()
    assert len(said) == 1 and setting.split("=")[0] in said[0], said


def test_a_missing_wg_fails_the_unit_without_a_restart(home: Machine) -> None:
    home.run("systemctl", "stop", SERVICE)
    home.shell("rm /usr/bin/wg")
    home.run("systemctl", "start", SERVICE, check=False)
    assert home.property(SERVICE, "ActiveState") == "failed"
    assert home.property(SERVICE, "ExecMainStatus") == "5"


def test_a_crash_is_followed_by_a_restart_and_no_false_event(home: Machine) -> None:
    home.run("systemctl", "kill", "--signal=SIGKILL", SERVICE)
    wait_for("the restart", lambda: home.property(SERVICE, "NRestarts") == "1")
    wait_for("the service", lambda: home.property(SERVICE, "ActiveState") == "active")
    assert events(home) == ["ONLINE [wg0] " + PEER]


ESCAPE = """#!/bin/sh
setsid sh -c 'echo $$ >/var/lib/wg-monitor/left; exec sleep 1000' &
sleep 1000 &
echo $! >/var/lib/wg-monitor/stayed
wait
"""


ENDS = ["systemctl stop wg-monitor", "kill -KILL $(systemctl show --value --property=MainPID wg-monitor)"]


@pytest.mark.parametrize("end", ENDS, ids=["stopped", "killed"])
def test_a_process_that_left_its_hook_has_the_limits_of_the_service_and_ends_with_it(home: Machine, end: str) -> None:
    home.write("/usr/local/sbin/hook", ESCAPE, 0o755)
    home.write(DEFAULTS, "INTERVAL=1\nSTATE_PATH=\nSCRIPT_TIMEOUT=1\nON_CHANGE_SCRIPT=/usr/local/sbin/hook\n")
    home.run("systemctl", "restart", SERVICE)
    wait_for("the timeout", lambda: any("took too long and was killed" in line for line in lines(home)))

    def runs(name: str) -> bool:
        pid = home.read("/var/lib/wg-monitor/%s" % name).strip()
        return home.run("grep", "-q", "sleep", "/proc/%s/comm" % pid, check=False).returncode == 0

    wait_for("the end of the one that stayed", lambda: not runs("stayed"))
    assert runs("left")
    home.write(DEFAULTS, "INTERVAL=1\n")
    assert SERVICE in home.shell("cat /proc/$(cat /var/lib/wg-monitor/left)/cgroup")
    home.shell(end)
    wait_for("its end", lambda: not runs("left"))


# --- The journal --------------------------------------------------------------------------------------------------


def entries(made: Host, *matches: str) -> List[Dict[str, str]]:
    """What the journal has, in order, without the entries of systemd itself."""
    made.run("journalctl", "--sync")
    found = made.run("journalctl", "--output=json", "--all", "--unit=" + SERVICE, *matches).stdout
    return [entry for entry in map(json.loads, found.splitlines()) if entry.get("_COMM") != "systemd"]


def removals(made: Host) -> int:
    return len([line for line in events(made) if line.startswith("REMOVED")])


def toggle(made: Host, times: int) -> None:
    """The peer is removed and added again: so many REMOVED lines."""
    key = "public_key=" + machine.hexadecimal(CLIENT_PUBLIC)
    for number in range(removals(made) + 1, removals(made) + times + 1):
        made.shell(machine.set_device("wg0", key, "remove=true"))
        wait_for("its line", lambda number=number: removals(made) == number)  # type: ignore[misc]
        made.shell(machine.set_device("wg0", key, "allowed_ip=10.77.1.2/32"))
        wait_for("its line", lambda: not events(made)[-1].startswith("REMOVED"))


def test_the_journal_has_each_event_once_with_all_its_fields(home: Machine) -> None:
    toggle(home, 1)
    home.shell("systemctl restart systemd-journald")
    toggle(home, 2)
    pid = home.property("systemd-journald", "MainPID")
    home.run("kill", "-STOP", pid)
    toggle(home, 2)
    home.run("kill", "-CONT", pid)
    toggle(home, 1)
    home.run("systemctl", "stop", "systemd-journald")  # its sockets stay, as always
    toggle(home, 2)

    found = entries(home, "WG_PEER=" + CLIENT_PUBLIC)
    trail = [line for line in lines(home) if PEER in line]
    assert [entry["MESSAGE"] for entry in found] == trail
    numbers = [int(entry["WG_SEQ"]) for entry in found]
    assert numbers == sorted(set(numbers))
    for entry in found:
        kind = entry["MESSAGE"].split()[0]
        assert entry["WG_EVENT"] == kind and entry["MESSAGE_ID"] == wg_monitor.MESSAGE_IDS[kind]
        assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("6", "wg-monitor")
        assert (entry["WG_INTERFACE"], entry["WG_ALLOWED_IPS"]) == ("wg0", "10.77.1.2/32")
        assert re.fullmatch(r"\d+", entry["WG_HANDSHAKE"])
        assert entry["_SYSTEMD_UNIT"] == SERVICE and entry["_COMM"] in ("wg-monitor", "python3")
        if kind == "REMOVED" and "WG_REASON" in entry:
            assert entry["WG_REASON"] == "removed" and {"WG_SESSION_SECONDS", "WG_RX", "WG_TX"} <= set(entry)
    assert any("WG_REASON" in entry for entry in found)


def test_the_journal_explains_lines_and_has_the_last_one(home: Machine) -> None:
    home.run("systemctl", "stop", SERVICE)
    assert entries(home)[-1]["MESSAGE"].startswith("Monitor stopped | ")
    explained = home.run("journalctl", "--no-pager", "--catalog", "WG_PEER=" + CLIENT_PUBLIC).stdout
    assert "Subject: %s is online on wg0" % CLIENT_PUBLIC in explained


# --- The metrics --------------------------------------------------------------------------------------------------

METRICS = "wg-monitor-metrics"
COLLECTED = "/var/lib/prometheus/node-exporter"


def collected(made: Host) -> Samples:
    """What node_exporter has of the files. It gives every sample of a metric all of its labels, empty ones too."""
    text = made.run("curl", "--silent", "--fail", "http://127.0.0.1:9100/metrics").stdout
    ours = ("wireguard_", "wg_monitor_", "node_textfile_")
    found = samples_of("".join(line for line in text.splitlines(keepends=True) if line.startswith(ours)))
    return {(name, frozenset(pair for pair in pairs if pair[1])): value for (name, pairs), value in found.items()}


def test_node_exporter_reads_what_the_sandboxed_timers_write(home: Machine) -> None:
    assert home.property(METRICS + ".timer", "UnitFileState") == "disabled"
    home.run("systemctl", "start", METRICS, check=False)
    why = "%s/wg-monitor.prom cannot be written: No such file or directory; " % COLLECTED
    assert ["wg_monitor: " + why + "its directory has to exist: install node_exporter, or name another file"] == [
        line for line in home.journal(METRICS + ".service").splitlines() if line.startswith("wg_monitor: ")
    ]
    home.shell("apt-get --quiet update && apt-get --quiet --yes --no-install-recommends install prometheus-node-exporter")
    home.run("systemctl", "start", "wg-monitor@wg0")
    home.run("systemctl", "enable", "--now", METRICS + ".timer", METRICS + "@wg0.timer")
    files = ["%s/wg-monitor%s.prom" % (COLLECTED, instance) for instance in ("", "-wg0")]
    wait_for("the files", lambda: all(home.path(file).exists() for file in files))

    assert home.shell("stat --format='%%a %%U' %s" % " ".join(files)) == "644 root\n644 root\n"
    found = wait_for("both in one scrape", lambda: two_monitors(home))
    assert one(found, "node_textfile_scrape_error") == 0
    names = {"interface": "wg0", "public_key": CLIENT_PUBLIC, "allowed_ips": "10.77.1.2/32"}
    assert family(found, "wireguard_latest_handshake_seconds").keys() == {labels(**names), labels(**names, monitor="wg0")}
    assert set(family(found, "wg_monitor_peer_online").values()) == {1}

    # A monitor that was killed leaves its log of the store behind, which the sandbox cannot write.
    drop_in(home, "Restart=no")
    home.run("systemctl", "kill", "--signal=KILL", SERVICE)
    wait_for("its death", lambda: home.property(SERVICE, "ActiveState") == "failed")
    assert home.path("/var/lib/wg-monitor/state.db-wal").exists()
    before = home.read(files[0])
    home.run("systemctl", "start", METRICS)
    assert home.journal(METRICS + ".service").count("wg_monitor: ") == 1
    dead = collected(home)
    assert one(dead, "node_textfile_scrape_error") == 0
    last = "wg_monitor_last_reading_timestamp_seconds"
    assert one(dead, last) == one(samples_of(home.read(files[0])), last) >= one(samples_of(before), last) > 0

    home.write("/etc/systemd/system/%s.service.d/test.conf" % METRICS, "[Service]\nEnvironment=DIRECTORY=/var/lib/wg-monitor\n")
    home.run("systemctl", "daemon-reload")
    assert home.run("systemctl", "start", METRICS, check=False).returncode != 0
    assert "/var/lib/wg-monitor/wg-monitor.prom cannot be written: Read-only file system" in home.journal(METRICS + ".service")
    assert exposure_of(home, METRICS + ".service") <= 1.4 and exposure_of(home, METRICS + "@wg0.service") <= 1.4

    home.run(INSTALL, "--uninstall")
    assert not any(home.path(file).exists() for file in files)
    assert home.run("systemctl", "list-units", "--all", "--no-legend", METRICS + "*").stdout == ""
    assert home.shell("find /etc/systemd -name '%s*' -not -name '*.d'" % METRICS) == ""


def two_monitors(made: Host) -> Optional[Samples]:
    found = collected(made)
    return found if len(family(found, "wg_monitor_build_info")) == 2 else None


def exposure_of(made: Host, unit: str) -> float:
    output = made.run("systemd-analyze", "--no-pager", "security", unit).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", output)
    assert found, output
    return float(found.group(1))


# --- The service manager ------------------------------------------------------------------------------------------


def test_the_service_is_ready_after_the_first_reading_with_a_status(home: Machine) -> None:
    home.run("systemctl", "restart", SERVICE)
    assert home.property(SERVICE, "StatusText") == "1 of 1 peer online, 1 interface"
    home.run("ip", "link", "delete", "wg0")
    wait_for("the new status", lambda: home.property(SERVICE, "StatusText").startswith("0 of 1 peer online"))


def test_reload_reopens_the_trail(home: Machine) -> None:
    pid = home.property(SERVICE, "MainPID")
    home.shell("mv %s %s.old" % (TRAIL, TRAIL))
    home.run("systemctl", "reload", SERVICE)
    machine.start_server(home, "wg1", 2)
    wait_for("a line in the new trail", lambda: home.path(TRAIL).exists() and "[wg1]" in home.read(TRAIL))
    wait_for("the service", lambda: home.property(SERVICE, "SubState") == "running")
    assert home.property(SERVICE, "MainPID") == pid
    assert home.shell("stat --format=%a " + TRAIL) == "640\n"


def test_a_trail_that_root_deletes_comes_back_with_its_group(home: Machine) -> None:
    home.run("systemctl", "start", "wg-monitor@wg0")
    assert home.shell("stat --format='%a %U:%G' /var/log/wg_monitor-wg0.log") == "640 root:adm\n"
    home.shell("rm " + TRAIL)
    machine.start_server(home, "wg1", 2)
    wait_for("a line in the new trail", lambda: home.path(TRAIL).exists() and "[wg1]" in home.read(TRAIL))
    home.run("systemctl", "stop", SERVICE)
    assert home.shell("stat --format='%a %U:%G' " + TRAIL) == "640 root:adm\n"
    home.shell("rm " + TRAIL)
    home.run("systemctl", "start", SERVICE)
    assert home.shell("stat --format='%a %U:%G' " + TRAIL) == "640 root:adm\n"


def test_stop_succeeds_with_a_last_line(home: Machine) -> None:
    home.run("systemctl", "stop", SERVICE)
    assert home.property(SERVICE, "Result") == "success"
    assert lines(home)[-1].startswith("Monitor stopped | ")


def test_the_watchdog_spares_a_long_interval_and_kills_a_hung_daemon(home: Machine) -> None:
    home.write(DEFAULTS, "INTERVAL=3600\n")
    drop_in(home, "WatchdogSec=2s", "RestartSec=1s")
    home.run("systemctl", "restart", SERVICE)
    home.shell("sleep 5")
    assert home.property(SERVICE, "NRestarts") == "0"
    pid = home.property(SERVICE, "MainPID")
    home.run("kill", "-STOP", pid)
    wait_for("the restart", lambda: home.property(SERVICE, "NRestarts") == "1")
    wait_for("the service", lambda: home.property(SERVICE, "ActiveState") == "active")
    assert home.property(SERVICE, "MainPID") != pid
    assert "Watchdog timeout" in home.journal(SERVICE)
    assert events(home) == ["ONLINE [wg0] " + PEER]


def test_core_dumps_are_off_and_open_files_are_limited(home: Machine) -> None:
    limits = home.read("/proc/%s/limits" % home.property(SERVICE, "MainPID"))
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M)
    assert re.search(r"^Max open files +1024 +1024 ", limits, re.M)


@pytest.mark.parametrize(("drop_in_file", "bound"), [(None, 1.8), ("no-network.conf", 1.4)])
def test_exposure_of_the_running_service(home: Machine, drop_in_file: Optional[str], bound: float) -> None:
    if drop_in_file:
        home.write(DROP_IN, (PROJECT / "contrib" / drop_in_file).read_text())
        home.run("systemctl", "daemon-reload")
    assert exposure_of(home, SERVICE) <= bound


def test_names_from_etc_wireguard_in_the_sandbox(home: Machine) -> None:
    """Root alone can read the directory, and root in the sandbox has no capability to override that."""
    configuration = "[Interface]\nPrivateKey = %s\n\n### Client Ann's laptop\n[Peer]\nPublicKey = %s\n"
    home.run("install", "-d", "-m", "0700", "-o", "root", "-g", "root", "/etc/wireguard")
    home.write("/etc/wireguard/wg0.conf", configuration % (machine.SERVER_PRIVATE, CLIENT_PUBLIC), 0o600)
    home.write(DEFAULTS, "INTERVAL=1\nPEER_NAMES=/etc/wireguard\n")
    home.shell("systemctl stop wg-monitor; rm -rf %s /var/lib/wg-monitor/*; systemctl start wg-monitor" % TRAIL)
    wait_for("the first line", lambda: any("ONLINE  [wg0] Ann_s_laptop " + PEER in line for line in lines(home)))
    assert not any("[WARN]" in line for line in lines(home))
    home.write("/etc/wireguard/wg0.conf", configuration % (machine.SERVER_PRIVATE, "x"), 0o600)
    why = "the public key in line 6 is invalid, or not the only one of a [Peer]"
    wait_for("the fault", lambda: "[WARN] The names from /etc/wireguard/wg0.conf stay as they are: " + why in lines(home))
    told = home.run("wg-monitor", "check", check=False)
    assert told.returncode == 1 and "FAIL  names        0 names; The names from /etc/wireguard/wg0.conf" in told.stdout
    output = home.run("systemd-analyze", "--no-pager", "security", SERVICE).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", output)
    assert found and float(found.group(1)) <= 1.8, output


# --- The rotation -------------------------------------------------------------------------------------------------

# All peers of a scripted device connect and leave, again and again.
FLAP = """
import sys, time
sys.path.insert(0, "/root")
from device import Device, crowd
with Device("/run/wireguard", "wg9", crowd(1500, int(time.time()))) as device:
    for number in range(600):
        time.sleep(1)
        device.publish(crowd(1500, int(time.time()) - number % 2 * 5000))
"""


def test_logrotate_under_load_loses_and_repeats_no_line(home: Machine) -> None:
    home.write("/root/device.py", (PROJECT / "tests/support/device.py").read_text())
    home.write("/root/flap.py", FLAP)
    home.write(DEFAULTS, "INTERVAL=1\nLOG_FORMAT=json\n")
    home.shell("systemctl stop wg-monitor; rm -rf %s /var/lib/wg-monitor/*" % TRAIL)
    home.run("systemd-run", "--unit=flap", "python3", "/root/flap.py")
    home.run("systemctl", "start", SERVICE)

    def rotated() -> int:
        return len(list(home.path("/var/log").glob("wg_monitor.log.[0-9]*")))

    for number in (1, 2, 3):
        wait_for("lines to rotate", lambda: home.path(TRAIL).stat().st_size > 0)
        home.run("logrotate", "--force", "/etc/logrotate.d/wg-monitor")
        assert rotated() == number
    # The timer's run rotates by size: nothing before the trail reaches a megabyte.
    home.run("systemctl", "start", "logrotate.service")
    wait_for("a megabyte", lambda: home.path(TRAIL).stat().st_size > 1 << 20)
    home.run("systemctl", "start", "logrotate.service")
    assert rotated() == 4
    wait_for("lines after the last rotation", lambda: home.path(TRAIL).stat().st_size > 0)
    home.run("systemctl", "stop", SERVICE)

    text = home.shell("zcat --force /var/log/wg_monitor.log*", timeout=60)
    sequence = sorted(json.loads(line)["seq"] for line in text.splitlines())
    assert len(sequence) > 5_000
    assert sequence == list(range(1, 1 + len(sequence)))
    assert home.shell("stat --format='%a %U:%G' " + TRAIL) == "640 root:adm\n"


# --- Trying a hook ------------------------------------------------------------------------------------------------

TELL = """#!/bin/sh
grep -hE '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status
id; umask; ulimit -c; ulimit -n
cut -d' ' -f5,6 /proc/self/mountinfo | sort | sha256sum
touch /etc/x /home/x /var/lib/wg-monitor/mine 2>&1
[ "$PEER_IFACE" != wg-test ] || { touch /var/lib/wg-monitor/tried; exit 3; }
"""


def in_the_sandbox(*changes: Tuple[str, str]) -> str:
    """The commands that the page shows."""
    page = (PROJECT / "docs/hook.md").read_text()
    blocks: List[str] = re.findall(r"```console\n\$ (.*?)```", page, re.S)
    (block,) = [block for block in blocks if "systemd-run" in block]
    for before, after in (("sudo ", ""), *changes):
        assert before in block
        block = block.replace(before, after)
    return block


@pytest.mark.parametrize("instance", ["", "wg0"])
def test_the_page_shows_how_to_try_a_hook_in_the_sandbox_of_the_service(home: Machine, instance: str) -> None:
    """The hook finds the same rights, groups, mounts and limits there."""
    unit, suffix = ("wg-monitor@" + instance, "-" + instance) if instance else ("wg-monitor", "")
    home.write("/usr/local/sbin/hook", TELL, 0o755)
    home.write(DEFAULTS + suffix, "INTERVAL=1\nSTATE_PATH=\nDEBUG=true\nON_CHANGE_SCRIPT=/usr/local/sbin/hook\n")
    home.write("/etc/systemd/system/%s.service.d/test.conf" % unit, "[Service]\nReadWritePaths=/home\nProtectHome=no\n")
    home.shell("systemctl daemon-reload; systemctl restart " + unit)
    trail = "/var/log/wg_monitor%s.log" % suffix
    begin = re.compile(r"Hook for \S+ \[\S+\] \S+ exited with status \d: (.*?)(?: \(\d+\.\d s\))?")
    wait_for("the hook", lambda: any("Hook for ONLINE" in line for line in lines(home, trail)))
    (ran,) = [begin.fullmatch(line[8:]) for line in lines(home, trail) if line.startswith("[DEBUG] Hook for ONLINE")]
    command = in_the_sandbox(*[("cat wg-monitor ", "cat %s " % unit), ("-nE '", "-nE 's/%i/wg0/g\n")][: 2 if instance else 0])
    done = home.run("sh", "-c", command, check=False)
    assert "code=exited/status=1" in done.stdout
    (tried,) = [begin.fullmatch(line) for line in done.stdout.splitlines() if line.startswith("Hook for ")]
    assert ran and tried and ran.group(1) == tried.group(1)
    assert "CapEff: 0000000000001000" in tried.group(1) and "/etc/x': Read-only" in tried.group(1)
    assert "/home/x" not in tried.group(1), "the drop-in was left out"
    assert home.shell("stat --format='%a %U:%G' /var/lib/wg-monitor/tried") == "644 root:adm\n"
    assert home.run("wg-monitor", "test-hook", "--on-change-script", "/usr/local/sbin/hook", check=False).returncode == 1


# --- The sandbox --------------------------------------------------------------------------------------------------

ROWS = {
    "web": "curl --fail --silent http://127.0.0.1:8000/",
    "ready-made": "set -e; for hook in matrix ntfy telegram webhook; do /opt/wg-monitor/$hook; done",
    "log": "echo line >> /var/log/wg_changes.log",
    "state": "echo mine > /var/lib/wg-monitor/mine",
    "home": "echo x > /home/x",
    "root": "ls /root",
    "etc": "echo x > /etc/x",
    "run": "echo x > /run/x",
    "tmp": "echo x > /tmp/hook-was-here",
    "logger": "logger --tag hook a word from the hook",
    "systemctl": "systemctl restart bystander.service",
    "wg": "wg show wg0 peers",
    "chown": "chown daemon /var/lib/wg-monitor/mine",
    "sendmail": r"printf 'Subject: peer\n\nfrom the hook\n' | timeout 5 sendmail -f root root",
    "mail": "timeout 5 /opt/wg-monitor/mail",
}

MAY = {"web", "ready-made", "log", "state", "tmp", "logger", "wg"}
ALLOWED: Dict[str, Set[str]] = {
    "": MAY,
    "no-network.conf": MAY - {"web", "ready-made"},
    "mail.conf": MAY | {"sendmail", "mail"},
    "systemctl.conf": MAY | {"systemctl"},
}

# A web server that accepts every message.
WEB = """
from http.server import HTTPServer, SimpleHTTPRequestHandler
class Handler(SimpleHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
    do_PUT = do_POST
HTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""

HOOK = """#!/bin/sh
exec > /var/lib/wg-monitor/result 2>&1
tr '\\0' '\\n' < /proc/$$/environ > /var/lib/wg-monitor/environment
%s
echo done
"""


class Row(NamedTuple):
    code: int
    output: str


class Sandbox:
    """A machine with a mail server and a web server, and the results of the hook's commands under each drop-in."""

    def __init__(self, made: Host) -> None:
        self.machine = made
        self.results: Dict[str, Dict[str, Row]] = {}
        made.write("/srv/web.py", WEB)
        for path in (PROJECT / "contrib/hooks").iterdir():
            made.write("/opt/wg-monitor/" + path.name, path.read_text(encoding="utf-8"), 0o755)
            conf = "To: root\n" if path.name == "mail" else 'url = "http://127.0.0.1:8000/"\n'
            made.write("/etc/wg-monitor/%s.conf" % path.name, conf, 0o600)
        made.shell(
            """
            apt-get --quiet update
            DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends install postfix
            mkdir /srv/www && echo from the web > /srv/www/index.html
            systemd-run --unit=web --working-directory=/srv/www python3 /srv/web.py
            systemd-run --unit=bystander --remain-after-exit true
            """
        )
        wait_for("the web server", lambda: made.run("curl", "--silent", "127.0.0.1:8000", check=False).returncode == 0)
        commands = ['output=$(%s); printf "%%s\\t%%s\\t%%s\\n" %s $? "$output"' % (ROWS[name], name) for name in ROWS]
        made.write("/usr/local/sbin/hook", HOOK % "\n".join(commands), 0o755)
        made.run(INSTALL)
        made.write(DEFAULTS, "STATE_PATH=\nON_CHANGE_SCRIPT=/usr/local/sbin/hook\n")

    def under(self, name: str) -> Dict[str, Row]:
        if name not in self.results:
            self.results[name] = self.measure(name)
        return self.results[name]

    def measure(self, name: str) -> Dict[str, Row]:
        self.machine.shell("rm -f /var/lib/wg-monitor/result")
        self.machine.write(DROP_IN, (PROJECT / "contrib" / name).read_text() if name else "")
        # Without a store, every peer is new after a start, so the hook runs.
        self.machine.shell("systemctl daemon-reload; systemctl restart wg-monitor")

        def result() -> str:
            return self.machine.run("cat", "/var/lib/wg-monitor/result", check=False).stdout

        wait_for("the hook", lambda: result().endswith("\ndone\n"))
        rows = {}
        for line in result().splitlines():
            if line.count("\t") >= 2:
                row, code, output = line.split("\t", 2)
                rows[row] = Row(int(code), output)
        assert set(rows) == set(ROWS), result()
        return rows


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with fresh() as made:
        yield Sandbox(made)


TABLE: List[Tuple[str, str]] = [(name, row) for name in ALLOWED for row in ROWS]


@pytest.mark.parametrize(("name", "row"), TABLE, ids=["%s-%s" % (name or "as-shipped", row) for name, row in TABLE])
def test_what_a_hook_may_do(sandbox: Sandbox, name: str, row: str) -> None:
    result = sandbox.under(name)[row]
    assert (result.code == 0) == (row in ALLOWED[name]), result


def test_the_hooks_actions_have_their_effects(sandbox: Sandbox) -> None:
    made = sandbox.machine
    assert sandbox.under("")["web"].output == "from the web"
    assert sandbox.under("")["wg"].output == CLIENT_PUBLIC
    assert made.read("/var/log/wg_changes.log").startswith("line\n")
    assert made.read("/var/lib/wg-monitor/mine") == "mine\n"
    assert "a word from the hook" in made.shell("journalctl --sync; journalctl --output=cat --identifier=hook")
    assert made.run("test", "-e", "/tmp/hook-was-here", check=False).returncode == 1, "the hook wrote to the machine's /tmp"
    sandbox.under("mail.conf")
    wait_for("the mail", lambda: "from the hook" in made.run("cat", "/var/mail/root", check=False).stdout)
    wait_for("the event", lambda: "Subject: ONLINE [wg0]" in made.run("cat", "/var/mail/root", check=False).stdout)


def test_no_variable_of_the_service_manager_reaches_the_hook(sandbox: Sandbox) -> None:
    sandbox.under("")
    names = {line.split("=")[0] for line in sandbox.machine.read("/var/lib/wg-monitor/environment").splitlines()}
    assert {name for name in names if not name.startswith("PEER_")} == {"PATH", "LANG", "HOME"}
