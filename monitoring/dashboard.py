"""Makes the Grafana dashboard, grafana/dashboards/gs-oom.json: python3 monitoring/dashboard.py

A panel is one line of a table below; what all have in common is written once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent / "grafana" / "dashboards" / "gs-oom.json"

#: Of Grafana 9 and later; older dashboards are brought up to date when they are loaded.
SCHEMA_VERSION = 39

#: Chosen at the top of the dashboard.
HERE = 'instance=~"$instance"'
SOURCE = {"type": "prometheus", "uid": "${source}"}

#: The dashboard is so many columns wide, a panel so many rows high.
COLUMNS, ROWS = 24, 8


@dataclass(frozen=True)
class Panel:
    """``kind`` and ``unit`` in Grafana's words; ``queries`` are expressions and their legends."""

    title: str
    about: str
    kind: str
    unit: str
    width: int
    queries: tuple[tuple[str, str], ...]


PANELS = (
    Panel(
        "OOM kills",
        "In the time that is shown",
        "stat",
        "short",
        6,
        ((f"sum(increase(gs_oom_kills_total{{{HERE}}}[$__range]))", "kills"),),
    ),
    Panel(
        "Kills without a handler",
        "Nothing was registered for the process",
        "stat",
        "short",
        6,
        ((f'sum(increase(gs_oom_kills_total{{{HERE},outcome="none"}}[$__range]))', "kills"),),
    ),
    Panel(
        "Registered now",
        "Processes that a handler or a signal is registered for",
        "stat",
        "short",
        6,
        ((f"sum(gs_registrations{{{HERE}}})", "processes"),),
    ),
    Panel(
        "Lost",
        "Records that were overwritten before the exporter read them",
        "stat",
        "short",
        6,
        ((f"sum(increase(gs_events_lost_total{{{HERE}}}[$__range]))", "records"),),
    ),
    Panel(
        "What the OOM killer does",
        "grace: a victim was chosen; averted and gone: nothing had to be killed",
        "timeseries",
        "short",
        12,
        (
            (
                f"sum by (event) (increase(gs_oom_events_total{{{HERE}}}[$__rate_interval]))",
                "{{event}}",
            ),
        ),
    ),
    Panel(
        "What came of handlers",
        "done: in time; timeout: killed at the deadline; failed: not started, or out of its bound",
        "timeseries",
        "short",
        12,
        (
            (
                f"sum by (result) (increase(gs_handler_results_total{{{HERE}}}[$__rate_interval]))",
                "{{result}}",
            ),
        ),
    ),
    Panel(
        "How long handlers take",
        "From the choice of the victim to the handler's end",
        "timeseries",
        "s",
        12,
        tuple(
            (
                f"histogram_quantile({share}, sum by (le) "
                f"(increase(gs_handler_duration_seconds_bucket{{{HERE}}}[$__range])))",
                f"{share:.0%}",
            )
            for share in (0.5, 0.95)
        ),
    ),
    Panel(
        "Kills by container",
        "The ten that were killed most in the time that is shown",
        "bargauge",
        "short",
        12,
        (
            (
                # A container's counter begins with its first kill, which increase() does not see.
                f"topk(10, sum by (container_id, command) (container_oomkills_total{{{HERE}}}"
                f" - container_oomkills_total{{{HERE}}} offset $__range"
                f" or container_oomkills_total{{{HERE}}}))",
                "{{container_id}} {{command}}",
            ),
        ),
    ),
    Panel(
        "Memory at the last kill",
        "Of the victim's cgroup, its limit, and what was resident of the victim",
        "timeseries",
        "bytes",
        12,
        tuple(
            (
                f"container_oomkills_{name}{{{HERE}}}",
                f"{label} {{{{container_id}}}} {{{{command}}}}",
            )
            for name, label in (
                ("memory_usage_bytes", "used"),
                ("memory_limit_bytes", "limit"),
                ("rss_anon_bytes", "anonymous"),
                ("rss_file_bytes", "file"),
                ("rss_shmem_bytes", "shared"),
            )
        ),
    ),
    Panel(
        "Most that was ever resident",
        "Of the victim of the last kill",
        "bargauge",
        "bytes",
        12,
        ((f"container_oomkills_hiwater_rss_bytes{{{HERE}}}", "{{container_id}} {{command}}"),),
    ),
)

#: What a kind of panel needs beyond the common.
OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
    },
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "bargauge": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "horizontal",
        "displayMode": "basic",
    },
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana loads it."""
    return {
        "uid": "gs-oom",
        "title": "gs: out of memory",
        "description": "What the OOM killer does, and what came of the handlers before it",
        "tags": ["oom", "gs-oom"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_source_variable(), _instance_variable()]},
        "annotations": {"list": [_kills_annotation()]},
        "links": [],
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS, 1)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number,
        "title": panel.title,
        "description": panel.about,
        "type": panel.kind,
        "datasource": SOURCE,
        "gridPos": _place(number - 1),
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": OPTIONS[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": panel.kind == "timeseries",
                "instant": panel.kind != "timeseries",
            }
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _place(index: int) -> dict[str, int]:
    """From left to right; each line is as full as it gets."""
    x = y = 0
    for panel in PANELS[:index]:
        x += panel.width
        if x >= COLUMNS:
            x, y = 0, y + ROWS
    return {"x": x, "y": y, "w": PANELS[index].width, "h": ROWS}


def _source_variable() -> dict[str, Any]:
    return {
        "name": "source",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }


def _instance_variable() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Machine",
        "type": "query",
        "datasource": SOURCE,
        "query": {
            "query": "label_values(gs_oom_events_total, instance)",
            "refId": "instance",
        },
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "options": [],
        "regex": "",
        "skipUrlSync": False,
    }


def _kills_annotation() -> dict[str, Any]:
    return {
        "name": "Kills",
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "expr": f"sum by (instance) (increase(gs_oom_kills_total{{{HERE}}}[1m])) > 0",
        "titleFormat": "OOM kill on {{instance}}",
    }


def expressions() -> list[str]:
    """Every query that the dashboard makes, its variables as they are."""
    return [expression for panel in PANELS for expression, _ in panel.queries] + [
        str(_kills_annotation()["expr"])
    ]


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
