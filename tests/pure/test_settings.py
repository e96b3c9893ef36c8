"""Settings: which values are accepted, and which are rejected with one line. No value falls back to another."""

import re
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import pytest

import wg_monitor
from values import PRIVATE_KEY, chosen, ids
from wg_monitor import OPTIONS, Refusal, parse_settings


class Given(NamedTuple):
    name: str
    variable: str
    text: str
    value: Any


ACCEPTED = [
    Given("the shortest interval", "INTERVAL", "1", 1),
    Given("the longest interval, a year", "INTERVAL", "31536000", 31_536_000),
    Given("leading zeros", "THRESHOLD", "0060", 60),
    Given("a threshold", "THRESHOLD", "60", 60),
    Given("statistics", "STATS_INTERVAL", "86400", 86_400),
    Given("a timeout of the hook", "SCRIPT_TIMEOUT", "5", 5),
    Given("days of history", "HISTORY_DAYS", "1", 1),
    Given("a century of history", "HISTORY_DAYS", "36500", 36_500),
    Given("text", "LOG_FORMAT", "text", "text"),
    Given("JSON", "LOG_FORMAT", "json", "json"),
    Given("handshakes", "LIVENESS", "handshake", "handshake"),
    Given("traffic", "LIVENESS", "traffic", "traffic"),
    Given("one interface", "INTERFACE", "wg0", {"wg0"}),
    Given("two interfaces", "INTERFACE", "wg0,wg1", {"wg0", "wg1"}),
    Given("two interfaces with a space", "INTERFACE", "wg0, wg1", {"wg0", "wg1"}),
    Given("every character of an interface's name", "INTERFACE", "aZ9_=+.-", {"aZ9_=+.-"}),
    Given("an interface's name of 15 characters", "INTERFACE", "wg1234567890123", {"wg1234567890123"}),
    Given("events", "SCRIPT_EVENTS", "ROAMING,IFUP", {"ROAMING", "IFUP"}),
    Given("all events", "SCRIPT_EVENTS", ", ".join(wg_monitor.EVENT_KINDS), set(wg_monitor.EVENT_KINDS)),
    Given("a path", "LOG_PATH", "/var/log/other.log", "/var/log/other.log"),
    Given("a path with a space", "ON_CHANGE_SCRIPT", "/usr/local/lib/my hook", "/usr/local/lib/my hook"),
    Given("a path in other scripts", "STATE_PATH", "/var/lib/größe/状态.db", "/var/lib/größe/状态.db"),
    Given("a file of names", "PEER_NAMES", "/etc/wireguard/clients.txt", ("/etc/wireguard/clients.txt",)),
    Given("files and directories", "PEER_NAMES", "/b/, /a a", ("/b", "/a a")),
    Given("true", "DEBUG", "true", True),
    Given("yes", "DEBUG", "yes", True),
    Given("1", "DEBUG", "1", True),
    Given("True", "DEBUG", "True", True),
    Given("false", "DEBUG", "false", False),
    Given("no", "DEBUG", "no", False),
    Given("0", "DEBUG", "0", False),
]


class Rejected(NamedTuple):
    name: str
    variable: str
    text: str


SECONDS = ("INTERVAL", "THRESHOLD", "STATS_INTERVAL", "SCRIPT_TIMEOUT", "HISTORY_DAYS")
NO_NUMBERS = [
    ("zero", "0"), ("a negative number", "-5"), ("a sign", "+5"), ("letters", "abc"), ("an exponent", "1e3"),
    ("a fraction", "1.5"), ("hexadecimal digits", "0x10"), ("an underscore", "1_0"), ("other digits", "١٢"),
    ("a space", " 5"), ("a unit", "5s"), ("too many", "31536001"), ("far too many", "9" * 5000), ("a line end", "5\n"),
]  # fmt: skip

