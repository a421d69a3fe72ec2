"""The figures as Prometheus reads them: over HTTP, printed once, or in a file for node_exporter.

The only module that knows prometheus_client.
"""

from __future__ import annotations

import os

from ..errors import GsError, NotSupported
from .counts import BUCKETS, Counts
from .figures import FIGURES
from .follow import Snapshot

try:
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
except ImportError:
    raise NotSupported(
        "exporter lacks the Python package prometheus_client",
        "it comes with the extra `exporter`",
        "pip install 'gs-oom[exporter]', or apt-get install python3-prometheus-client",
    ) from None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator

    from prometheus_client import Metric

    from .follow import Follower

    Metrics = Callable[[Snapshot], Iterator[Metric]]

_PAIR = ["container_id", "command"]
_PREFIX = "container_oomkills"


class _Collector:
    """For prometheus_client: metrics made of a snapshot whenever somebody asks."""

    def __init__(self, snapshot: Callable[[], Snapshot], metrics: Metrics) -> None:
        self._snapshot = snapshot
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        return self._metrics(self._snapshot())

    def describe(self) -> Iterator[Metric]:
        """Their names, by which a scrape can ask for some of them (`name[]=`)."""
        return self._metrics(Snapshot(Counts(), {}, 0))


def _own(now: Snapshot) -> Iterator[Metric]:
    """gs_*: what the OOM killer did, what came of the handlers, what is registered."""
    yield from _counters(now.counts)
    yield _durations(now.counts)
    yield GaugeMetricFamily(
        "gs_registrations", "Processes that are registered at this moment", now.registrations
    )
    readable = GaugeMetricFamily(
        "gs_source_readable", "Whether the exporter reads this source", labels=["source"]
    )
    for source, is_read in now.readable.items():
        readable.add_metric([source], float(is_read))
    yield readable


def _counters(counts: Counts) -> Iterator[Metric]:
    events = CounterMetricFamily(
        "gs_oom_events", "Records of the OOM killer's doings", labels=["event", "constraint"]
    )
    for key, count in counts.events.items():
        events.add_metric(list(key), count)
    yield events
    for name, text, label, table in (
        ("gs_oom_kills", "Kills, by what came of the handler before", "outcome", counts.kills),
        ("gs_handler_results", "How handlers ended", "result", counts.results),
        ("gs_events_lost", "Records overwritten before they were read", "source", counts.lost),
    ):
        family = CounterMetricFamily(name, text, labels=[label])
        for value, count in table.items():
            family.add_metric([value], count)
        yield family


def _durations(counts: Counts) -> Metric:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts.durations):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(
        "gs_handler_duration_seconds",
        "From the choice of the victim to the end of its handler",
        buckets=buckets,
        sum_value=counts.seconds,
    )


def _of_containers(now: Snapshot) -> Iterator[Metric]:
    """container_oomkills_*: kills by container and command, and the figures of the last."""
    total = CounterMetricFamily(_PREFIX, "OOM kills", labels=_PAIR)
    for pair, count in now.counts.of_container.items():
        total.add_metric(list(pair), count)
    yield total
    last = [(list(pair), kill.figures) for pair, kill in now.counts.last.items()]
    for name, (text, _) in FIGURES.items():
        family = GaugeMetricFamily(f"{_PREFIX}_{name}", f"{text}; of the last kill", labels=_PAIR)
        for labels, figures in last:
            if name in figures:
                family.add_metric(labels, figures[name])
        yield family


def registry(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """Everything that is exported, and nothing else: no figures of the exporter's own process."""
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot, _own))
    registry.register(_Collector(snapshot, _of_containers))
    return registry


def text(follower: Follower) -> str:
    """Everything in the text format, which ends with a newline."""
    page: bytes = generate_latest(registry(follower.snapshot))
    return page.decode()


def write_file(follower: Follower, path: str) -> None:
    """The same in a file, which is replaced as a whole; OSError.

    node_exporter takes files whose names end in .prom, and may not be root.
    """
    part = f"{path}.part-{os.getpid()}"
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text(follower))
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError:
        if os.path.exists(part):
            os.unlink(part)
        raise


def serve(follower: Follower, host: str, port: int) -> None:
    """Answer scrapes from now on, in threads that end with the process; GsError."""
    try:
        start_http_server(port, addr=host, registry=registry(follower.snapshot))
    except OSError as error:
        raise GsError(
            f"cannot listen on {host}:{port}", error.strerror or str(error), "give --listen"
        ) from None
