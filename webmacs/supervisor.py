"""What `webmacs up` runs: database, migrations, backend, controller; and their end in the reverse order.

The order of ending loses nothing that was acknowledged: the controller delivers what it has, the backend commits and acknowledges what
it holds, then the database closes. What dies meanwhile is started again, later each time. When this process is killed, the kernel ends
the others: the database in order, the rest at once.
"""

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import asyncpg

from webmacs import accounts, clock, instance, keys, processes
from webmacs import settings as settings_module
from webmacs.commands.database import is_current, make_partitions, open_connection
from webmacs.postgres import PostgresError, Server
from webmacs.settings import Settings

DISK_BYTES_MIN: Final = 200 * 2**20
LOG_BYTES_MAX: Final = 10 * 2**20
"""Of one log file; then its content moves to a second one, whose older content is dropped."""
LOG_CHECK_S: Final = 10.0
HEALTH_POLL_S: Final = 0.05
HEALTH_ANSWER_S_MAX: Final = 5.0
PATIENCE_S: Final = 15.0
"""After this long without health the log is pointed to; the wait goes on."""
RESTART_S_MIN: Final = 0.5
RESTART_S_MAX: Final = 30.0
SETTLED_S: Final = 60.0
"""What lived this long is started again at once."""
CONTROLLER_STOP_S_MAX: Final = 10.0
BACKEND_STOP_S_MAX: Final = 20.0
DATABASE_STOP_S_MAX: Final = 60.0
TELEMETRY: Final = "/ws/controller/telemetry"
SOURCE: Final = "this-machine"
AFTERMATH: Final = ("Unexpected exit from worker", "Shutting down granian", "Stopped worker")
"""What the web server says after a cause has been told."""
ADMIN_EMAIL: Final = "admin@webmacs.local"


class StartError(Exception):
    """WebMACS cannot start; the message is one sentence: what, where, how to mend it."""