REJECTED = [Rejected("%s as %s" % (what, variable), variable, text) for variable in SECONDS for what, text in NO_NUMBERS] + [
    Rejected("a year and a second", "INTERVAL", "31536001"),
    Rejected("more than a century", "HISTORY_DAYS", "36501"),
    Rejected("an unknown format", "LOG_FORMAT", "xml"),
    Rejected("a format in capitals", "LOG_FORMAT", "JSON"),
    Rejected("an unknown liveness", "LIVENESS", "ping"),
    Rejected("an interface that is a path", "INTERFACE", "../x"),
    Rejected("an interface with a slash", "INTERFACE", "wg/0"),
    Rejected("an interface with a space", "INTERFACE", "wg0 wg1"),
    Rejected("an interface of 16 characters", "INTERFACE", "wg12345678901234"),
    Rejected("an interface that is empty", "INTERFACE", "wg0,"),
    Rejected("only a comma", "INTERFACE", ","),
    Rejected("an interface with a line end", "INTERFACE", "wg\n0"),
    Rejected("an interface of other letters", "INTERFACE", "größe"),
    Rejected("an unknown event", "SCRIPT_EVENTS", "ONLINE,GONE"),
    Rejected("an event in small letters", "SCRIPT_EVENTS", "online"),
    Rejected("an event that is empty", "SCRIPT_EVENTS", "ONLINE,"),
    Rejected("a relative path", "LOG_PATH", "wg_monitor.log"),
    Rejected("a relative path through the parent", "LOG_PATH", "../wg_monitor.log"),
    Rejected("a directory as trail", "LOG_PATH", "/var/log/"),
    Rejected("a trail with a line end", "LOG_PATH", "/var/log/a\nb"),
    Rejected("a trail with an escape sequence", "LOG_PATH", "/var/log/\x1b[31m"),
    Rejected("a trail with a bidirectional mark", "LOG_PATH", "/var/log/\u202egol"),
    Rejected("a trail with NUL", "LOG_PATH", "/var/log/a\0b"),
    Rejected("a trail that is not UTF-8", "LOG_PATH", "/var/log/\udcff"),
    Rejected("a hook by a relative path", "ON_CHANGE_SCRIPT", "./hook"),
    Rejected("a hook in the home directory", "ON_CHANGE_SCRIPT", "~/hook"),
    Rejected("a store by a relative path", "STATE_PATH", "state.db"),
    Rejected("names by a relative path", "PEER_NAMES", "/etc/wireguard,names"),
    Rejected("names at an empty path", "PEER_NAMES", "/etc/wireguard,"),
    Rejected("names everywhere", "PEER_NAMES", "/"),
    Rejected("names with a line end", "PEER_NAMES", "/etc/wire\nguard"),
    Rejected("neither true nor false", "DEBUG", "maybe"),
    Rejected("2", "DEBUG", "2"),
]


def field(variable: str) -> str:
    return variable.lower()


def given(name: str, text: str) -> Dict[str, str]:
    """`name` is a flag or a variable, as the administrator writes it."""
    return {name[2:].replace("-", "_") if name.startswith("--") else name: text}


def parsed(name: str, text: str) -> wg_monitor.Settings:
    return parse_settings(given(name, text), {}) if name.startswith("--") else parse_settings({}, given(name, text))


def spellings(variable: str) -> List[str]:
    """INTERVAL and --interval"""
    return [variable, "--" + variable.lower().replace("_", "-")]


def names(**changes: str) -> Dict[str, str]:
    """The name of each field: its variable, except some."""
    return {**{option.field: option.variable for option in OPTIONS}, **changes}


@pytest.mark.parametrize("case", ACCEPTED, ids=ids(ACCEPTED))
def test_accepted(case: Given) -> None:
    for name in spellings(case.variable):
        expected = chosen(**{field(case.variable): case.value}, names=names(**{field(case.variable): name}))
        assert parsed(name, case.text) == expected


@pytest.mark.parametrize("case", REJECTED, ids=ids(REJECTED))
def test_rejected(case: Rejected) -> None:
    """One form: NAME: 'VALUE' what was found: why it matters; how to fix it."""
    for name in spellings(case.variable):
        with pytest.raises(Refusal) as refusal:
            parsed(name, case.text)
        words = str(refusal.value)
        assert refusal.value.code == wg_monitor.EXIT_USAGE == 2
        shown = "%s: '%s' is invalid: no default replaces it; use " % (name, wg_monitor.printable(case.text, 80))
        assert words.startswith(shown) and len(words) > len(shown)
        assert words.isprintable()
        assert len(words) < 300


