"""The units, the installer, the rotation and the default file, checked with the tools that read them."""

import gzip
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import pytest

import wg_monitor
from harness import PROJECT, lacking, wait_for

UNITS = ("wg-monitor.service", "wg-monitor@.service")
METRICS = ("wg-monitor-metrics.service", "wg-monitor-metrics@.service")
TIMERS = ("wg-monitor-metrics.timer", "wg-monitor-metrics@.timer")
# The differences of an instance: its name and the source of its settings.
INSTANCE_KEYS = {"Description", "After", "Environment", "EnvironmentFile"}

INSTALLED = {
    "/etc/default/wg-monitor": 0o644,
    "/etc/logrotate.d/wg-monitor": 0o644,
    "/etc/systemd/system/wg-monitor.service": 0o644,
    "/etc/systemd/system/wg-monitor@.service": 0o644,
    **{"/etc/systemd/system/" + unit: 0o644 for unit in (*METRICS, *TIMERS)},
    "/opt/wg-monitor/shipped/wg-monitor.default": 0o644,
    "/opt/wg-monitor/shipped/wg-monitor.logrotate": 0o644,
    "/opt/wg-monitor/wg_monitor.py": 0o755,
    "/opt/wg-monitor/wg_report.py": 0o644,
    "/usr/local/bin/wg-monitor": 0o755,
    "/usr/local/share/bash-completion/completions/wg-monitor": 0o644,
    "/usr/local/share/man/man8/wg-monitor.8": 0o644,
    "/usr/local/lib/systemd/catalog/wg-monitor.catalog": 0o644,
    "/var/log/wg_monitor.log": 0o640,
}
TRAIL, DEFAULTS, MODULE = "/var/log/wg_monitor.log", "/etc/default/wg-monitor", "/opt/wg-monitor/wg_monitor.py"
NOBODY = 65534

# The signals that end a process and can be caught. The C library uses the two before the real-time signals itself.
HARMLESS = "CHLD CONT TSTP TTIN TTOU URG WINCH KILL STOP".split()
DEADLY = sorted(
    {*range(1, 32), *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)} - {getattr(signal, "SIG" + name) for name in HARMLESS}
)

pytestmark = pytest.mark.once


def tool(name: str) -> str:
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    return path or lacking("needs " + name)


def root() -> None:
    if os.geteuid() != 0:
        lacking("needs root")


