"""The benchmark for real, with few trials: every figure comes about. Whether goals are met is the
benchmark's own business, and takes more of them on a machine with nothing else to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provisioning import bench, frontend
from tests.kernels import QUICK, kernel_or_skip

pytestmark = pytest.mark.guest


def test_two_trials_of_each_handler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel_or_skip(QUICK)
    request = frontend.Request(QUICK, "debian")
    order = bench.Order(trials=2, only="handlers", output=str(tmp_path))
    assert bench.run(request, order, as_json=False) == 0
    written = json.loads((tmp_path / f"{QUICK}.json").read_text())
    assert len(written["samples"]["handlers"]["trials"]) == 2 * 2 * 2 * 5
    ratios = [figure for figure in written["figures"] if figure["unit"] == "×"]
    assert len(ratios) == 2 * 2 * 5
    assert [figure for figure in written["figures"] if figure["lost"]] == []
    assert all(0.2 < figure["value"] < 50 for figure in ratios)
    told = capsys.readouterr().out
    assert all(figure["title"] in told for figure in written["figures"])
