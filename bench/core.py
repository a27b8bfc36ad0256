"""The native core alone: decode, validate, rules, latest and buffers on one core, by pytest-benchmark (bench/test_core.py)."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figures import Figures

HERE = Path(__file__).parent


def run(figures: Figures) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", str(HERE / "test_core.py"), "-q", "--benchmark-only", f"--benchmark-json={report}"],
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise SystemExit(ran.stdout + ran.stderr)
        for benchmark in json.loads(report.read_text())["benchmarks"]:
            readings = benchmark["extra_info"].get("readings")
            name = benchmark["extra_info"].get("name", benchmark["name"])
            if readings:
                figures.add(name, readings / benchmark["stats"]["median"], "readings/s")
            else:
                figures.add(name, benchmark["stats"]["median"] * 1000, "ms")
