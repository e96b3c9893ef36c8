"""Lines of a settings file, for the comparison of `check` with what systemd and shells really read."""

from typing import Dict, List, NamedTuple


class Line(NamedTuple):
    name: str
    text: bytes
    values: Dict[str, str] = {}


# `check` accepts these, and reads what systemd and every shell read.
ALIKE: List[Line] = [
    Line("nothing", b""),
    Line("an empty line", b"\n"),
    Line("blanks", b" \t \n"),
    Line("a comment", b"# a comment; with 'quotes\", $HOME `and` more\n"),
    Line("an indented comment", b" \t# a comment\n"),
    Line("an empty comment", b"#\n"),
    Line("a comment in Latin-1", b"# Gr\xf6\xdfe\n"),
    Line("a comment with a backslash", b"# C:\\etc\nA=1\n", {"A": "1"}),
    Line("a word", b"A=text\n", {"A": "text"}),
    Line("a word without a line end", b"A=text", {"A": "text"}),
    Line("an indented name", b" \tA=text\n", {"A": "text"}),
    Line("blanks after a word", b"A=text \t \n", {"A": "text"}),
    Line("an empty value", b"A=\n", {"A": ""}),
    Line("an empty value and blanks", b"A= \t\n", {"A": ""}),
    Line("an empty value without a line end", b"A=", {"A": ""}),
    Line("empty quotes", b"A=''\nB=\"\"\n", {"A": "", "B": ""}),
    Line("the last one counts", b"A=1\nA=2\n", {"A": "2"}),
    Line("the last one counts, even if it is empty", b"A=1\nA=\n", {"A": ""}),
    Line("every character of a name", b"_aZ9=1\n", {"_aZ9": "1"}),
    Line("an equals sign", b"A=a=b\n", {"A": "a=b"}),
    Line("a number sign in a word", b"A=a#b\nB=#b\n", {"A": "a#b", "B": "#b"}),
    Line("a list", b"A=wg0,wg_1,wg=+.-\n", {"A": "wg0,wg_1,wg=+.-"}),
    Line("a path", b"A=/var/log/wg-monitor.log\n", {"A": "/var/log/wg-monitor.log"}),
    Line("harmless signs", b"A=%n@{x,y}[a]*?!^:%%\n", {"A": "%n@{x,y}[a]*?!^:%%"}),
    Line("braces at the beginning", b"A={a,b}\nB=[ab]*\nC=!x\n", {"A": "{a,b}", "B": "[ab]*", "C": "!x"}),
    Line("other scripts", "A=/var/lib/größe/状态.db\n".encode(), {"A": "/var/lib/größe/状态.db"}),
    Line(
        "other scripts in quotes", "A='größe 状态'\nB=\"größe 状态\"\n".encode(), {"A": "größe 状态", "B": "größe 状态"}
    ),
    Line("single quotes", b"A='a b'\n", {"A": "a b"}),
    Line(
        "special characters in single quotes", b"A='$x `y` \\z \"q\" ;#&|<>()~*'\n", {"A": '$x `y` \\z "q" ;#&|<>()~*'}
    ),
    Line("double quotes", b'A="a b"\n', {"A": "a b"}),
    Line("special characters in double quotes", b'A="it\'s ;#&|<>()~* !x"\n', {"A": "it's ;#&|<>()~* !x"}),
    Line("escapes in double quotes", b'A="\\$x \\`y\\` \\"z\\" \\\\"\n', {"A": '$x `y` "z" \\'}),
    Line("an escaped backslash before the last quote", b'A="a\\\\"\nB="b"\n', {"A": "a\\", "B": "b"}),
    Line("blanks in and after quotes", b"A=' a ' \t\nB=\" b \" \n", {"A": " a ", "B": " b "}),
    Line("a tab in quotes", b"A='a\tb'\nB=\"a\tb\"\n", {"A": "a\tb", "B": "a\tb"}),
    Line("escapes in a word", b"A=a\\ b\\$c\\'d\\\"e\\\\f\\#g\\;h\\~\\xi\n", {"A": "a b$c'd\"e\\f#g;h~xi"}),
    Line("an escaped blank at the beginning", b"A=\\ a\n", {"A": " a"}),
    Line("an escaped blank at the end", b"A=a\\ \n", {"A": "a "}),
    Line("an escaped blank and a blank at the end", b"A=a\\  \n", {"A": "a "}),
    Line("an escaped tilde", b"A=\\~/x\n", {"A": "~/x"}),
    Line("quotes side by side", b"A='a'\"b\"'c'\n", {"A": "abc"}),
    Line("a word after quotes", b"A='a b'c\nB=\"a b\"c\\ d\n", {"A": "a bc", "B": "a bc d"}),
    Line("a number sign after quotes", b"A='a'#b\n", {"A": "a#b"}),
    Line("a continued word", b"A=a\\\nb\nB=1\n", {"A": "ab", "B": "1"}),
    Line("a word continued before its end", b"A=a\\\n\nB=1\n", {"A": "a", "B": "1"}),
    Line("a value continued before its beginning", b"A=\\\na\n", {"A": "a"}),
    Line("continued double quotes", b'A="a,\\\nb"\nB=1\n', {"A": "a,b", "B": "1"}),
    Line("continued single quotes keep the backslash", b"A='a\\\nb'\n", {"A": "a\\\nb"}),
    Line("a line end in quotes", b"A='a\nb'\nB=\"c\nd\"\nC=1\n", {"A": "a\nb", "B": "c\nd", "C": "1"}),
    Line("a line in quotes that looks like a setting", b"A='\nB=1\n'\nC=2\n", {"A": "\nB=1\n", "C": "2"}),
    Line("the shipped form", b"# the trail\n#A=1\n\n# x\nB=2\n", {"B": "2"}),
]