def test_a_refusal_says_what_was_found_why_it_matters_and_how_to_fix_it() -> None:
    refusal = Refusal("INTERVAL: 'x' is invalid", "no default replaces it", "use whole seconds", 7)
    assert str(refusal) == "INTERVAL: 'x' is invalid: no default replaces it; use whole seconds"
    assert refusal.code == 7
    assert Refusal("a", "b", "c").code == wg_monitor.EXIT_USAGE


NAMED = [
    ("a flag", {"interval": "x"}, {}, "--interval: 'x' is invalid: "),
    ("a flag of two words", {"stats_interval": "x"}, {}, "--stats-interval: 'x' is invalid: "),
    ("a variable", {}, {"INTERVAL": "x"}, "INTERVAL: 'x' is invalid: "),
    ("a flag that overrides a good variable", {"interval": "x"}, {"INTERVAL": "5"}, "--interval: 'x' is invalid: "),
    ("a variable beside an empty flag", {"interval": ""}, {"INTERVAL": "x"}, "INTERVAL: 'x' is invalid: "),
]


@pytest.mark.parametrize(("name", "flags", "variables", "words"), NAMED, ids=ids(NAMED))
def test_a_refusal_names_the_setting_as_it_was_given(
    name: str, flags: Dict[str, str], variables: Dict[str, str], words: str
) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_settings(flags, variables)
    assert str(refusal.value).startswith(words)


PLACES: List[Tuple[str, Callable[[wg_monitor.Settings], str], Dict[str, str]]] = [
    (
        "LOG_PATH",
        wg_monitor.place_of_trail,
        {
            "/etc/trail.log": "cannot be used: it is not under /var/log or /tmp; choose a path there",
            "/tmp/none/trail.log": "cannot be used: there is no directory /tmp/none; create it first",
        },
    ),
    (
        "STATE_PATH",
        wg_monitor.place_of_store,
        {
            "/etc/state.db": "cannot be used: it is not under /var/lib or /run or /tmp; choose a path there",
            "/run/none/state.db": "cannot be used: there is no directory /run/none; create it first",
            "/tmp/state.db": "cannot be used: others can write to /tmp .*; choose another path",
        },
    ),
    ("ON_CHANGE_SCRIPT", wg_monitor.fit_script, {"/none": "is unfit: No such .*; .+", "/dev/null": "is unfit: it is not .*; .+"}),
]


@pytest.mark.parametrize(("variable", "judge", "paths"), PLACES, ids=[case[0] for case in PLACES])
def test_a_refusal_of_a_path_has_the_same_form(
    variable: str, judge: Callable[[wg_monitor.Settings], str], paths: Dict[str, str]
) -> None:
    for name in spellings(variable):
        for path, words in paths.items():
            with pytest.raises(Refusal) as refusal:
                judge(parsed(name, path))
            assert re.fullmatch("%s: '%s' %s" % (name, path, words), str(refusal.value)), str(refusal.value)
            assert re.fullmatch("[^:;]+: '[^']+' [^:;]+: [^;]+; [^;]+", str(refusal.value)), str(refusal.value)
            assert refusal.value.code == wg_monitor.EXIT_USAGE


def test_defaults() -> None:
    assert parse_settings({}, {}) == wg_monitor.Settings(
        log_path="/var/log/wg_monitor.log",
        log_format="text",
        interval=30,
        threshold=180,
        liveness="handshake",
        stats_interval=3600,
        interface=frozenset(),
        on_change_script="",
        script_timeout=30,
        script_delay=0,
        script_events=frozenset(["ONLINE", "OFFLINE", "REMOVED"]),
        state_path="",
        history_days=365,
        peer_names=(),
        debug=False,
        names=names(),
    )


def test_a_flag_beats_a_variable() -> None:
    settings = parse_settings({"interval": "5"}, {"INTERVAL": "7"})
    assert (settings.interval, settings.names["interval"]) == (5, "--interval")


def test_a_flag_overrides_an_invalid_variable() -> None:
    assert parse_settings({"interval": "5"}, {"INTERVAL": "abc"}).interval == 5


@pytest.mark.parametrize("option", OPTIONS, ids=[option.variable for option in OPTIONS])
def test_an_empty_value_is_unset(option: wg_monitor.Option) -> None:
    assert parse_settings({option.field: ""}, {option.variable: ""}) == parse_settings({}, {})


