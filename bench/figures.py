"""Figures as `make bench` prints them: NAME VALUE UNIT, and NAME.vs.PEER RATIO x; the same as JSON with machine and commit."""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    value: float
    unit: str


class Figures:
    def __init__(self, suite: str) -> None:
        self.suite = suite
        self._taken: list[Figure] = []

    def add(self, name: str, value: float, unit: str) -> None:
        self._taken.append(Figure(name, value, unit))
        print(f"{name} {_short(value)} {unit}", flush=True)

    def compare(self, name: str, peer: str, ratio: float) -> None:
        """How many times the peer's figure ours is."""
        self.add(f"{name}.vs.{peer}", ratio, "x")

    def say(self, sentence: str) -> None:
        print(f"# {sentence}", flush=True)

    def save(self) -> Path:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.suite}-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
        about = {
            "suite": self.suite,
            "taken": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _git("rev-parse", "HEAD"),
            "changed": bool(_git("status", "--porcelain")),
            "cpus": os.cpu_count(),
            "machine": _cpu(),
            "python": platform.python_version(),
            "figures": [asdict(figure) for figure in self._taken],
        }
        path.write_text(json.dumps(about, indent=1) + "\n")
        return path


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
