"""The alerts and the dashboard in contrib/, with Prometheus itself: it scrapes what a real monitor's metrics say."""

import http.server
import json
import re
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from device import peer
from harness import PATIENCE_S, PROJECT, Place, need, wait_for
from metrics import family, samples_of
from reports import online, run
from watcher import query

pytestmark = pytest.mark.once

ALERTS = PROJECT / "contrib/prometheus/alerts.yml"
CASES = Path(__file__).parent / "alerts.yml"
DASHBOARD = json.loads((PROJECT / "contrib/grafana/wg-monitor.json").read_text(encoding="utf-8"))
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]

CONFIGURATION = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{alerts}]
scrape_configs:
  - job_name: every
    metrics_path: /wg-monitor.prom
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
  - job_name: instance
    metrics_path: /wg-monitor-wg0.prom
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


# --- The alerts ---------------------------------------------------------------------------------------------------


def promtool(*words: str) -> str:
    need("promtool", root=False)
    done = subprocess.run(["promtool", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_prometheus_accepts_the_alerts() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))


def test_the_alerts_are_raised_when_they_should_be_and_not_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(CASES))


def test_every_alert_has_a_case_in_which_it_is_raised() -> None:
    raised = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", CASES.read_text()))
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    page = (PROJECT / "docs/metrics.md").read_text(encoding="utf-8")
    assert raised == set(alerts) and re.findall(r"(?m)^\| `(WireGuard\w+)` \|", page) == alerts


# --- The dashboard ------------------------------------------------------------------------------------------------


def test_the_dashboard_is_complete_and_belongs_to_no_data_source() -> None:
    panels = DASHBOARD["panels"]
    assert DASHBOARD["title"] and DASHBOARD["uid"] and "id" not in DASHBOARD and "__inputs" not in DASHBOARD
    assert sorted(panel["id"] for panel in panels) == list(range(1, len(panels) + 1))
    sources = [thing["datasource"] for thing in [*panels, *TARGETS, *list(VARIABLES.values())[1:]]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert VARIABLES["datasource"]["type"] == "datasource" and VARIABLES["datasource"]["query"] == "prometheus"
    cells: List[Any] = []
    for place in (panel["gridPos"] for panel in panels):
        assert place["x"] + place["w"] <= 24
        cells += [(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])]
    assert len(cells) == len(set(cells))


