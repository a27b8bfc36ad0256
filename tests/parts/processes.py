"""The processes that tests start on the event loop; one that a failed test leaves running would keep the loop from ending."""

import asyncio
from asyncio.subprocess import Process
from pathlib import Path
from typing import IO, Any

import psutil

_started: list[Process] = []


async def start(*command: str | Path, log: IO[Any], **options: Any) -> Process:
    """Both outputs go to `log`; `options` are those of asyncio.create_subprocess_exec."""
    process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, **options)
    _started.append(process)
    return process


def end_all() -> None:
    """Ends those that still run, and their children."""
    for process in _started:
        if process.returncode is None:
            main = psutil.Process(process.pid)
            for one in (*main.children(recursive=True), main):
                one.kill()
    _started.clear()
