#!/usr/bin/env python3
"""What the page of `wg-monitor sessions --format html` costs: a year of 300 peers with 50,000 sessions, written by the
command from a store, and opened in Chromium. The bars: 5 s, 200 MiB, 6 MB, and 2 s until the browser reacts.

    python3 tests/bench_page.py [PEERS SESSIONS]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "support")]

from browser import Browser  # noqa: E402

TIMES = "const [entry] = performance.getEntriesByType('navigation'); return entry.domInteractive"
FRAME = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))"


def main(peers: str = "300", sessions: str = "50000") -> int:
    with tempfile.TemporaryDirectory() as folder:
        store, page = Path(folder, "state.db"), Path(folder, "page.html")
        maker = [sys.executable, str(HERE / "support" / "year.py"), "store", str(store), peers, sessions]
        subprocess.run(maker, stdout=subprocess.DEVNULL, check=True)
        begun = time.monotonic()
        with page.open("wb") as output:
            program = [sys.executable, "-IS", str(HERE.parent / "wg_monitor.py"), "sessions"]
            process = subprocess.Popen([*program, "--format", "html", "--store", str(store)], stdout=output)
            _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        wall, cpu = time.monotonic() - begun, usage.ru_utime + usage.ru_stime
        print("%s peers, %s sessions: written in %.1f s (CPU %.1f s)," % (peers, sessions, wall, cpu), end=" ")
        print("%.0f MiB, %.1f MB;" % (usage.ru_maxrss / 1024, page.stat().st_size / 1e6), end=" ")
        with Browser() as browser:
            browser.open(page)
            drawn = browser.ask("/execute/async", args=[], script=FRAME)
            print("parsed and its script run after %.1f s, drawn after %.1f s" % (browser.run(TIMES) / 1000, drawn / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
