"""A real controller process that delivers to a system of a test."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from parts.backend import make_source
from parts.system import System


@asynccontextmanager
async def run_controller(system: System, name: str, folder: Path, devices: Sequence[str] = ("simulated",)) -> AsyncIterator[None]:
    """Registers the source `name` and runs its controller, credential and spool in `folder`. It ends in order."""
    file = folder / "credential"
    file.write_text(await make_source(system.database, name))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webmacs_controller", "run", "--spool", str(folder / "spool"), "--credential-file", str(file)),
        *("--url", f"{system.backend.sockets}/ws/controller/telemetry", *(part for device in devices for part in ("--device", device))),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "controller")},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        assert await process.wait() == 0