def test_an_empty_flag_does_not_beat_a_variable() -> None:
    settings = parse_settings({"interval": ""}, {"INTERVAL": "7"})
    assert (settings.interval, settings.names["interval"]) == (7, "INTERVAL")


def test_unknown_variables_are_ignored() -> None:
    assert parse_settings({}, {"PATH": "x", "NOTIFY_SOCKET": "y", "interval": "1"}) == parse_settings({}, {})


def test_a_key_in_place_of_a_value_is_not_printed() -> None:
    with pytest.raises(Refusal) as refusal:
        parse_settings({"interface": PRIVATE_KEY}, {})
    assert PRIVATE_KEY not in str(refusal.value)


def test_every_option_is_a_field_of_the_settings() -> None:
    fields = [name for name in wg_monitor.Settings._fields if name != "names"]
    assert [option.field for option in OPTIONS] == fields
    assert [option.flag for option in OPTIONS] == ["--" + name.replace("_", "-") for name in fields]
    assert all(option.meaning for option in OPTIONS)


def test_all_refusals_of_the_settings_at_once() -> None:
    """The defaults take the places of what is invalid."""
    wrong: Dict[str, Refusal] = {}
    settings = parse_settings({"interval": "x"}, {"DEBUG": "maybe", "THRESHOLD": "60"}, wrong)
    assert settings == chosen(threshold=60, names=names(interval="--interval"))
    assert {name: str(refusal).partition(" is ")[0] for name, refusal in wrong.items()} == {
        "interval": "--interval: 'x'",
        "debug": "DEBUG: 'maybe'",
    }


# --- Names that are no settings -----------------------------------------------------------------------------------

MISTAKEN = {
    "INTERVALL": "INTERVAL",
    "INTERVALS": "INTERVAL",
    "INTREVAL": "INTERVAL",
    "INTERVAL_S": "INTERVAL",
    "NTERVAL": "INTERVAL",
    "interval": "INTERVAL",
    "TRESHOLD": "THRESHOLD",
    "THRESHHOLD": "THRESHOLD",
    "INTERFACES": "INTERFACE",
    "LIVELINESS": "LIVENESS",
    "DEBUGG": "DEBUG",
    "STATS_INTERVALL": "STATS_INTERVAL",
    "LOG_FMT": "LOG_PATH, LOG_FORMAT",
    "LOG_FILE": "LOG_PATH, LOG_FORMAT",
    "STATE_FILE": "STATE_PATH",
    "HISTORY": "HISTORY_DAYS",
    "SCRIPT_EVENT": "SCRIPT_TIMEOUT, SCRIPT_DELAY, SCRIPT_EVENTS",
    "ON_CHANGE": "ON_CHANGE_SCRIPT",
}

# Of a login, of systemd.exec(5) under "Environment variables set or propagated by the service manager", of containers.
OTHERS = """
    PATH HOME LANG LANGUAGE LC_ALL LC_CTYPE TZ USER LOGNAME SHELL PWD OLDPWD SHLVL TERM COLORTERM HOSTNAME MAIL EDITOR PAGER _
    SUDO_USER SUDO_UID SUDO_GID SUDO_COMMAND SSH_CONNECTION SSH_CLIENT SSH_TTY SSH_AUTH_SOCK DISPLAY LS_COLORS LESS HISTSIZE
    XDG_RUNTIME_DIR XDG_SESSION_ID DBUS_SESSION_BUS_ADDRESS DEBIAN_FRONTEND http_proxy no_proxy PYTHONPATH container
    INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET WATCHDOG_PID WATCHDOG_USEC MAINPID MANAGERPID SYSTEMD_EXEC_PID LISTEN_FDS
    LISTEN_PID LISTEN_FDNAMES RUNTIME_DIRECTORY STATE_DIRECTORY CACHE_DIRECTORY LOGS_DIRECTORY CONFIGURATION_DIRECTORY
    CREDENTIALS_DIRECTORY MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE FDSTORE TRIGGER_UNIT TRIGGER_PATH REMOTE_ADDR
    DEBUG_INVOCATION SERVICE_RESULT EXIT_CODE EXIT_STATUS PIDFILE MONITOR_UNIT LOG_NAMESPACE KUBERNETES_SERVICE_HOST
""".split()


