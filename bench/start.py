"""From `webmacs up` to the first point of a chart, everything installed: how long a person waits."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import websockets
from parts.system import ROOT

from bench.figures import Figures

STARTS = 3
CHOSEN = "a phrase of the bench"
"""In place of the printed password."""


def run(figures: Figures) -> None:
    folder = Path(tempfile.mkdtemp(prefix="webmacs-bench-"))
    folder.chmod(0o755)
    try:
        first, password = _start(folder, None)
        figures.add("start.first_time", first, "ms")
        again = sorted(_start(folder, password)[0] for _ in range(STARTS))
        figures.add("start.first_point", again[len(again) // 2], "ms")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, password: str | None) -> tuple[float, str]:
    """Milliseconds until a signed-in dashboard socket has got its first new reading; and the administrator's password."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WEBMACS_")}
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "webmacs", "up", "--port", "0", "--data", str(folder)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        printed = ""
        assert process.stdout is not None
        while "Ctrl-C" not in printed:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"webmacs up ended: {printed}")
            printed += line
        url = re.search(r"http://\S+", printed)
        shown = re.search(r"password\s+(\S+)", printed)
        password = password or (shown.group(1) if shown else "")
        if url is None or not password:
            raise SystemExit(f"webmacs up printed no address or password: {printed}")
        asyncio.run(_first_point(url.group(0), password))
        return (time.monotonic() - begun) * 1000, CHOSEN
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


async def _first_point(url: str, password: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/api/v1/auth/login", json={"email": "admin@webmacs.local", "password": password})
        session = answer.raise_for_status().json()
        if session["user"]["must_change_password"]:
            client.headers["Authorization"] = f"Bearer {session['access_token']}"
            body = {"current_password": password, "new_password": CHOSEN}
            session = (await client.put("/api/v1/auth/me/password", json=body)).raise_for_status().json()
        token = session["access_token"]
    address = url.replace("http", "ws", 1) + "/ws/datapoints/stream"
    async with websockets.connect(address, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        await socket.send('{"type": "subscribe", "events": "all", "interval_ms": 20}')
        while json.loads(await socket.recv())["type"] != "datapoints_batch":
            pass