class Refused(NamedTuple):
    name: str
    text: bytes
    lines: List[int]  # the numbers of the lines that are refused
    values: Dict[str, str] = {}


# `check` refuses these by line. The most part is read differently by systemd and by a shell.
REFUSED: List[Refused] = [
    Refused("export", b"export A=1\n", [1]),
    Refused("a variable", b"A=$HOME\n", [1]),
    Refused("a variable in double quotes", b'A="$HOME"\n', [1]),
    Refused("a command", b"A=$(touch /tmp/wg-monitor-executed)\n", [1]),
    Refused("a command in backquotes", b"A=`touch /tmp/wg-monitor-executed`\n", [1]),
    Refused("a command in double quotes", b'A="`touch /tmp/wg-monitor-executed`"\n', [1]),
    Refused("a command after a value", b"A=1; touch /tmp/wg-monitor-executed\n", [1]),
    Refused("a command on its own", b"touch /tmp/wg-monitor-executed\n", [1]),
    Refused("a comment after a value", b"A=1 # seconds\n", [1]),
    Refused("a comment after quotes", b"A='1' # seconds\n", [1]),
    Refused("a semicolon comment", b"; a comment\n", [1]),
    Refused("two words", b"A=wg0, wg1\n", [1]),
    Refused("a blank before the equals sign", b"A =1\n", [1]),
    Refused("a blank after the equals sign", b"A= 1\n", [1]),
    Refused("a quote in a word", b"A=a'b'\n", [1]),
    Refused("double quotes in a word", b'A=a"b"\n', [1]),
    Refused("a word after a blank after quotes", b"A='a' b\n", [1]),
    Refused("an open quote", b"A='a\nB=2\n", [1], {"B": "2"}),
    Refused("open double quotes", b'A="a\nB=2\n', [1], {"B": "2"}),
    Refused("a backslash at the end of the file", b"A=a\\", [1]),
    Refused("two of them, which bash misreads after two continuations", b"A=\\\n\\\n\\\\", [1, 2, 3]),
    Refused("a blank before a continuation", b"A=a \\\nB=2\n", [1], {"B": "2"}),
    Refused("a blank after a continuation", b"A=\\\n b\n", [1, 2]),
    Refused("a continued comment", b"# a comment \\\nA=1\n", [1], {"A": "1"}),
    Refused("a tilde", b"A=~/x\n", [1]),
    Refused("a tilde after a colon", b"A=/x:~/y\n", [1]),
    Refused("an ampersand", b"A=a&b\n", [1]),
    Refused("a pipe", b"A=a|b\n", [1]),
    Refused("a redirection", b"A=a>/tmp/wg-monitor-executed\n", [1]),
    Refused("parentheses", b"A=(a b)\n", [1]),
    Refused("a name without a value", b"A\n", [1]),
    Refused("a name with a dash", b"A-B=1\n", [1]),
    Refused("a name with a digit first", b"1A=1\n", [1]),
    Refused("a name in other letters", "GRÖSSE=1\n".encode(), [1]),
    Refused("a name in quotes", b"'A'=1\n", [1]),
    Refused("no name", b"=1\n", [1]),
    Refused("an appended value", b"A=1\nA+=2\n", [2], {"A": "1"}),
    Refused("line ends of another system", b"A=1\r\nB=2\r\n", [1, 2]),
    Refused("a carriage return in quotes", b"A='1\r'\n", [1]),
    Refused("a carriage return in a comment", b"# x\rA=1\n", [1]),
    Refused("an escape character in quotes", b"A='\x1b[31m'\n", [1]),
    Refused("NUL", b"A=1\0\n", [1]),
    Refused("a form feed", b"\x0c\nA=1\x0b\n", [1, 2]),
    Refused("bytes that are not UTF-8", b"A=\xff\nB='\xfe'\n", [1, 2]),
    Refused("a noncharacter", "A='\ufdd0'\n".encode(), [1]),
    Refused("a byte order mark", "\ufeffA=1\nB=2\n".encode(), [1], {"B": "2"}),
    Refused("a space of another kind", "A=1\u00a0\nB='1\u3000'\n".encode(), [1, 2]),
    Refused("every one by its line", b"\n# x\nA=$x\nB='1\n2'\nC=1 # x\nD=4\n", [3, 6], {"B": "1\n2", "D": "4"}),
]
