"""monitoring/ against the real thing: Debian's Prometheus scrapes the exporter of this machine, on
which programs run out of memory, and every query of the rules and the dashboard is asked there.

Takes root, a backend on memory cgroups, and the Debian package `prometheus`. GS_PICTURE names the
file of the picture in docs/monitoring.md, which Debian's `chromium` takes then.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gs import backends, cgroup
from gs.errors import GsError
from monitoring import dashboard
from provisioning.config import REPO

MONITORING = REPO / "monitoring"
PROGRAMS = REPO / "test_programs" / "bin"
PATIENCE = 60.0

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="no promtool here: apt-get install --no-install-recommends prometheus",
)

#: What the victims call themselves: the kernel log has kept those of other days.
VICTIM = f"seen{os.getpid()}"


def promtool(*words: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *words], input=text, capture_output=True, text=True, cwd=MONITORING
    )


# ---------------------------------------------------------------------------- the files themselves


@needs_promtool
@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_has_nothing_to_say(words: tuple[str, ...]) -> None:
    done = promtool(*words)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_alert_has_a_test() -> None:
    names = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    tested = set(re.findall(r"alertname: (\w+)", (MONITORING / "alerts_test.yml").read_text()))
    assert len(names) == 5 and set(names) == tested


def test_the_dashboard_is_what_its_code_makes() -> None:
    assert dashboard.TARGET.read_text() == dashboard.text()


def test_the_dashboard_is_whole() -> None:
    """What Grafana takes for granted of a dashboard; no panel hides another."""
    made = json.loads(dashboard.text())
    taken = set()
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    for panel in made["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, panel["title"]
                taken.add((x, y))
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {variable["name"] for variable in made["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\}?", dashboard.text()))
    assert used <= variables | {"__range"}


def test_what_compose_mounts_is_there() -> None:
    text = (MONITORING / "compose.yml").read_text()
    places = re.findall(r"- (\./[^:]+):", text)
    assert len(places) == 4
    for place in places:
        assert (MONITORING / place).exists(), place
    assert f"dashboards/{dashboard.TARGET.name}" in text


# ---------------------------------------------------------------------------- the real thing


def missing() -> str:
    """Why nothing can be scraped here, or nothing."""
    if shutil.which("prometheus") is None:
        return "no prometheus here: apt-get install --no-install-recommends prometheus"
    if importlib.util.find_spec("prometheus_client") is None:
        return "no prometheus_client here: pip install 'gs-oom[exporter]'"
    if os.geteuid() != 0:
        return "takes root"
    return "" if backend() else "no backend on memory cgroups can be used here"


def backend() -> str:
    """The one on memory cgroups that can be used here; empty if none."""
    for name in ("cgroup1", "cgroup2"):
        try:
            return backends.select(name).name
        except GsError:
            pass
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def wait_until(condition: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if condition():
                return
        except OSError:
            pass  # it does not answer yet
        assert time.monotonic() < deadline, why
        time.sleep(0.2)


@contextmanager
def running(command: list[str], log: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server for the length of the block; what it said is shown where the block fails."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **settings}
        )
        try:
            yield process
        except BaseException:
            print(log.read_text())
            raise
        finally:
            process.terminate()
            process.wait(20)


class Prometheus:
    """A server that has scraped the exporter."""

    def __init__(self, address: str, exporter: str, pid: int) -> None:
        self._address = address
        self.exporter = exporter
        self.exporter_pid = pid

    def api(self, path: str, **words: str) -> Any:
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        answer = json.loads(get(url))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series of the result, which may be not a number."""
        found = self.api("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def graph(self, expression: str) -> str:
        """The address of its own page with that on it, of the last half minute."""
        shown = {"g0.expr": expression, "g0.tab": "0", "g0.range_input": "30s"}
        return f"http://{self._address}/graph?{urllib.parse.urlencode(shown)}"

    def number(self, expression: str) -> float:
        """Of the only series; 0 without any."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else 0.0


def gs_words(*words: str) -> list[str]:
    return [sys.executable, "-m", "gs", *words]


def run_out_of_memory(place: Path, handler: str, *options: str) -> None:
    """One guarded program that its limit kills, with a handler."""
    words = ["--backend", backend(), "--memory-max", "32M", "--on-oom", handler, *options]
    done = subprocess.run(
        gs_words("run", *words, "--", str(place / VICTIM), "--now"),
        env={**os.environ, "GS_RUN_DIRECTORY": str(place / "run"), "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -9, done.stderr


def run_out_of_memory_alone(place: Path) -> str:
    """One that nobody guards; the name of its group."""
    where = cgroup.require()
    group = Path(cgroup.parent_for_child(where)) / f"gs-seen-{os.getpid()}"
    group.mkdir()
    try:
        (group / where.limit_file).write_text(str(32 << 20))
        if where.version == 2:
            (group / where.swap_file).write_text("0")
        done = subprocess.run(
            [place / VICTIM, "--now"],
            preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == -9
    finally:
        group.rmdir()
    return str(group)[len(where.mount) :]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus after two handlers in time, one too late, and a kill without any."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    subprocess.run(["make", "-s", "-C", str(PROGRAMS.parent)], check=True)
    place = tmp_path_factory.mktemp("monitoring")
    (place / VICTIM).symlink_to(PROGRAMS / "oom_condition_creator")
    exporter, address = (f"127.0.0.1:{free_port()}" for _ in range(2))
    settings = {"GS_RUN_DIRECTORY": str(place / "run"), "PYTHONPATH": str(REPO)}
    words = ["exporter", "--listen", exporter, "--state", str(place / "state")]
    with running(gs_words(*words), place / "exporter.log", **settings) as process:
        wait_until(lambda: get(f"http://{exporter}/metrics"), "the exporter does not answer")
        if 'gs_source_readable{source="kernel"} 1.0' in get(f"http://{exporter}/metrics"):
            pytest.skip("the kernel itself tells here; that is for the machine's own tests")
        with running(prometheus_command(place, exporter, address), place / "prometheus.log"):
            prometheus = Prometheus(address, exporter, process.pid)
            scraped = 'count_over_time(up{job="gs-oom"}[1m])'
            wait_until(lambda: prometheus.number(scraped) >= 3, "it is not scraped")
            out_of_memory_in_every_way(place)
            told = f'sum(container_oomkills_total{{command="{VICTIM}"}})'
            wait_until(lambda: prometheus.number(told) >= 4, "the kills are not told")
            # Between the scrapes so far and the next increase() reckons with as much again.
            time.sleep(6)
            yield prometheus


def prometheus_command(place: Path, exporter: str, address: str) -> list[str]:
    """With the project's own configuration, but asked more often, and of this exporter."""
    text = (MONITORING / "prometheus.yml").read_text()
    text = text.replace("127.0.0.1:9262", exporter).replace("15s", "250ms")
    (place / "prometheus.yml").write_text(text)
    shutil.copy(MONITORING / "alerts.yml", place)
    return [
        "prometheus",
        f"--config.file={place}/prometheus.yml",
        f"--storage.tsdb.path={place}/tsdb",
        f"--web.listen-address={address}",
    ]


def out_of_memory_in_every_way(place: Path) -> None:
    for _ in range(2):
        run_out_of_memory(place, f"{PROGRAMS}/do_nothing")
    run_out_of_memory(place, f"{PROGRAMS}/never_ends", "--grace", "500ms")
    run_out_of_memory_alone(place)


def rounded(found: list[tuple[dict[str, str], float]]) -> dict[str, int]:
    """Label values but for the server's own → the nearest whole number, zeros left out.

    increase() reckons with what may have been between the first scrape and the one before.
    """
    own = ("instance", "job", "__name__")
    values = {
        " ".join(value for key, value in sorted(labels.items()) if key not in own): round(number)
        for labels, number in found
    }
    return {key: value for key, value in values.items() if value}


def of_ours(values: dict[str, int]) -> list[int]:
    """Without what the kernel log has kept of others, from before."""
    return [value for key, value in values.items() if VICTIM in key.split()]


def test_it_is_scraped_whole(server: Prometheus) -> None:
    """What promtool and Prometheus make of the exposition."""
    text = get(f"http://{server.exporter}/metrics")
    if shutil.which("promtool"):
        done = promtool("check", "metrics", text=text)
        assert done.returncode == 0, done.stdout + done.stderr
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert server.number('scrape_samples_scraped{job="gs-oom"}') == len(samples)
    assert "pid=" not in text


def test_the_exporter_is_small(server: Prometheus) -> None:
    status = Path(f"/proc/{server.exporter_pid}/status").read_text()
    (resident,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    print(f"resident: {resident} kB")
    assert int(resident) <= 35 * 1024


def test_the_figures_are_right(server: Prometheus) -> None:
    """Counted once, though guards and kernel log told of the same kills."""
    kills = server.query("increase(gs_oom_kills_total[10m])")
    assert rounded(kills) == {"done": 2, "timeout": 1, "none": 1}
    events = server.query('increase(gs_oom_events_total{constraint="memcg"}[10m])')
    assert rounded(events) == {
        "memcg grace": 3,
        "memcg done": 2,
        "memcg timeout": 1,
        "memcg kill": 4,
    }
    limits = server.query(f'container_oomkills_memory_limit_bytes{{command="{VICTIM}"}}')
    assert [value for _, value in limits] == [float(32 << 20)] * len(limits) and limits


def test_the_rules(server: Prometheus) -> None:
    """Each expression of the alerts, as the server reads it, and what it fires."""
    (group,) = server.api("rules")["groups"]
    found = {rule["name"]: rounded(server.query(rule["query"])) for rule in group["rules"]}
    assert found == {
        "OomHandlerFailed": {"timeout": 1},
        "OomKillWithoutHandler": {"none": 1},
        "OomKillsManyTimes": {},
        "OomEventsLost": {},
        "OomExporterBlind": {},
    }
    wait_until(lambda: len(server.api("alerts")["alerts"]) == 2, "the alerts do not fire")
    firing = {alert["labels"]["alertname"] for alert in server.api("alerts")["alerts"]}
    assert firing == {"OomHandlerFailed", "OomKillWithoutHandler"}


def test_the_dashboard(server: Prometheus) -> None:
    """Each query of each panel, and of the annotations."""
    found: dict[str, list[dict[str, int]]] = {}
    for panel in dashboard.dashboard()["panels"]:
        expressions = [target["expr"] for target in panel["targets"]]
        found[panel["title"]] = [rounded(server.query(filled_in(one))) for one in expressions]
    for title in ("Memory at the last kill", "How long handlers take"):
        del found[title]  # below
    most = of_ours(found.pop("Most that was ever resident")[0])
    assert most and all(16 << 20 < value <= 40 << 20 for value in most), most
    assert sum(of_ours(found.pop("Kills by container")[0])) == 4
    assert found == {
        "OOM kills": [{"": 4}],
        "Kills without a handler": [{"": 1}],
        "Registered now": [{}],
        "Lost": [{}],
        "What the OOM killer does": [{"grace": 3, "done": 2, "timeout": 1, "kill": 4}],
        "What came of handlers": [{"done": 2, "timeout": 1}],
    }
    annotation = filled_in(dashboard.expressions()[-1])
    assert rounded(server.query(annotation.replace("[1m]", "[15m]"))) == {"": 4}


def test_the_times_and_sizes_of_the_dashboard(server: Prometheus) -> None:
    panels = {panel["title"]: panel["targets"] for panel in dashboard.dashboard()["panels"]}
    median, most = (
        server.number(filled_in(target["expr"])) for target in panels["How long handlers take"]
    )
    assert 0 < median <= most and 0.5 <= most <= 2.5
    used, limit, anonymous, *_ = (
        of_ours(rounded(server.query(filled_in(target["expr"]))))
        for target in panels["Memory at the last kill"]
    )
    assert limit and set(limit) == {32 << 20}
    assert used and all(16 << 20 < value <= 32 << 20 for value in used)
    assert anonymous and all(16 << 20 < value <= 32 << 20 for value in anonymous)


@pytest.mark.skipif("GS_PICTURE" not in os.environ, reason="takes a picture: GS_PICTURE=FILE")
def test_a_picture(server: Prometheus) -> None:
    """Of the server's own page, as a browser shows it."""
    words = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    # The page asks and draws after it has been loaded; virtual time passes while nothing is loaded.
    words += ["--window-size=1200,940", "--virtual-time-budget=10000"]
    picture = Path(os.environ["GS_PICTURE"]).absolute()
    page = server.graph("sum by (result) (gs_handler_results_total)")
    subprocess.run([*words, f"--screenshot={picture}", page], check=True, timeout=120)
    assert picture.read_bytes().startswith(b"\x89PNG")


def filled_in(expression: str) -> str:
    """With all of Grafana's variables as they usually are."""
    for name, value in (("$instance", ".*"), ("$__range", "15m"), ("$__rate_interval", "15m")):
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression
