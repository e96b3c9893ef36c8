"""Prometheus' text format as a test reads it, and Prometheus' own judgement."""

import re
import subprocess
from typing import Dict, FrozenSet, List, Tuple

from harness import need

Labels = FrozenSet[Tuple[str, str]]
Samples = Dict[Tuple[str, Labels], float]

LABEL = r'([a-z_]+)="((?:[^"\\\n]|\\.)*)"'
SAMPLE = re.compile(r"([a-z_]+)(?:\{((?:%s,?)*)\})? (\S+)" % LABEL)
UNESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def labels(**pairs: str) -> Labels:
    return frozenset(pairs.items())


def samples_of(text: str) -> Samples:
    """The value of each sample. No sample may occur twice."""
    found: Samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            pairs = re.findall(LABEL, match.group(2) or "")
            values = {(name, re.sub(r"\\.", lambda m: UNESCAPED[m.group()], value)) for name, value in pairs}
            sample = match.group(1), frozenset(values)
            assert sample not in found, line
            found[sample] = float(match.group(5))
    return found


def family(samples: Samples, name: str) -> Dict[Labels, float]:
    return {labels: value for (metric, labels), value in samples.items() if metric == name}


def one(samples: Samples, name: str, **pairs: str) -> float:
    return samples[name, labels(**pairs)]


def comments_of(text: str) -> List[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def judge(text: str) -> None:
    """Prometheus accepts the text and has nothing to recommend."""
    need("promtool", root=False)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
