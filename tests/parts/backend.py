"""A real backend process for tests: `webmacs serve` on a free port, killed and started again as a test likes."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import asyncpg
import httpx
import psutil

from parts import processes
from parts.limits import UNLIMITED
from webmacs import accounts, keys
from webmacs.accounts import Role
from webmacs.settings import variable

ROOT = Path(__file__).parents[2]
READY_S = 30.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Backend:
    """One process at one address, over restarts. `log` is what all of them wrote to stderr; `sabotage` is a switch of parts/sabotage.py.
    Whoever looks for readings that are stored twice wants it not `compacting`: a merge makes one of the two."""

    def __init__(self, database: str, data_dir: Path, sabotage: str | None = None, *, compacting: bool = True, **settings: str) -> None:
        self.database = database
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.sockets = f"ws://127.0.0.1:{self.port}"
        self._log = data_dir / "backend.log"
        switches = "+".join(switch for switch in (None if compacting else "uncompacted", sabotage) if switch)
        self._command = [*(("parts.sabotaged", switches, "--") if switches else ()), "webmacs", "serve"]
        self._settings = (
            {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "WEBMACS_PUBLIC_URL": self.url}
            | {variable(name): str(value) for name, value in UNLIMITED.items()}
            | settings
            | {
                "WEBMACS_DATABASE_URL": database,
                "WEBMACS_DATA_DIR": str(data_dir),
                "WEBMACS_PORT": str(self.port),
            }
        )
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def rss_mb(self) -> float:
        """Resident memory of its processes."""
        main = psutil.Process(self.pid)
        return sum(process.memory_info().rss for process in (main, *main.children(recursive=True))) / 1e6

    async def start(self) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WEBMACS_")} | self._settings
        with self._log.open("a") as log:
            command = (sys.executable, "-m", *self._command)
            self._process = await processes.start(*command, log=log, cwd=ROOT, env=environment, start_new_session=True)
        async with httpx.AsyncClient() as client, asyncio.timeout(READY_S):
            while True:
                assert self._process.returncode is None, self.log
                try:
                    if (await client.get(f"{self.url}/health")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """As a crash: the server's main process and its worker at once, with no chance to say anything."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def ended(self) -> int:
        """Waits until it ends by itself. Answers the exit code."""
        assert self._process is not None
        async with asyncio.timeout(READY_S):
            return await self._process.wait()

    async def stop(self) -> int:
        """As `webmacs up` stops it. Answers the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(READY_S):
            return await self._process.wait()


async def make_source(database: str, name: str) -> str:
    """A source as `webmacs source add` makes it; answers its credential."""
    conn = await asyncpg.connect(database)
    try:
        _, credential = await accounts.create_source(conn, name)
    finally:
        await conn.close()
    return credential


async def make_user(database: str, data_dir: Path, email: str, role: Role = "admin") -> str:
    """A user as `webmacs admin create` makes it; answers the password."""
    conn = await asyncpg.connect(database)
    try:
        password = accounts.new_password()
        key = accounts.password_key(keys.load_or_make_installation_key(data_dir))
        await accounts.create_user(conn, key, email=email, username=email.partition("@")[0], password=password, role=role)
    finally:
        await conn.close()
    return password


async def sign_in(backend: Backend, email: str, password: str) -> str:
    """A session's token."""
    async with httpx.AsyncClient(base_url=backend.url) as client:
        answer = await client.post("/api/v1/auth/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token
