"""A real browser: Debian's Chromium, driven over WebDriver with the standard library."""

import base64
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Sequence, Type

from harness import PATIENCE_S, PROJECT, lacking

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # W3C WebDriver: what names an element
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Left": "\ue012", "Up": "\ue013", "Right": "\ue014",
        "Down": "\ue015", "Home": "\ue011", "End": "\ue010", "Space": " "}  # fmt: skip
AXE = PROJECT / ".venv" / "axe-core.tgz"  # tests/run fetches it


class Browser:
    """A browser with one window and a profile of its own."""

    def __init__(self, language: str = "en") -> None:
        if not shutil.which("chromium") or not shutil.which("chromedriver"):
            lacking("needs chromium and chromedriver: apt-get install chromium chromium-driver")
        self.profile = tempfile.mkdtemp(prefix="wg_monitor-browser-")
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=dict(os.environ, TZ="UTC", LC_ALL="C.UTF-8"),
        )  # fmt: skip
        assert self.driver.stdout is not None
        lines = map(re.compile(r"successfully on port (\d+)").search, self.driver.stdout)
        port = next(line.group(1) for line in lines if line)
        self.address = "http://127.0.0.1:%s/session" % port
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--user-data-dir=" + self.profile,
                     "--disable-dev-shm-usage", "--lang=" + language]  # fmt: skip
        options = {"args": arguments, "binary": shutil.which("chromium"), "perfLoggingPrefs": {"enableNetwork": True}}
        logs = {"browser": "ALL", "performance": "ALL"}
        patience = {"script": 4 * PATIENCE_S * 1000, "pageLoad": 4 * PATIENCE_S * 1000}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs, "timeouts": patience}
        self.address += "/" + self.ask("", capabilities={"alwaysMatch": wanted})["sessionId"]

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self.send("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.communicate()
            shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method: str, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5 * PATIENCE_S) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.loads(error.read())["value"]["message"]) from None

    def ask(self, path: str, **body: Any) -> Any:
        return self.send("POST", path, **body)

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.ask("/goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.ask("/execute/sync", script=script, args=list(arguments))

    def open(self, path: Path, width: int = 1360, height: int = 900, dark: bool = False, touch: bool = False,
             scripts: bool = True) -> None:  # fmt: skip
        """Open a file in a window of this size."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.devtools("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.devtools("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.logs("browser"), self.logs("performance")
        self.ask("/url", url=path.as_uri())

    def logs(self, kind: str) -> List[Dict[str, Any]]:
        return self.ask("/se/log", type=kind)  # type: ignore[no-any-return]

    def requests(self) -> List[str]:
        """What the browser has requested since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.logs("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def find(self, css: str) -> Dict[str, str]:
        return self.ask("/element", using="css selector", value=css)  # type: ignore[no-any-return]

    def texts(self, css: str) -> List[str]:
        """The texts of all elements, whether they can be seen or not."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", css)  # type: ignore

    def act(self, kind: str, *steps: Dict[str, Any], **parameters: Any) -> None:
        self.ask("/actions", actions=[{"type": kind, "id": kind + str(parameters), "actions": list(steps), **parameters}])

    def move(self, x: float, y: float, click: bool = False, touch: bool = False) -> None:
        """Move the pointer to a place in the window."""
        steps: List[Dict[str, Any]] = [{"type": "pointerMove", "duration": 0, "x": int(x), "y": int(y)}]
        if click or touch:
            steps += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self.act("pointer", *steps, parameters={"pointerType": "touch" if touch else "mouse"})

    def point_at(self, css: str, number: int = 0, click: bool = False, touch: bool = False) -> None:
        """Move the pointer to the middle of an element."""
        box = self.run(
            "const e = document.querySelectorAll(arguments[0])[arguments[1]]; e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]",
            css, number,
        )  # fmt: skip
        self.move(box[0], box[1], click, touch)

    def press(self, *names: str) -> None:
        for name in names:
            key = KEYS.get(name, name)
            self.act("key", {"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})

    def picture(self, path: Path, whole: bool = False) -> None:
        data = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def print(self, path: Path) -> None:
        """Print the page to PDF, as its own style wants it."""
        data = self.devtools("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def violations(self) -> List[str]:
        """What axe-core finds, in this state of the page."""
        if not AXE.is_file():
            lacking("needs axe-core: tests/run fetches it")
        with tarfile.open(str(AXE)) as archive:
            source = archive.extractfile("package/axe.min.js")
            assert source is not None
            script = source.read().decode()
        self.devtools("Runtime.evaluate", expression=script)
        found: Sequence[Dict[str, Any]] = self.ask(
            "/execute/async", args=[], script="axe.run().then(found => arguments[0](found.violations))"
        )
        return ["%s: %s" % (rule["id"], "; ".join(node["html"][:200] for node in rule["nodes"][:3])) for rule in found]
