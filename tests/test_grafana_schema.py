"""The dashboard against Grafana's own types, @grafana/schema, by the TypeScript compiler.

GS_GRAFANA_SCHEMA=1 asks for it: both packages come from the npm registry.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from monitoring import dashboard

pytestmark = pytest.mark.skipif(
    os.environ.get("GS_GRAFANA_SCHEMA") != "1" or shutil.which("npm") is None,
    reason="needs npm and GS_GRAFANA_SCHEMA=1, since it fetches packages from its registry",
)

PACKAGES = ("typescript@5.5.3", "@grafana/schema@11.1.0")

#: Where each kind of panel has the type of its options.
OPTIONS = {
    "stat": "stat/panelcfg/x/StatPanelCfg_types.gen",
    "timeseries": "timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen",
    "bargauge": "bargauge/panelcfg/x/BarGaugePanelCfg_types.gen",
}

_ENUM = re.compile(r"((?:export )?declare )enum (\w+) \{([^}]*)\}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both packages."""
    place = tmp_path_factory.mktemp("schema")
    words = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
    subprocess.run(words, cwd=place, check=True)
    for path in (place / "node_modules/@grafana/schema/dist").rglob("*.d.ts"):
        path.write_text(_ENUM.sub(_as_union, path.read_text()))
    return place


def _as_union(enum: re.Match[str]) -> str:
    """Of texts: what stands in a file as a plain word is no member of an enumeration otherwise."""
    values = re.findall(r'= ("[^"]*")', enum[3])
    return f"{enum[1]}type {enum[2]} = {' | '.join(values)};" if values else enum[0]


def complaints(place: Path, text: str) -> str:
    """What the compiler says about it."""
    (place / "check.ts").write_text(text)
    words = ["node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "check.ts"]
    words += ["--moduleResolution", "node", "--target", "es2020"]
    return subprocess.run(words, cwd=place, capture_output=True, text=True).stdout


def source(made: dict[str, Any]) -> str:
    """A program that is right if the dashboard is.

    The schema leaves out what a data source has in an annotation of its own: the expression.
    """
    made = json.loads(json.dumps(made))
    for annotation in made["annotations"]["list"]:
        del annotation["expr"], annotation["titleFormat"]
    raw = "@grafana/schema/dist/esm/raw"
    lines = [f"import type {{ Dashboard }} from '{raw}/dashboard/x/dashboard_types.gen';"]
    for kind, path in OPTIONS.items():
        lines.append(f"import type {{ Options as {kind} }} from '{raw}/composable/{path}';")
    for kind, options in dashboard.OPTIONS.items():
        lines.append(f"export const of_{kind}: Partial<{kind}> = {json.dumps(options)};")
    lines.append(f"export const made: Dashboard = {json.dumps(made)};")
    return "\n".join(lines)


def test_it_is_of_grafanas_types(place: Path) -> None:
    assert complaints(place, source(dashboard.dashboard())) == ""


@pytest.mark.parametrize("change", [{"panels": 1}, {"refresh": 30}, {"nonsense": ""}], ids=str)
def test_the_compiler_would_complain(place: Path, change: dict[str, object]) -> None:
    assert "error TS" in complaints(place, source({**dashboard.dashboard(), **change}))
