"""One running WebMACS on a data directory: the lock that says so, the state file in which others find it, and the question how it is."""

import fcntl
import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from webmacs.keys import write_secret


class AlreadyRunning(Exception):
    """Another process holds the data directory; the message says which and what to do."""


def make_data_dir(data_dir: Path) -> Path:
    """Makes the data directory when it is missing and returns it as an absolute path. Raises OSError."""
    data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    return data_dir.resolve()


@contextmanager
def held(data_dir: Path) -> Iterator[None]:
    """Holds the data directory until the block ends, or the process does. Raises AlreadyRunning."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = read_state(data_dir) or {}
            where = f" at {state['url']}" if state.get("url") else ""
            process = f" (process {state['pid']})" if state.get("pid") else ""
            raise AlreadyRunning(
                f"WebMACS is already running on {data_dir}{where}{process}: stop it first, or use another directory with --data."
            ) from None
        yield
    finally:
        os.close(descriptor)


def is_held(data_dir: Path) -> bool:
    """Whether a process holds the data directory."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_state(data_dir: Path, state: dict[str, Any]) -> None:
    """What `webmacs status` and the other commands need to find a running `webmacs up`."""
    write_secret(data_dir / "state.json", json.dumps(state, indent=2).encode() + b"\n")


def read_state(data_dir: Path) -> dict[str, Any] | None:
    """The state that was written last, by a process that may have ended since; None when there is none."""
    try:
        state = json.loads((data_dir / "state.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def probe(url: str, timeout_s: float) -> tuple[int, dict[str, Any]] | None:
    """The status and the body of GET <url>/health; None when nobody answers in time."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=timeout_s) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        status, body = answer.code, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    try:
        content = json.loads(body)
    except ValueError:
        content = {}
    return status, content if isinstance(content, dict) else {}


def forget_state(data_dir: Path) -> None:
    """The end of an orderly run."""
    (data_dir / "state.json").unlink(missing_ok=True)
