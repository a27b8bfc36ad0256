"""REST on small tables: list, get, create, by wrk over 16 connections; load generator, backend and PostgreSQL on the same cores."""

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx
from parts.backend import make_user, sign_in
from parts.system import System, run_system

from bench.figures import Figures

SECONDS = 8
WARM_SECONDS = 2
CONNECTIONS = 16
EVENTS = 25
REFERENCE = {"rest.list": 324.0, "rest.get": 420.0, "rest.create": 372.0}
"""Requests/s of the system that WebMACS is compared with, on the same kind of machine but in another run: 16 connections, a list of 25
events, one event, a log entry made."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What wrk saw."""

    requests_per_s: float
    p99_ms: float


async def measure(figures: Figures) -> None:
    wrk = shutil.which("wrk")
    if wrk is None:
        figures.say("rest: left out, there is no wrk here; `apt install wrk` brings it")
        return
    async with run_system() as system:
        token, event = await _furnish(system)
        begun_mb = system.backend.rss_mb()
        cases = {
            "rest.list": (f"/api/v1/events?page_size={EVENTS}", None),
            "rest.get": (f"/api/v1/events/{event}", None),
            "rest.create": ("/api/v1/logging", json.dumps({"content": "Filter of pump %s exchanged."})),
        }
        worst_ms = 0.0
        for name, (path, body) in cases.items():
            await _take(wrk, WARM_SECONDS, f"{system.backend.url}{path}", token, body)
            taken = await _take(wrk, SECONDS, f"{system.backend.url}{path}", token, body)
            figures.add(name, taken.requests_per_s, "requests/s")
            figures.compare(name, "reference", taken.requests_per_s / REFERENCE[name])
            figures.add(f"{name}.p99", taken.p99_ms, "ms")
            worst_ms = max(worst_ms, taken.p99_ms)
        figures.add("rest.p99", worst_ms, "ms")
        figures.add("rest.rss_before", begun_mb, "MB")
        figures.add("rest.rss", system.backend.rss_mb(), "MB")


async def _furnish(system: System) -> tuple[str, str]:
    """An operator's token, and one of the EVENTS events that there are then."""
    password = await make_user(system.database, system.backend.data_dir, "bench@example.org", "operator")
    token = await sign_in(system.backend, "bench@example.org", password)
    async with httpx.AsyncClient(base_url=system.backend.url, headers={"Authorization": f"Bearer {token}"}) as client:
        for number in range(EVENTS):
            made = await client.post("/api/v1/events", json={"name": f"Line {number:02d} temperature", "type": "sensor", "unit": "°C"})
            made.raise_for_status()
    return token, made.json()["public_id"]


async def _take(wrk: str, seconds: int, url: str, token: str, body: str | None) -> Taken:
    script = Path(__file__).with_name("rest.lua")
    process = await asyncio.create_subprocess_exec(
        wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), url, "--", token, *([] if body is None else [body]),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed, _ = await process.communicate()
    found = next((line for line in printed.decode().splitlines() if line.startswith("figures ")), None)
    if found is None:
        raise SystemExit(f"wrk measured nothing: {printed.decode()}")
    requests, us, failed, p99_us = map(int, found.split()[1:])
    if failed:
        raise SystemExit(f"{failed} of {requests} requests to {url} failed")
    return Taken(requests / us * 1e6, p99_us / 1000)


def run(figures: Figures) -> None:
    asyncio.run(measure(figures))