def run(*command: str, cwd: Optional[Path] = None, env: Optional[Dict[str, str]] = None) -> Tuple[int, str]:
    done = subprocess.run(
        list(command),
        cwd=str(cwd or PROJECT),
        env=dict(os.environ, LC_ALL="C.UTF-8", **(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


# --- The units ----------------------------------------------------------------------------------------------------


def settings_of(unit: str) -> List[Tuple[str, str]]:
    lines = (PROJECT / unit).read_text().splitlines()
    return [(key, value) for key, _, value in (line.partition("=") for line in lines if re.match(r"[A-Z]", line))]


@pytest.mark.parametrize("unit", [*UNITS, *METRICS, *TIMERS])
def test_systemd_reports_nothing_about_the_unit(unit: str, tmp_path: Path) -> None:
    """Apart from the command, which is not installed here."""
    for each in {unit, unit.replace(".timer", ".service")}:
        text = (PROJECT / each).read_text()
        assert each in TIMERS or "ExecStart=/usr/local/bin/wg-monitor " in text
        (tmp_path / each).write_text(text.replace("ExecStart=/usr/local/bin/wg-monitor ", "ExecStart=/bin/true "))
    assert run(tool("systemd-analyze"), "verify", "--man=no", "./" + unit, cwd=tmp_path) == (0, "")


@pytest.mark.parametrize("pair", [UNITS, METRICS, TIMERS])
def test_the_instance_differs_only_in_its_name_and_settings(pair: Tuple[str, str]) -> None:
    differing = INSTANCE_KEYS | ({"ExecStart"} if pair == METRICS else set())
    service, instance = ([(key, value) for key, value in settings_of(unit) if key not in differing] for unit in pair)
    assert service == instance


def test_the_metrics_of_each_monitor_have_a_file_of_their_own() -> None:
    command, directory = "/usr/local/bin/wg-monitor metrics ", "/var/lib/prometheus/node-exporter"
    settings = [dict(settings_of(unit)) for unit in METRICS]
    assert settings[0]["ExecStart"] == command + "--output=${DIRECTORY}/wg-monitor.prom"
    assert settings[1]["ExecStart"] == command + "%i --output=${DIRECTORY}/wg-monitor-%i.prom"
    for each in settings:
        assert (each["Environment"], each["ReadWritePaths"]) == ("DIRECTORY=" + directory, "-" + directory)


def test_the_metrics_are_in_the_daemons_sandbox_and_write_to_one_directory() -> None:
    daemon, metrics = (settings_of(unit) for unit in (UNITS[0], METRICS[0]))
    hooks = {"StateDirectory", "StateDirectoryMode", "ReadWritePaths", "Group", "SupplementaryGroups"}
    hooks |= {"RestrictAddressFamilies", "MemoryMax", "TasksMax", "LimitNOFILE"}
    begin = [key for key, _ in daemon].index("MemoryMax")
    sandbox = [pair for pair in daemon[begin:] if pair[0] not in hooks | {"WantedBy"}]
    assert [pair for pair in sandbox if pair not in metrics] == []
    assert [value for key, value in metrics if "ReadWrite" in key or "Directory" in key] == [
        "-/var/lib/prometheus/node-exporter"
    ]
    families = [value for key, value in metrics if key == "RestrictAddressFamilies"]
    assert families == ["AF_UNIX AF_NETLINK"]


EXPOSURES = [(None, 1.8), ("no-network.conf", 1.4), ("mail.conf", 2.0), ("systemctl.conf", 1.8)]


def exposure(unit: str, drop_in: Optional[str], directory: Path) -> float:
    name = unit.replace("@.", "@wg0.")
    shutil.copy(str(PROJECT / unit), str(directory / unit))
    if drop_in:
        (directory / (unit + ".d")).mkdir()
        shutil.copy(str(PROJECT / "contrib" / drop_in), str(directory / (unit + ".d")))
    path = {"SYSTEMD_UNIT_PATH": "%s:" % directory}
    _, output = run(tool("systemd-analyze"), "--no-pager", "security", "--offline=yes", name, env=path)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", output)
    assert found, output
    return float(found.group(1))


@pytest.mark.parametrize(
    ("unit", "drop_in", "bound"),
    [
        *((unit, *case) for unit in UNITS for case in EXPOSURES),
        *((unit, None, 1.4) for unit in METRICS),
    ],
)
def test_exposure_is_as_documented(unit: str, drop_in: Optional[str], bound: float, tmp_path: Path) -> None:
    _, version = run(tool("systemd-analyze"), "--version")
    if int(version.split()[1]) < 250:
        lacking("needs systemd 250 or newer, to judge unit files offline")
    assert exposure(unit, drop_in, tmp_path) <= bound


@pytest.mark.parametrize("unit", UNITS)
def test_no_shell_starts_the_daemon(unit: str) -> None:
    start = dict(settings_of(unit))["ExecStart"]
    assert start == "/usr/local/bin/wg-monitor --from-environment"


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_does_not_restart_after_exit_codes_that_a_restart_cannot_fix(unit: str) -> None:
    codes = {wg_monitor.EXIT_USAGE, wg_monitor.EXIT_NOT_PERMITTED, wg_monitor.EXIT_NO_WG}
    assert {int(code) for code in dict(settings_of(unit))["RestartPreventExitStatus"].split()} == codes


# --- The default file ---------------------------------------------------------------------------------------------


def test_the_default_file_lists_every_setting_with_its_meaning_and_default() -> None:
    unit_sets = dict(value.split("=", 1) for key, value in settings_of("wg-monitor.service") if key == "Environment")
    paragraphs = (PROJECT / "wg-monitor.default").read_text().split("\n\n")[1:]
    documented = [(lines[0], lines[-1]) for lines in (paragraph.strip().split("\n") for paragraph in paragraphs)]
    assert documented == [
        ("# " + option.meaning, "#%s=%s" % (option.variable, unit_sets.get(option.variable, option.default)))
        for option in wg_monitor.OPTIONS
    ]


# --- The installer ------------------------------------------------------------------------------------------------


def test_an_incomplete_download_of_the_installer_runs_nothing() -> None:
    assert (PROJECT / "install.sh").read_text().endswith('\n}\n\nmain "$@"\n')


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the project that tests may change."""
    copy = tmp_path / "source"
    copy.mkdir()
    names = ("wg_monitor.py", "wg_report.py", "wg-monitor.default", "wg-monitor.logrotate", "wg-monitor.catalog")
    for name in ("install.sh", *names, *UNITS, *METRICS, *TIMERS):
        shutil.copy(str(PROJECT / name), str(copy))
    (copy / "wg-monitor.8").write_text(".TH WG-MONITOR 8\n")
    shutil.copytree(str(PROJECT / "contrib/completion"), str(copy / "contrib/completion"))
    return copy


class Target:
    def __init__(self, source: Path, root: Path) -> None:
        self.source = source
        self.root = root

    def install(self, *arguments: str, code: int = 0, prefix: Tuple[str, ...] = (), path: str = "") -> str:
        """`path` has programs that replace those of the system."""
        script = str(self.source / "install.sh")
        env = {"DESTDIR": str(self.root), "PATH": path + os.environ["PATH"]}
        returned, output = run(*prefix, "sh", script, *arguments, cwd=Path("/"), env=env)
        assert returned == code, output
        return output

    def path(self, inside: str) -> Path:
        return Path(str(self.root) + inside)

    def files(self) -> Dict[str, Tuple[int, int, bytes]]:
        """The mode, inode and content of each file."""
        found = {}
        for path in self.root.rglob("*"):
            if not path.is_dir():
                status = path.stat()
                name = "/" + str(path.relative_to(self.root))
                found[name] = (stat.S_IMODE(status.st_mode), status.st_ino, path.read_bytes())
        return found


@pytest.fixture
def target(source: Path, tmp_path: Path) -> Target:
    return Target(source, tmp_path / "root")


def test_the_installer_installs_these_files_with_these_modes(target: Target) -> None:
    target.install()
    assert {name: mode for name, (mode, _, _) in target.files().items()} == INSTALLED


def test_the_command_runs_the_installed_module(target: Target) -> None:
    target.install()
    command = target.path("/usr/local/bin/wg-monitor")
    assert command.read_text().startswith("#!/usr/bin/python3 -IS\n")
    here = command.read_text().replace("/opt/", str(target.root) + "/opt/")
    if not Path("/usr/bin/python3").exists():
        lacking("needs /usr/bin/python3")
    command.write_text(here)
    assert run(str(command), "--version", cwd=Path("/")) == (0, "wg_monitor %s\n" % wg_monitor.VERSION)
    for report in ("status", "sessions"):
        code, said = run(str(command), report, "--help", cwd=Path("/"))
        assert code == 0 and said.startswith("usage: wg-monitor %s " % report)


def test_both_modules_have_one_owner_and_only_it_can_change_them(target: Target) -> None:
    target.install()
    files = [target.path("/opt/wg-monitor/" + name).stat() for name in ("wg_monitor.py", "wg_report.py")]
    assert files[0].st_uid == files[1].st_uid and not (files[0].st_mode | files[1].st_mode) & 0o022


def test_a_second_run_changes_nothing(target: Target) -> None:
    target.install()
    before = target.files()
    assert target.install() == ""
    assert target.files() == before


def test_a_wrong_mode_is_corrected(target: Target) -> None:
    target.install()
    target.path("/opt/wg-monitor/wg_monitor.py").chmod(0o777)
    target.install()
    assert {name: mode for name, (mode, _, _) in target.files().items()} == INSTALLED


def owner(path: Path) -> Tuple[int, int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def belonging(target: Target, names: List[str]) -> Dict[str, Tuple[int, int, int]]:
    return {name: owner(target.path(name)) for name in names}


OWNED = [*sorted(INSTALLED), "/opt/wg-monitor", "/opt/wg-monitor/shipped"]


@pytest.mark.parametrize("name", OWNED)
def test_a_wrong_owner_is_corrected_in_one_line_each(target: Target, name: str) -> None:
    root()
    target.install()
    before = belonging(target, OWNED)
    os.chown(str(target.path(name)), NOBODY, NOBODY)
    target.path(name).chmod(0o777)
    shape = "d" if name in ("/opt/wg-monitor", "/opt/wg-monitor/shipped") else "-"
    was = "the owner and mode of %s: %%s%srwxrwxrwx nobody:nogroup\n" % (target.path(name), shape)

    assert target.install("--dry-run") == "would correct " + was % ""
    assert belonging(target, OWNED) != before
    assert target.install() == "corrected " + was % "it was "
    assert belonging(target, OWNED) == before
    assert target.install() == ""


def test_what_others_hold_open_is_no_longer_what_root_runs(target: Target) -> None:
    root()
    target.install()
    os.chown(str(target.path(MODULE)), NOBODY, NOBODY)
    with open(str(target.path(MODULE)), "a") as held:
        target.install()
        held.write("import evil\n")
    assert "import evil" not in target.path(MODULE).read_text()


def test_settings_of_another_owner_keep_their_content_and_a_narrower_mode(target: Target) -> None:
    root()
    target.install()
    settings = target.path(DEFAULTS)
    settings.write_text("INTERVAL=7\n")
    settings.chmod(0o600)
    os.chown(str(settings), NOBODY, NOBODY)
    assert "corrected the owner and mode of %s: " % settings in target.install()
    assert (settings.read_text(), owner(settings)) == ("INTERVAL=7\n", (0, 0, 0o600))


def test_modes_and_groups_that_the_administrator_chose_are_kept(target: Target) -> None:
    root()
    target.install()
    target.path(DEFAULTS).chmod(0o600)
    target.path(TRAIL).chmod(0o600)
    os.chown(str(target.path(TRAIL)), 0, 1)
    before = belonging(target, OWNED)
    assert target.install() == ""
    assert belonging(target, OWNED) == before


@pytest.mark.parametrize("name", ["", "/wg_monitor.cpython-311.pyc"])
def test_compiled_code_that_others_could_change_is_removed(target: Target, name: str) -> None:
    root()
    target.install()
    compiled = target.path("/opt/wg-monitor/__pycache__")
    compiled.mkdir()
    (compiled / "wg_monitor.cpython-311.pyc").write_bytes(b"")
    assert target.install() == ""
    os.chown(str(compiled) + name, NOBODY, NOBODY)
    assert target.install() == "removed %s: others than root could change it\n" % compiled
    assert not compiled.exists()


def test_what_else_belongs_to_others_beside_the_program_is_reported(target: Target) -> None:
    root()
    target.install()
    shadow = target.path("/opt/wg-monitor/wg_monitor")
    shadow.mkdir()
    os.chown(str(shadow), NOBODY, NOBODY)
    (line,) = target.install().splitlines()
    assert line.startswith("install.sh: left %s as it is: it does not belong to root" % shadow)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory in which anybody may do anything."""
    root()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def package(shared: Path, source: Path) -> Target:
    """A package that a user builds."""
    shutil.copytree(str(source), str(shared / "source"))
    return Target(shared / "source", shared / "root")


AS_NOBODY = ("setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups")


def test_a_package_is_built_without_root(package: Target) -> None:
    prefix = (tool(AS_NOBODY[0]), *AS_NOBODY[1:])
    package.install(prefix=prefix)
    names = [*INSTALLED, "/opt/wg-monitor"]
    modes = {**INSTALLED, "/opt/wg-monitor": 0o755}
    assert belonging(package, names) == {name: (NOBODY, NOBODY, mode) for name, mode in modes.items()}
    assert package.install(prefix=prefix) == ""
    package.path(MODULE).chmod(0o775)
    assert "corrected the owner and mode of %s: " % package.path(MODULE) in package.install(prefix=prefix)
    assert owner(package.path(MODULE)) == (NOBODY, NOBODY, 0o755)


def test_a_package_that_is_built_under_fakeroot_belongs_to_root(package: Target) -> None:
    fakeroot = tool("fakeroot")
    script = """
        installer=$1 module=$2 trail=$3
        sh "$installer" >/dev/null
        sh "$installer"
        chown nobody "$module"
        sh "$installer"
        stat --format '%U:%G %a' "$module" "$trail"
    """
    arguments = (str(package.source / "install.sh"), str(package.path(MODULE)), str(package.path(TRAIL)))
    done = run(
        *AS_NOBODY, fakeroot, "sh", "-ec", script, "sh", *arguments, cwd=Path("/"), env={"DESTDIR": str(package.root)}
    )
    was = "-rwxr-xr-x nobody:root"
    corrected = "corrected the owner and mode of %s: it was %s\n" % (package.path(MODULE), was)
    assert done == (0, corrected + "root:root 755\nroot:adm 640\n")


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(target: Target, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target.path("/usr/local/bin").mkdir(parents=True)
    target.path("/usr/local/bin/wg-monitor").symlink_to(victim)
    target.install()
    assert victim.read_text() == "precious"
    assert not target.path("/usr/local/bin/wg-monitor").is_symlink()


@pytest.mark.parametrize("name", ["/etc/default/wg-monitor", "/etc/logrotate.d/wg-monitor"])
def test_the_administrators_changes_are_kept(target: Target, name: str) -> None:
    target.install()
    settings = target.path(name)
    settings.write_text("# mine\n")
    target.install()
    assert settings.read_text() == "# mine\n"
    assert not Path(str(settings) + ".dpkg-dist").exists(), "a new default file appeared without a change"

    shipped = target.source / ("wg-monitor.default" if "default" in name else "wg-monitor.logrotate")
    shipped.write_text(shipped.read_text() + "# new in this release\n")
    target.install()
    assert settings.read_text() == "# mine\n"
    assert Path(str(settings) + ".dpkg-dist").read_text().endswith("# new in this release\n")

    before = target.files()
    target.install()
    assert target.files() == before


@pytest.mark.parametrize("name", ["/etc/default/wg-monitor", "/etc/logrotate.d/wg-monitor", TRAIL])
def test_a_dangling_link_is_left_alone(target: Target, name: str, tmp_path: Path) -> None:
    link = target.path(name)
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "nowhere")
    output = target.install()
    warning = "install.sh: left %s as it is: it is a link, and the file that it names does not exist\n" % link
    assert (warning in output) == (name != TRAIL), output  # the monitor itself rejects a trail that is a link
    assert os.readlink(str(link)) == str(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    link.unlink()
    assert set(INSTALLED) - {name} == set(target.files())


def test_an_existing_trail_is_not_changed(target: Target) -> None:
    trail = target.path("/var/log/wg_monitor.log")
    trail.parent.mkdir(parents=True)
    trail.write_text("line\n")
    trail.chmod(0o600)
    target.install()
    assert (trail.read_text(), stat.S_IMODE(trail.stat().st_mode)) == ("line\n", 0o600)


def test_no_trail_is_created_if_the_settings_name_another(target: Target) -> None:
    settings = target.path("/etc/default/wg-monitor")
    settings.parent.mkdir(parents=True)
    settings.write_text("LOG_PATH=/var/log/wireguard/trail.log\n")
    target.install()
    assert not target.path("/var/log/wg_monitor.log").exists()


def test_uninstall_leaves_and_lists_logs_and_settings(target: Target) -> None:
    target.install()
    extra = ["/var/log/wg_monitor.log.1", "/var/log/wg_monitor-wg0.log", "/var/lib/wg-monitor/state.db"]
    extra += ["/etc/default/wg-monitor-wg0", "/etc/systemd/system/wg-monitor.service.d/mail.conf"]
    extra += ["/etc/systemd/system/wg-monitor-metrics@wg0.service.d/here.conf", "/etc/wg-monitor/ntfy.conf"]
    extra += ["/var/log/.wg_monitor.log.lock", "/var/log/.wg_monitor-wg0.log.lock"]
    extra += ["/var/lib/wg-monitor/state.db.last", "/var/lib/wg-monitor/state-wg0.db.last"]
    foreign = ["/opt/wg-monitor/hook", "/var/log/wg_changes.log", "/etc/default/wg-monitoring"]
    foreign += ["/var/log/.wg_changes.log.lock", "/var/log/.lock", "/var/lib/prometheus/node-exporter/wg.prom"]
    stale = ["/var/lib/prometheus/node-exporter/wg-monitor%s.prom" % instance for instance in ("", "-wg0")]
    for name in extra + foreign + stale:
        target.path(name).parent.mkdir(parents=True, exist_ok=True)
        target.path(name).write_text("mine")
    kept = {*extra, *foreign, "/etc/default/wg-monitor", "/var/log/wg_monitor.log"}

    output = target.install("--uninstall")

    assert set(target.files()) == kept
    left = {line.split()[1][len(str(target.root)) :] for line in output.splitlines() if line.startswith("left ")}
    assert left == {
        "/etc/default/wg-monitor",
        "/etc/default/wg-monitor-wg0",
        "/etc/systemd/system/wg-monitor-metrics@wg0.service.d",
        "/etc/systemd/system/wg-monitor.service.d",
        "/etc/wg-monitor",
        "/opt/wg-monitor",
        "/var/lib/wg-monitor",
        "/var/log/.wg_monitor-wg0.log.lock",
        "/var/log/.wg_monitor.log.lock",
        "/var/log/wg_monitor-wg0.log",
        "/var/log/wg_monitor.log",
        "/var/log/wg_monitor.log.1",
    }
    target.install("--uninstall", "--purge")
    assert set(target.files()) == set(foreign)


def test_uninstall_removes_every_directory_that_the_installer_created(target: Target) -> None:
    target.install()
    target.install("--uninstall", "--purge")
    assert target.files() == {}
    assert not target.path("/opt/wg-monitor").exists()


def test_uninstall_keeps_an_edited_rotation_and_purge_removes_it(target: Target) -> None:
    target.install()
    rotation = target.path("/etc/logrotate.d/wg-monitor")
    rotation.write_text(rotation.read_text().replace("rotate 7", "rotate 70"))
    assert "left %s\n" % rotation in target.install("--uninstall")
    assert rotation.exists()
    target.install("--uninstall", "--purge")
    assert not rotation.exists()


@pytest.mark.parametrize("arguments", [(), ("--no-start",), ("--uninstall",), ("--uninstall", "--purge")])
def test_a_dry_run_changes_nothing(target: Target, arguments: Tuple[str, ...]) -> None:
    if "--uninstall" in arguments:
        target.install()
    before = target.files()
    output = target.install("--dry-run", *arguments)
    assert target.files() == before
    assert target.root.exists() == bool(before)
    assert output and all(line.startswith(("would ", "left ")) for line in output.splitlines()), output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--frobnicate",), "unknown argument: --frobnicate"),
        (("--purge",), "--purge goes with --uninstall"),
    ],
)
def test_invalid_usage_is_rejected(target: Target, arguments: Tuple[str, ...], complaint: str) -> None:
    assert complaint in target.install(*arguments, code=2)
    assert not target.root.exists()


def test_a_relative_destination_is_rejected(source: Path) -> None:
    code, output = run("sh", str(source / "install.sh"), env={"DESTDIR": "root"})
    assert (code, output) == (2, "install.sh: DESTDIR must be an absolute path: root\n")


def test_help_needs_no_root_and_lists_every_flag(source: Path) -> None:
    code, output = run("sh", str(source / "install.sh"), "--help")
    assert code == 0
    accepted = re.findall(r"^ {12}(--[a-z-]+)\)", (source / "install.sh").read_text(), re.M)
    assert accepted and all(flag in output for flag in accepted)


def test_without_root_the_installer_says_how_to_run_it(source: Path) -> None:
    root()
    source.parent.chmod(0o755)
    command = [tool("setpriv"), "--reuid=65534", "--clear-groups", "sh", "-s"]
    done = subprocess.run(
        command,
        input=(source / "install.sh").read_bytes(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={"PATH": os.environ["PATH"]},
    )
    assert (done.returncode, b"sudo ./install.sh" in done.stdout) == (4, True)


def test_without_a_group_adm_the_trail_and_its_rotation_belong_to_root(target: Target, tmp_path: Path) -> None:
    root()
    groups = tmp_path / "group"
    with open("/etc/group") as lines:
        groups.write_text("".join(line for line in lines if not line.startswith("adm:")))
    script = 'mount --bind "$1" /etc/group; shift; exec "$@"'
    target.install(prefix=(tool("unshare"), "--mount", "sh", "-ec", script, "sh", str(groups)))
    assert target.path("/var/log/wg_monitor.log").stat().st_gid == 0
    rotation = target.path("/etc/logrotate.d/wg-monitor").read_text()
    assert "adm" not in rotation
    assert "create 0640 root root\n" in rotation and "su root root\n" in rotation
    for unit in UNITS:
        assert "\nGroup=root\n" in target.path("/etc/systemd/system/" + unit).read_text()


def test_with_a_group_adm_the_group_can_read_the_trail(target: Target) -> None:
    root()
    with open("/etc/group") as lines:
        adm = [int(line.split(":")[2]) for line in lines if line.startswith("adm:")]
    if not adm:
        lacking("needs a group adm")
    target.install()
    status = target.path("/var/log/wg_monitor.log").stat()
    assert (status.st_uid, status.st_gid) == (0, adm[0])
    assert "create 0640 root adm\n" in target.path("/etc/logrotate.d/wg-monitor").read_text()


# --- The installer, interrupted -----------------------------------------------------------------------------------


def program(directory: Path, name: str, script: str) -> str:
    """A program that replaces one of the system. Returns what to put before PATH."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n" + script)
    (directory / name).chmod(0o755)
    return "%s:" % directory


def leftovers(target: Target, scratch: Path) -> List[str]:
    return [*sorted(set(target.files()) - set(INSTALLED)), *(path.name for path in scratch.iterdir())]


@pytest.mark.parametrize("number", DEADLY)
def test_a_signal_leaves_no_temporary_file(target: Target, tmp_path: Path, number: int) -> None:
    """The signal arrives when the new file is complete but not in place yet."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = program(tmp_path / "bin", "mv", 'printf "%%s\\n" "$@" >"$0.seen"\nkill -%d $PPID\n' % number)
    target.install(prefix=("env", "TMPDIR=%s" % scratch), path=path, code=1)
    _, temporary, place = (tmp_path / "bin/mv.seen").read_text().splitlines()
    assert place == str(target.path(MODULE)) and temporary != place
    assert leftovers(target, scratch) == []
    assert not target.path(MODULE).exists()


@pytest.mark.parametrize("name", ["cp", "chmod", "chown"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_terminal_stops_the_installer_and_its_helper(
    target: Target, tmp_path: Path, name: str, number: int
) -> None:
    """Ctrl-C goes to the helper as well, which leaves half a file."""
    root()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    real = tool(name)
    path = program(tmp_path / "bin", name, '%s "$@"\necho >"$0.began"\nkill -STOP $$\n' % real)
    env = dict(os.environ, DESTDIR=str(target.root), PATH=path + os.environ["PATH"], TMPDIR=str(scratch))
    command = ["sh", str(target.source / "install.sh")]
    installer = subprocess.Popen(command, env=env, cwd="/", start_new_session=True)
    try:
        wait_for("the helper", (tmp_path / "bin" / (name + ".began")).exists)
        assert leftovers(target, scratch) != []
        os.killpg(installer.pid, number)
        os.killpg(installer.pid, signal.SIGCONT)
        assert installer.wait(60) == 1
    finally:
        if installer.poll() is None:
            os.killpg(installer.pid, signal.SIGKILL)
            installer.wait()
    assert leftovers(target, scratch) == []


def test_a_reader_that_goes_away_leaves_no_temporary_file(target: Target, tmp_path: Path) -> None:
    """The first line that the installer prints meets a closed pipe."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    reading, writing = os.pipe()
    os.close(reading)
    command = ["sh", str(target.source / "install.sh")]
    env = dict(os.environ, DESTDIR=str(target.root), TMPDIR=str(scratch))
    with open(writing, "wb", buffering=0) as closed:
        done = subprocess.run(command, env=env, cwd="/", stdout=closed, stderr=subprocess.PIPE)
    assert done.returncode != 0
    assert leftovers(target, scratch) == []


def test_logrotate_ignores_what_a_killed_installer_leaves_and_the_next_run_uses_it(
    target: Target, tmp_path: Path
) -> None:
    root()
    logrotate = tool("logrotate")
    target.install()
    rules = target.path("/etc/logrotate.d")
    (rules / "wg-monitor").write_text("# mine\n" + (rules / "wg-monitor").read_text())
    with open(str(target.source / "wg-monitor.logrotate"), "a") as shipped:
        shipped.write("# new in this release\n")
    path = program(tmp_path / "bin", "mv", "kill -KILL $PPID\n")
    target.install(path=path, code=-signal.SIGKILL)
    (left,) = {file.name for file in rules.iterdir()} - {"wg-monitor"}

    configuration = tmp_path / "logrotate.conf"
    configuration.write_text("include %s\n" % rules)
    state = "--state=%s" % (tmp_path / "status")
    code, output = run(logrotate, "--debug", state, str(configuration))
    assert code == 0 and "error" not in output, output
    assert "Ignoring %s, because of " % left in output

    target.install()
    assert {file.name for file in rules.iterdir()} == {"wg-monitor", "wg-monitor.dpkg-dist"}


# --- The rotation -------------------------------------------------------------------------------------------------


class Logs:
    """A directory of trails with the shipped rotation."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "log"
        self.directory.mkdir()
        self.rules = directory / "rules"
        self.rules.write_text((PROJECT / "wg-monitor.logrotate").read_text().replace("/var/log", str(self.directory)))
        self.rules.chmod(0o644)
        self.status = directory / "status"

    def rotate(self, *options: str) -> None:
        logrotate = tool("logrotate")
        assert run(logrotate, *options, "--state", str(self.status), str(self.rules)) == (0, "")

    def lines(self) -> List[bytes]:
        """The lines of all trails in the directory, oldest first."""
        found: List[bytes] = []
        for path in sorted(self.directory.glob("wg_monitor*"), key=lambda path: -self.age(path)):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            found += content.splitlines(keepends=True)
        return found

    @staticmethod
    def age(path: Path) -> int:
        number = re.search(r"\.log\.(\d+)(\.gz)?$", path.name)
        return int(number.group(1)) if number else 0


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    root()
    tool("logrotate")
    yield Logs(tmp_path)


def test_a_trail_is_rotated_at_one_megabyte_and_seven_are_kept(logs: Logs) -> None:
    trail = logs.directory / "wg_monitor.log"
    trail.write_bytes(b"x" * 1000 * 1000)
    logs.rotate()
    assert [path.name for path in logs.directory.iterdir()] == ["wg_monitor.log"]
    for _ in range(9):
        trail.write_bytes(b"x" * (1 << 20) + b"\n")
        logs.rotate()
    names = sorted(path.name for path in logs.directory.iterdir())
    older = ["wg_monitor.log.%d.gz" % number for number in range(2, 8)]
    assert names == ["wg_monitor.log", "wg_monitor.log.1", *older]


def test_the_group_can_read_the_new_file(logs: Logs) -> None:
    (logs.directory / "wg_monitor-wg0.log").write_text("line\n")
    logs.rotate("--force")
    status = (logs.directory / "wg_monitor-wg0.log").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_size) == (0o640, 0, 0)
    assert (logs.directory / "wg_monitor-wg0.log.1").read_text() == "line\n"


def test_missing_and_empty_trails_are_no_error(logs: Logs) -> None:
    logs.rotate("--force")
    (logs.directory / "wg_monitor.log").write_text("")
    logs.rotate("--force")
    assert [path.name for path in logs.directory.iterdir()] == ["wg_monitor.log"]


def test_the_locks_of_the_trails_are_not_rotated(logs: Logs) -> None:
    trails = [wg_monitor.Trail(str(logs.directory / name)) for name in ("wg_monitor.log", "wg_monitor-wg0.log")]
    for trail in trails:
        trail.position()
        assert trail.write([b"line\n"]) == (1, None)
    locks = {path: (path.stat().st_ino, path.read_bytes()) for path in logs.directory.glob(".*")}
    assert sorted(path.name for path in locks) == [".wg_monitor-wg0.log.lock", ".wg_monitor.log.lock"]
    logs.rotate("--force")
    assert len(list(logs.directory.glob("wg_monitor*.log.1"))) == 2
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in logs.directory.glob(".*")} == locks
    for trail in trails:
        with pytest.raises(wg_monitor.TrailBusy):
            wg_monitor.Trail(trail.path).open()
        trail.close()


def test_a_directory_that_a_group_can_write_is_rotated(logs: Logs) -> None:
    shutil.chown(str(logs.directory), 0, 4)
    logs.directory.chmod(0o775)
    (logs.directory / "wg_monitor.log").write_text("line\n")
    logs.rotate("--force")
    assert (logs.directory / "wg_monitor.log.1").exists()


def test_rotation_under_load_loses_and_duplicates_no_line(logs: Logs) -> None:
    """The daemon's code writes the trail and gets no signal about rotations."""
    trail = wg_monitor.Trail(str(logs.directory / "wg_monitor.log"))
    expected = [b"%06d %s\n" % (number, b"x" * 100) for number in range(3000)]
    rotations = 0
    begun = threading.Event()

    def write() -> None:
        for number, line in enumerate(expected):
            if number == 300:
                begun.set()
            trail.position()
            assert trail.write([line]) == (1, None)

    writer = threading.Thread(target=write)
    writer.start()
    assert begun.wait(60)
    while writer.is_alive() and rotations < 6:
        logs.rotate("--force")
        rotations += 1
    writer.join()
    trail.close()
    assert rotations >= 1
    assert logs.lines() == expected