class Prometheus:
    """The server on loopback, as long as the context lasts."""

    def __init__(self, directory: Path, configuration: str) -> None:
        need("prometheus", root=False)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        path = directory / "prometheus.yml"
        path.write_text(configuration)
        command = ["prometheus", "--config.file=%s" % path, "--storage.tsdb.path=%s" % (directory / "data")]
        with open(str(directory / "log"), "wb") as log:
            self.process = subprocess.Popen(
                [*command, "--web.listen-address=" + self.address], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def get(self, path: str, **parameters: str) -> Any:
        url = "http://%s/api/v1/%s?%s" % (self.address, path, urllib.parse.urlencode(parameters))
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return json.load(answer)["data"]

    def runs(self) -> bool:
        try:
            return bool(self.get("status/buildinfo"))
        except OSError:
            assert self.process.poll() is None
            return False

    def __enter__(self) -> "Prometheus":
        wait_for("prometheus", self.runs)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


class Files(http.server.SimpleHTTPRequestHandler):
    extensions_map = {"": "text/plain; version=0.0.4"}

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def files(tmp_path: Path) -> Iterator[http.server.HTTPServer]:
    """Serves a directory on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


CHOSEN = {"$__rate_interval": "1m", "$__range": "1h", "$instance": ".*", "$monitor": ".*", "$interface": "wg0"}


def chosen(text: str) -> str:
    """A query with what Grafana puts in place of its variables."""
    return re.sub(r"\$(?:__)?[a-z_]+", lambda name: CHOSEN[name.group()], text.replace('"$1', '"§1')).replace("§", "$")


def test_every_query_of_the_dashboard_returns_data(
    place: Place, tmp_path: Path, files: http.server.HTTPServer
) -> None:
    named, nameless = online(1), online(2)
    wg0 = place.device("wg0", [named, nameless, peer(3)])
    store = place.path / "state.db"
    daemon = place.start("--state-path", str(store))
    daemon.match("ONLINE .*")
    daemon.match("OFFLINE .*")
    query(store, "UPDATE peers SET name = 'ann' WHERE public_key = ?", named.public_key)

    def write(received: int) -> None:
        wg0.publish([named._replace(rx=received, tx=received), nameless._replace(rx=received, tx=received), peer(3)])
        for words, name in (((), "wg-monitor.prom"), (("wg0",), "wg-monitor-wg0.prom")):
            output = str(tmp_path / name)
            assert run("metrics", *words, "--store", str(store), "--output", output, behind=place.enter()).code == 0

    write(5000)
    configuration = CONFIGURATION.format(alerts=ALERTS, port=files.server_address[1])
    with Prometheus(tmp_path, configuration) as prometheus:
        received = 5000

        def results(expression: str) -> List[Any]:
            return list(prometheus.get("query", query=expression)["result"])

        def has_moved() -> bool:
            nonlocal received
            received += 100_000
            write(received)
            return len([r for r in results("rate(wireguard_received_bytes_total[1m]) > 0") if r]) == 4

        wait_for("traffic", has_moved)
        for target in TARGETS:
            expression = chosen(target["expr"])
            found = wait_for(expression, partial(results, expression))
            if "peer" in expression and "label_replace" in expression:
                shown = {result["metric"]["peer"] for result in found}
                assert {"ann", nameless.public_key[:8] + "..."} <= shown
        values = {tuple(sorted(result["metric"].items())): result["value"][1] for result in results(chosen(TARGETS[0]["expr"]))}
        assert list(values.values()) == ["2"]  # and not once for each monitor
        for variable in list(VARIABLES.values())[1:]:
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            assert variable["definition"] == variable["query"]["query"]
            assert prometheus.get("label/%s/values" % label, **{"match[]": chosen(selector)}), variable
        health = {rule["name"]: rule["health"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]}
        assert set(health.values()) <= {"ok", "unknown"} and len(health) == len(re.findall("- alert:", ALERTS.read_text()))
    assert daemon.stop() == 0


# --- node_exporter ------------------------------------------------------------------------------------------------


def test_node_exporter_reads_two_monitors_in_one_directory(place: Place, tmp_path: Path) -> None:
    """Both watch the same interface."""
    need("prometheus-node-exporter", root=False)
    place.device("wg0", [online(1), peer(2)])
    for words in ((), ("wg0",)):
        path = tmp_path / ("wg-monitor%s.prom" % "".join("-" + word for word in words))
        store = str(tmp_path / "missing.db")
        assert run("metrics", *words, "--store", store, "--output", str(path), behind=place.enter()).code == 0
    (tmp_path / ".wg-monitor-left.new").write_text("half a li")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % free.getsockname()[1]
    command = ["prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile"]
    command += ["--collector.textfile.directory=%s" % tmp_path, "--web.listen-address=" + address]
    exporter = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def scrape() -> str:
        try:
            with urllib.request.urlopen("http://%s/metrics" % address, timeout=PATIENCE_S) as answer:
                return str(answer.read().decode())
        except OSError:
            assert exporter.poll() is None
            return ""

    try:
        text = wait_for("node_exporter", scrape)
    finally:
        exporter.kill()
        exporter.wait()
    ours = [line for line in text.splitlines(keepends=True) if re.match("wireguard_|wg_monitor_|node_textfile_", line)]
    found = samples_of("".join(ours))
    assert list(family(found, "node_textfile_scrape_error").values()) == [0]
    monitors: Dict[str, int] = {}
    for labels in family(found, "wg_monitor_peer_online"):
        monitor = dict(labels).get("monitor", "")
        monitors[monitor] = monitors.get(monitor, 0) + 1
    assert monitors == {"": 2, "wg0": 2}
