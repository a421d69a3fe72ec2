"""The unit of the exporter under a real systemd: with the rights that it leaves, all is told."""

from __future__ import annotations

import importlib.util
import io
import re
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import fabric
import pytest

from provisioning.package import PACKAGING

UNIT = "gs-oom-exporter.service"
SHIPPED = PACKAGING / "gs-oom/usr/lib/systemd/system" / UNIT
TMPFILES = PACKAGING / "gs-oom/usr/lib/tmpfiles.d/gs-oom.conf"
LIBRARIES = "/opt/libraries"
METRICS = (
    "python3 -c 'import urllib.request as r; "
    'print(r.urlopen("http://127.0.0.1:9262/metrics").read().decode())\''
)


@pytest.fixture
def exporter(connection: fabric.Connection) -> Iterator[fabric.Connection]:
    """The unit as it is shipped, but that it runs the command of this checkout."""
    library = importlib.util.find_spec("prometheus_client")
    if library is None or library.origin is None:
        pytest.skip("no prometheus_client here: pip install 'gs-oom[exporter]'")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(Path(library.origin).parent, "prometheus_client")
    archive.seek(0)
    text = SHIPPED.read_text().replace("/usr/bin/gs-oom", "/usr/bin/python3 -m gs")
    text = text.replace("[Service]", f"[Service]\nEnvironment=PYTHONPATH=/gs:{LIBRARIES}")
    connection.put(archive, "/root/library.tar")
    connection.put(io.StringIO(text), f"/run/systemd/system/{UNIT}")
    begin = (
        f"mkdir -p {LIBRARIES} && tar -C {LIBRARIES} -xf /root/library.tar && "
        f"systemd-tmpfiles --create gs-oom.conf && "
        f"systemctl daemon-reload && systemctl start {UNIT}"
    )
    connection.run("mkdir -p /run/tmpfiles.d")
    connection.put(io.StringIO(TMPFILES.read_text()), "/run/tmpfiles.d/gs-oom.conf")
    done = connection.run(begin)
    assert done.ok, done.stderr
    yield connection
    connection.run(f"systemctl stop {UNIT}; rm -f /run/systemd/system/{UNIT}")
    connection.run("systemctl daemon-reload; rm -rf /var/lib/{private/,}gs-oom-exporter")


def scraped(connection: fabric.Connection) -> str:
    """The metrics, as soon as it answers."""
    for _ in range(60):
        done = connection.run(METRICS)
        if done.ok:
            text: str = done.stdout
            return text
        time.sleep(1)
    pytest.fail(connection.run(f"journalctl --no-pager -u {UNIT} | tail -n 20").stdout)


def counted(text: str, sample: str) -> float:
    (value,) = re.findall(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(value)


DONE = 'gs_oom_kills_total{outcome="done"}'


def test_the_unit(exporter: fabric.Connection) -> None:
    before = scraped(exporter)
    for source in ("kernel", "guards", "kernel_log"):
        assert counted(before, f'gs_source_readable{{source="{source}"}}') == 1, before
    properties = "-p MemoryMax=64M -p MemorySwapMax=0 --unit gs-exported.scope"
    command = (
        "python3 -m gs run --on-oom /gs/bin/do_nothing --grace 8s /gs/bin/oom_condition_creator"
    )
    exporter.run(
        f"PYTHONPATH=/gs systemd-run --quiet --scope {properties} {command} --now", timeout=180
    )
    after = scraped(exporter)
    assert counted(after, DONE) == counted(before, DONE) + 1
    labels = '{command="oom_condition_c",container_id="gs-exported.scope"}'
    assert counted(after, f"container_oomkills_total{labels}") == 1
    assert counted(after, f"container_oomkills_memory_limit_bytes{labels}") == 64 << 20
    exporter.run(f"systemctl restart {UNIT}")
    again = scraped(exporter)
    assert counted(again, DONE) == counted(after, DONE)
    assert counted(again, f"container_oomkills_total{labels}") == 1


def test_it_is_nobody(exporter: fabric.Connection) -> None:
    """Of all of root's capabilities it has CAP_DAC_READ_SEARCH (2) and CAP_SYSLOG (34)."""
    scraped(exporter)
    pid = exporter.run(f"systemctl show --value -p MainPID {UNIT}").stdout.strip()
    status = dict(
        line.split(":\t", 1)
        for line in exporter.run(f"cat /proc/{pid}/status").stdout.splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split()[0] != "0"
    for which in ("CapEff", "CapBnd", "CapAmb"):
        assert int(status[which], 16) == 1 << 2 | 1 << 34, which
    assert status["NoNewPrivs"] == "1"
    assert int(status["VmRSS"].split()[0]) <= 35 * 1024
