"""A real controller process with a ramp for a device, at a place of its own: killed, cut off and started again as a test likes.

What it must answer for is in parts/ledger.py. Where only beats are counted, parts/controlled.py runs bundled devices instead.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from webmacs_controller.disk import shared_memory

from parts import processes, ramp

TESTS: Final = Path(__file__).parents[1]
WAIT_S: Final = 60.0


class Station:
    """`place` keeps what outlives a process: spool, journal, log, settings. `port`: of the backend or of a proxy before it.
    `sabotage` is a switch of parts/sabotage.py."""

    def __init__(
        self,
        place: Path,
        port: int,
        credential: str,
        *,
        spool_mib: int = 64,
        sabotage: str | None = None,
        environment: dict[str, str] | None = None,
        **settings: float,
    ) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.place = place
        self.spool = place / "spool"
        self.journal = place / "journal"
        self._log = place / "log"
        self._log.touch()
        self.settings = settings
        (place / "credential").write_text(credential)
        lines = [f'journal = "{self.journal}"', *(f"{name} = {value}" for name, value in settings.items())]
        (place / "ramp.toml").write_text("\n".join(lines))
        url = f"ws://127.0.0.1:{port}/ws/controller/telemetry"
        self._command = [
            *(sys.executable, "-m", *(() if sabotage is None else ("parts.sabotaged", sabotage, "--")), "parts.ramp", "run"),
            *("--device", f"ramp={place / 'ramp.toml'}", "--url", url, "--credential-file", str(place / "credential")),
            *("--spool", str(self.spool), "--spool-mib", str(spool_mib)),
        ]
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("WEBMACS_")}
        self._environment |= {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"} | (environment or {})
        self._process: asyncio.subprocess.Process | None = None

    @property
    def shared(self) -> Path:
        """Where the spool's newest frames outlive the process."""
        return shared_memory(self.spool)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """Stops it in order, unless the block failed."""
        try:
            if kind is None:
                await self.stop()
        finally:
            await self.end()

    async def start(self) -> None:
        with self._log.open("a") as log:
            self._process = await processes.start(*self._command, log=log, env=self._environment)

    async def kill(self) -> None:
        assert self._process is not None
        assert self._process.returncode is None, self._log.read_text()
        self._process.kill()
        await self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self) -> None:
        """In order: what was sampled is delivered."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            assert await self._process.wait() == 0, self._log.read_text()

    async def end(self) -> None:
        """The process and what it left in shared memory, whatever became of the test."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()
        shutil.rmtree(self.shared, ignore_errors=True)

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log, of all processes, that are about an event."""
        lines = [line for line in self._log.read_text().splitlines() if f'"event": "{event}"' in line]
        return [json.loads(line) for line in lines]

    @property
    def reads(self) -> int:
        """Reads of the device so far."""
        return self.journal.stat().st_size // ramp.ENTRY.size if self.journal.exists() else 0

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what is seen in files: the journal, the log."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                assert self._process is not None
                assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.01)

    async def connected(self, connections: int) -> None:
        """Waits until its processes have connected so many times."""
        await self.until(lambda: len(self.said("link_up")) >= connections)

    async def read_more(self, reads: int) -> None:
        goal = self.reads + reads
        await self.until(lambda: self.reads >= goal)
