"""Settings: which values are accepted, and which are rejected with one line. No value falls back to another."""

from typing import Any, Dict, NamedTuple

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
    Rejected("neither true nor false", "DEBUG", "maybe"),
    Rejected("2", "DEBUG", "2"),
]


def field(variable: str) -> str:
    return variable.lower()


@pytest.mark.parametrize("case", ACCEPTED, ids=ids(ACCEPTED))
def test_accepted(case: Given) -> None:
    for settings in (parse_settings({field(case.variable): case.text}, {}), parse_settings({}, {case.variable: case.text})):
        assert settings == chosen(**{field(case.variable): case.value})


@pytest.mark.parametrize("case", REJECTED, ids=ids(REJECTED))
def test_rejected(case: Rejected) -> None:
    nothing: Dict[str, str] = {}
    for flags, variables in (({field(case.variable): case.text}, nothing), (nothing, {case.variable: case.text})):
        with pytest.raises(Refusal) as refusal:
            parse_settings(flags, variables)
        words = str(refusal.value)
        assert refusal.value.code == wg_monitor.EXIT_USAGE == 2
        assert words.startswith("%s: '%s' is not allowed; allowed: " % (case.variable, wg_monitor.printable(case.text, 80)))
        assert words.isprintable()
        assert len(words) < 300


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
        script_events=frozenset(["ONLINE", "OFFLINE", "REMOVED"]),
        state_path="",
        history_days=365,
        debug=False,
    )


def test_a_flag_overrides_a_variable() -> None:
    assert parse_settings({"interval": "5"}, {"INTERVAL": "7"}).interval == 5


def test_a_flag_overrides_an_invalid_variable() -> None:
    assert parse_settings({"interval": "5"}, {"INTERVAL": "abc"}).interval == 5


@pytest.mark.parametrize("option", OPTIONS, ids=[option.variable for option in OPTIONS])
def test_an_empty_value_is_unset(option: wg_monitor.Option) -> None:
    assert parse_settings({option.field: ""}, {option.variable: ""}) == parse_settings({}, {})


def test_an_empty_flag_does_not_override_a_variable() -> None:
    assert parse_settings({"interval": ""}, {"INTERVAL": "7"}).interval == 7


def test_unknown_variables_are_ignored() -> None:
    assert parse_settings({}, {"PATH": "x", "NOTIFY_SOCKET": "y", "interval": "1"}) == parse_settings({}, {})


def test_a_key_in_place_of_a_value_is_not_printed() -> None:
    with pytest.raises(Refusal) as refusal:
        parse_settings({"interface": PRIVATE_KEY}, {})
    assert PRIVATE_KEY not in str(refusal.value)


def test_every_option_is_a_field_of_the_settings() -> None:
    assert [option.field for option in OPTIONS] == list(wg_monitor.Settings._fields)
    assert [option.flag for option in OPTIONS] == ["--" + name.replace("_", "-") for name in wg_monitor.Settings._fields]
    assert all(option.meaning for option in OPTIONS)


# --- The command line ---------------------------------------------------------------------------------------------


def refused(*arguments: str) -> str:
    with pytest.raises(Refusal) as refusal:
        wg_monitor.parse_arguments(arguments)
    assert refusal.value.code == 2
    assert str(refusal.value).isprintable()
    return str(refusal.value)


@pytest.mark.parametrize(
    "arguments",
    [["--no-such-flag"], ["nonsense"], ["--interval"], ["--inter", "5"], ["check", "check"], ["--debug=maybe"]],
    ids=["an unknown flag", "an unknown command", "no value", "half a flag", "two commands", "a value where none goes"],
)
def test_invalid_usage(arguments: Any) -> None:
    assert "--help" in refused(*arguments)


def test_the_message_about_invalid_usage_is_one_printable_line() -> None:
    refused("--\x1b[31m\n[ERROR] forged")


def test_every_option_is_a_flag() -> None:
    arguments = [part for option in OPTIONS for part in ([option.flag, "x"] if option.metavar else [option.flag])]
    found = vars(wg_monitor.build_parser().parse_args(arguments))
    assert found.pop("command") is None
    assert found.pop("from_environment") is False
    assert found == {option.field: "x" if option.metavar else "true" for option in OPTIONS}


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_succeed(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        wg_monitor.build_parser().parse_args([flag])
    assert not end.value.code
    told = capsys.readouterr().out
    assert wg_monitor.VERSION in told if flag == "--version" else all(option.flag in told for option in OPTIONS)