class Child:
    """A process that is kept alive. `launch` starts it with its log; `prepare` is what must be done before each start."""

    def __init__(
        self,
        name: str,
        log: Path,
        launch: Callable[[IO[Any]], subprocess.Popen[bytes]],
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name, self.log, self._launch, self._prepare = name, log, launch, prepare
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.ended = asyncio.Event()

    async def start(self) -> None:
        """Starts it; from then on `ended` tells its end. Runs in the main thread, which the children's death signal hangs on."""
        if self._prepare is not None:
            await self._prepare()
        bound_log(self.log)
        with self.log.open("ab") as output:
            process = self._launch(output)
        self.process, self.started, self.ended = process, clock.monotonic(), asyncio.Event()
        descriptor = os.pidfd_open(process.pid)

        def reap() -> None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
            process.wait()
            self.ended.set()

        asyncio.get_running_loop().add_reader(descriptor, reap)

    async def stop(self, signum: signal.Signals, patience_s: float, hurry: asyncio.Event, last: signal.Signals) -> None:
        """Sends `signum` and waits for the end; after `patience_s`, or in a hurry, sends `last`."""
        if self.process is None or self.ended.is_set():
            return
        self.process.send_signal(signum)
        waits = [asyncio.ensure_future(self.ended.wait()), asyncio.ensure_future(hurry.wait())]
        await asyncio.wait(waits, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self.ended.is_set():
            self.process.send_signal(last)
            await self.ended.wait()

    def fate(self) -> str:
        """How it ended, in words."""
        code = None if self.process is None else self.process.returncode
        return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"

    def last_words(self) -> str:
        """What the last line of its log says that is about a cause."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        for line in reversed(text.splitlines()):
            said = _said(line)
            if said and not said.startswith(AFTERMATH):
                return said
        return "it said nothing."


class Supervisor:
    """One run of the whole system."""

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        self.settings, self.data_dir = settings, data_dir
        self.logs = data_dir / "logs"
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self.stopping, self.hurry = asyncio.Event(), asyncio.Event()
        self.began, self.began_us = clock.monotonic(), clock.now_us()
        self.port = choose_port(settings.host, settings.port)
        self.url = f"http://{_reachable(settings.host)}:{self.port}"
        self.server = Server(data_dir, settings.postgres_os_user) if settings.database_url is None else None
        if self.server is not None:
            check_disk(self.server.data.parent)
        self.children: list[Child] = []

    async def run(self) -> int:
        """Starts everything, keeps it running until a signal, ends it. Raises StartError and others whose message is a sentence."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self._on_signal)
        work = asyncio.ensure_future(self._work())
        stop = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
            self.stopping.set()
            stop.cancel()
            if work.done():
                work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await self._end()
        return 0

    async def _work(self) -> None:
        await self._start()
        async with asyncio.TaskGroup() as group:
            for child in self.children:
                group.create_task(self._keep(child))
            group.create_task(self._bound_logs())

    async def _start(self) -> None:
        database_url = await self._start_database()
        await self._prepare_database(database_url)
        backend = Child("backend", self.logs / "backend.log", self._backend(database_url))
        self.children.append(backend)
        say("Starting the backend ...")
        await backend.start()
        await self._wait_for_health(backend)
        controller = Child("controller", self.logs / "controller.log", self._controller())
        self.children.append(controller)
        say("Starting the controller ...")
        await controller.start()
        self._write_state()
        say(f"\nWebMACS is ready: {self.url}   ({clock.monotonic() - self.began:.1f} s)")
        say("\nCtrl-C stops it.")

    async def _start_database(self) -> str:
        server = self.server
        if server is None:
            return str(self.settings.database_url)
        if not server.is_initialised:
            by = "" if server.user is None else f", run by user {server.user.pw_name}"
            say(f"Making a database (PostgreSQL {server.binaries.version}) in {server.data}{by} ...")
        await asyncio.to_thread(server.prepare)
        say("Starting the database ...")

        async def prepare() -> None:
            await asyncio.to_thread(server.end_left_overs)

        child = Child("database", self.logs / "database.log", server.launch, prepare)
        for attempts_left in (2, 1, 0):
            await child.start()
            if child not in self.children:
                self.children.append(child)
            while not server.is_ready() and not child.ended.is_set():  # noqa: ASYNC110  (its readiness is a line in a file)
                await asyncio.sleep(0.01)
            if not child.ended.is_set():
                return server.url
            if attempts_left:
                await asyncio.sleep(RESTART_S_MIN)
        raise PostgresError(f"The database does not start ({child.fate()}): {child.last_words()} See {child.log}.")

    async def _prepare_database(self, url: str) -> None:
        """Schema, the partitions of these days, the first administrator, the credential of our own controller."""
        conn = await open_connection(url)
        try:
            if not await is_current(conn):
                say("Bringing the database's schema up to date ...")
                await self._migrate(url)
            await make_partitions(conn)
            key = accounts.password_key(keys.load_or_make_installation_key(self.data_dir))
            if not await accounts.has_users(conn):
                from webmacs.commands import making

                password = accounts.new_password()
                async with conn.transaction():  # printed before it is committed: a start that is broken off here loses no password
                    await making.make_user(
                        conn, key, self.settings.sso_issuer, email=ADMIN_EMAIL, username="admin", password=password, role="admin"
                    )
                    say(
                        f"\n  The first administrator, shown only this once. It is good for {accounts.INITIAL_PASSWORD_H} h, and you"
                        f" choose your own when you sign in.\n    e-mail    {ADMIN_EMAIL}\n    password  {password}\n"
                    )
            await ensure_own_source(conn, self.credential_file)
        finally:
            await conn.close()

    async def _migrate(self, url: str) -> None:
        """In a process of its own: Alembic and SQLAlchemy would stay in ours."""
        log = self.logs / "migrate.log"
        bound_log(log)
        with log.open("ab") as output:
            environment = self._environment(database_url=url)
            process = processes.spawn(
                processes.python("webmacs", "migrate"), death_signal=signal.SIGTERM, environment=environment, output=output
            )
        code = await asyncio.to_thread(process.wait)
        if code:
            last = Child("migration", log, lambda _: process).last_words()
            raise StartError(f"The database's schema could not be brought up to date: {last} See {log}.")

    async def _wait_for_health(self, backend: Child) -> None:
        told = False
        while True:
            answer = await asyncio.to_thread(instance.probe, self.url, HEALTH_ANSWER_S_MAX)
            if answer is not None and answer[0] == 200:
                return
            if backend.ended.is_set():
                raise StartError(f"The backend does not start ({backend.fate()}): {backend.last_words()} See {backend.log}.")
            if not told and clock.monotonic() - backend.started > PATIENCE_S:
                told = True
                say(f"The backend is not healthy yet; it is waited for. See {backend.log}.")
            await asyncio.sleep(HEALTH_POLL_S)

    async def _keep(self, child: Child) -> None:
        """Starts a child again whenever it ends, later each time it does not last."""
        delay = RESTART_S_MIN
        while True:
            await child.ended.wait()
            if clock.monotonic() - child.started >= SETTLED_S:
                delay = RESTART_S_MIN
            say(f"The {child.name} ended ({child.fate()}); it starts again in {delay:g} s. See {child.log}.")
            await asyncio.sleep(delay)
            delay = min(2 * delay, RESTART_S_MAX)
            try:
                await child.start()
                self._write_state()
            except (PostgresError, OSError) as error:
                say(f"The {child.name} cannot be started: {error}")

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            for child in self.children:
                bound_log(child.log)

    async def _end(self) -> None:
        """Controller, backend, database: each has ended before the next is told to."""
        say("\nStopping ...")
        by_name = {child.name: child for child in self.children}
        if controller := by_name.get("controller"):
            await controller.stop(signal.SIGTERM, CONTROLLER_STOP_S_MAX, self.hurry, signal.SIGKILL)
        if backend := by_name.get("backend"):
            await backend.stop(signal.SIGTERM, BACKEND_STOP_S_MAX, self.hurry, signal.SIGKILL)
        if database := by_name.get("database"):
            await database.stop(signal.SIGINT, DATABASE_STOP_S_MAX, asyncio.Event(), signal.SIGQUIT)
            if self.server is not None:
                self.server.forget_sockets()
        instance.forget_state(self.data_dir)
        say("Stopped.")

    def _on_signal(self) -> None:
        (self.hurry if self.stopping.is_set() else self.stopping).set()

    @property
    def credential_file(self) -> Path:
        return keys.secrets_dir(self.data_dir) / "controller.credential"

    def _backend(self, database_url: str) -> Callable[[IO[Any]], subprocess.Popen[bytes]]:
        environment = self._environment(database_url=database_url)
        command = processes.python("webmacs", "serve")
        return lambda output: processes.spawn(command, death_signal=signal.SIGKILL, environment=environment, output=output)

    def _controller(self) -> Callable[[IO[Any]], subprocess.Popen[bytes]]:
        telemetry = self.url.replace("http", "ws", 1) + TELEMETRY
        command = processes.python(
            "webmacs_controller", "run", "--url", telemetry, "--credential-file", str(self.credential_file),
            "--spool", str(self.data_dir / "spool"), "--device", "system", "--device", "simulated",
        )  # fmt: skip
        ours, its = settings_module.PREFIX, "WEBMACS_CONTROLLER_"
        environment = {key: value for key, value in os.environ.items() if key.startswith(its) or not key.startswith(ours)}
        return lambda output: processes.spawn(command, death_signal=signal.SIGKILL, environment=environment, output=output)

    def _environment(self, database_url: str) -> Mapping[str, str]:
        """The environment of a process of ours: our settings as we understood them, nothing else of WEBMACS_*."""
        foreign = {key: value for key, value in os.environ.items() if not key.startswith(settings_module.PREFIX)}
        settings = self.settings.model_copy(update={"data_dir": self.data_dir, "port": self.port, "database_url": database_url})
        return foreign | settings_module.environment(settings)

    def _write_state(self) -> None:
        running = {child.name: child.process.pid for child in self.children if child.process is not None}
        state = {"pid": os.getpid(), "url": self.url, "started_us": self.began_us, "processes": running}
        instance.write_state(self.data_dir, state)


def supervise(settings: Settings) -> int:
    """Runs the whole system until Ctrl-C and returns 0. Raises errors whose message is one sentence."""
    data_dir = instance.make_data_dir(settings.data_dir)
    check_disk(data_dir)
    with instance.held(data_dir):

        async def run() -> int:
            return await Supervisor(settings, data_dir).run()

        return asyncio.run(run())


async def ensure_own_source(conn: "asyncpg.Connection[Any]", credential_file: Path) -> None:
    """The source of this machine's controller and the file with its credential; both are made anew where one is missing."""
    try:
        credential = credential_file.read_text("ascii").strip()
    except FileNotFoundError:
        credential = ""
    known = await conn.fetchval("SELECT EXISTS (SELECT FROM sources WHERE credential_hash = $1)", accounts.credential_hash(credential))
    if known:
        return
    from webmacs.commands import making

    renewed = await making.renew_credential(conn, SOURCE) or await making.make_source(conn, SOURCE)
    keys.write_secret(credential_file, renewed.encode())


def choose_port(host: str, port: int) -> int:
    """The port to listen on: the asked one if it is free, for 0 one that is. Raises StartError with the fix."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
            return int(probe.getsockname()[1])
    except socket.gaierror:
        raise StartError(f"{host} is no address of this machine: correct --host.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"Port {port} on {host} is in use by another program: end that one, or start with `--port 0`.") from None
        if error.errno == errno.EACCES:
            raise StartError(f"Port {port} needs more rights than this user has: choose one above 1023, such as `--port 8000`.") from None
        raise StartError(f"{host} port {port} cannot be listened on ({error.strerror}): correct --host or --port.") from None


def check_disk(folder: Path) -> None:
    """Raises StartError when there is no room to begin."""
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES_MIN:
        raise StartError(
            f"{folder} has {free // 2**20} MiB of free disk, WebMACS needs {DISK_BYTES_MIN // 2**20}: make room, or use another --data."
        )


def bound_log(log: Path) -> None:
    """Moves the content of a log that has become long to a second file. The writer keeps its place, for it appends."""
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        shutil.copyfile(log, log.with_suffix(".1.log"))
        os.truncate(log, 0)


def _said(line: str) -> str:
    """The message of a log line, which is JSON or plain text."""
    with contextlib.suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict):
            line = str(record.get("exception") or record.get("event") or "")
    return line.strip().splitlines()[-1].removeprefix("webmacs: ") if line.strip() else ""


def say(text: str) -> None:
    """To the person at the terminal. A terminal that has gone is no reason to stop."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _reachable(host: str) -> str:
    """The host part of an address at which this machine reaches a listener on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host