@pytest.mark.parametrize(("name", "meant"), MISTAKEN.items())
def test_a_name_that_is_nearly_a_setting(name: str, meant: str) -> None:
    assert wg_monitor.meant_by(name) == meant
    assert wg_monitor.mistaken({name: "x", "PATH": "/bin"}) == [name]
    assert wg_monitor.no_setting(name) == "%s is not a setting and has no effect; similar ones: %s" % (name, meant)


def test_a_setting_and_what_others_set_is_no_mistake() -> None:
    variables = [option.variable for option in OPTIONS]
    assert wg_monitor.mistaken(dict.fromkeys([*variables, *OTHERS], "x")) == []


def test_a_name_is_shown_safely() -> None:
    assert wg_monitor.no_setting("X\n[ERROR] \x1b").startswith("X [ERROR] ? is not a setting")
    assert wg_monitor.no_setting("FOO").endswith("; similar ones: none")


# --- The command line ---------------------------------------------------------------------------------------------


def refused(*arguments: str) -> str:
    with pytest.raises(Refusal) as refusal:
        wg_monitor.parse_arguments(arguments)
    assert refusal.value.code == 2
    assert str(refusal.value).isprintable()
    return str(refusal.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-flag"],
        ["nonsense"],
        ["--interval"],
        ["--inter", "5"],
        ["check", "wg0", "wg1"],
        ["wg0", "check"],
        ["--debug", "false"],
        ["check", "wg0", "--from-environment"],
        ["--from-environment", "check", "wg0"],
    ],
    ids=[
        "an unknown flag",
        "an unknown command",
        "no value",
        "an abbreviated flag",
        "two instances",
        "an instance without a command",
        "a value for --debug without =",
        "an instance has an environment of its own",
        "the same, the other way round",
    ],
)
def test_wrong_usage(arguments: Any) -> None:
    words = refused(*arguments)
    assert words.startswith("invalid usage: ") and words.endswith("; see --help")


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], None),
        (["--debug"], "true"),
        (["--debug=true"], "true"),
        (["--debug=false"], "false"),
        (["--debug=no"], "no"),
        (["--debug="], ""),
        (["--debug", "--debug=0"], "0"),
        (["--debug=0", "--debug"], "true"),
    ],
)
def test_debug_is_true_alone_and_takes_a_value_after_an_equals_sign(arguments: List[str], value: Any) -> None:
    assert wg_monitor.parse_arguments(arguments)["debug"] == value


def test_a_false_flag_overrides_a_true_variable() -> None:
    assert parse_settings({"debug": "false"}, {"DEBUG": "true"}).debug is False


@pytest.mark.parametrize(
    ("arguments", "instance"),
    [
        (["check"], None),
        (["check", "wg0"], "wg0"),
        (["--debug", "check"], None),
        (["--debug", "check", "wg0"], "wg0"),
        (["--interval", "5", "check", "wg0", "--debug"], "wg0"),
        (["check", "--interval", "5"], None),
        (["check", "check"], "check"),
    ],
)
def test_flags_may_stand_before_and_after_the_command(arguments: List[str], instance: Any) -> None:
    found = wg_monitor.parse_arguments(arguments)
    assert (found["command"], found["instance"]) == ("check", instance)


def test_the_message_about_invalid_usage_is_one_printable_line() -> None:
    refused("--\x1b[31m\n[ERROR] forged")


def test_every_option_is_a_flag() -> None:
    arguments = [part for option in OPTIONS for part in ([option.flag, "x"] if option.metavar else [option.flag])]
    found = vars(wg_monitor.build_parser().parse_args(arguments))
    assert found.pop("command") is None and found.pop("instance") is None
    assert found.pop("from_environment") is False
    assert found == {option.field: "x" if option.metavar else "true" for option in OPTIONS}


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_succeed(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        wg_monitor.build_parser().parse_args([flag])
    assert not end.value.code
    told = capsys.readouterr().out
    assert wg_monitor.VERSION in told if flag == "--version" else all(option.flag in told for option in OPTIONS)
