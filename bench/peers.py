"""The databases we are compared with, started from the operating system's packages on loopback, and left out when they are not there."""

import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from queue import Empty, SimpleQueue

from parts.backend import free_port

from bench.figures import Figures

CONNECTIONS = 2
READY_S = 20.0
STEP_MS = 1


def ingest(figures: Figures, channels: int, readings: int) -> dict[str, float]:
    """{peer: readings/s} of writing frames of channels x readings with each peer's own bulk form, bodies made beforehand."""
    rates = {}
    for name, program, start, readings_in_all, body in (
        ("victoriametrics", "victoria-metrics", _victoriametrics, 12_000_000, _import_lines),
        ("influxdb", "influxd", _influxdb, 2_000_000, line_protocol),
    ):
        if shutil.which(program) is None:
            figures.say(f"{name} is not installed (apt install {program if program != 'influxd' else 'influxdb'}): left out")
            continue
        frames = max(4, readings_in_all // (channels * readings))
        bodies = [body(channels, readings, frame) for frame in range(frames)]
        with start() as (port, path):
            rates[name] = frames * channels * readings / post(port, path, bodies)
    return rates


def lines(figures: Figures, bodies: list[bytes], connections: int) -> float | None:
    """Seconds that InfluxDB takes for bodies of line protocol with times in ms; None when it is not installed."""
    if shutil.which("influxd") is None:
        figures.say("influxdb is not installed (apt install influxdb): left out")
        return None
    with _influxdb() as (port, path):
        return post(port, path, bodies, connections=connections)


def disk(figures: Figures, begin_ms: int, channels: Sequence[Sequence[float]]) -> dict[str, int]:
    """{peer: bytes of data and index} of channels with a value each ms, after the peer has merged what it wants to merge."""
    if shutil.which("victoria-metrics") is None:
        figures.say("victoriametrics is not installed (apt install victoria-metrics): left out")
        return {}
    places: list[Path] = []

    def command(port: int, folder: Path) -> list[str]:
        places.append(folder)
        return ["victoria-metrics", f"-storageDataPath={folder}", f"-httpListenAddr=127.0.0.1:{port}"]

    bodies = []
    for channel, values in enumerate(channels):
        for begin in range(0, len(values), 100_000):
            stretch = values[begin : begin + 100_000]
            times = ",".join(map(str, range(begin_ms + begin, begin_ms + begin + len(stretch))))
            line = f'{{"metric":{{"__name__":"c{channel}"}},"values":[{",".join(map(str, stretch))}],"timestamps":[{times}]}}'
            bodies.append(line.encode())
    with _running(command) as port:
        post(port, "/api/v1/import", bodies)
        size, before = _settled_bytes(port, places[0]), 0
        while size != before:
            before, size = size, _settled_bytes(port, places[0])
    return {"victoriametrics": size}


def _settled_bytes(port: int, folder: Path) -> int:
    for path in ("/internal/force_flush", "/internal/force_merge"):
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path)
        connection.getresponse().read()
        connection.close()
    time.sleep(3)  # merging goes on after the answer
    return sum(file.stat().st_size for part in ("data", "indexdb") for file in (folder / part).rglob("*") if file.is_file())


def values_of(channels: int, readings: int, frame: int) -> list[list[float]]:
    chance = random.Random(frame)
    pool = [round(chance.gauss(20.0, 5.0), 2) for _ in range(4_096)]
    return [[pool[(channel * 37 + i) % 4_096] for i in range(readings)] for channel in range(channels)]


def times_ms(readings: int, frame: int) -> list[int]:
    start = int(time.time() * 1000) - 3_600_000 + frame * readings * STEP_MS
    return [start + i * STEP_MS for i in range(readings)]


def _import_lines(channels: int, readings: int, frame: int) -> bytes:
    """VictoriaMetrics' /api/v1/import: a line of arrays for each channel."""
    times = ",".join(map(str, times_ms(readings, frame)))
    lines = [
        f'{{"metric":{{"__name__":"c{channel}"}},"values":[{",".join(map(str, values))}],"timestamps":[{times}]}}'
        for channel, values in enumerate(values_of(channels, readings, frame))
    ]
    return "\n".join(lines).encode()


def line_protocol(channels: int, readings: int, frame: int) -> bytes:
    """InfluxDB's /write, and our own: a line for each reading, times in ms."""
    times = times_ms(readings, frame)
    lines = [
        f"c{channel} v={value} {t}"
        for channel, values in enumerate(values_of(channels, readings, frame))
        for value, t in zip(values, times, strict=True)
    ]
    return "\n".join(lines).encode()


def post(port: int, path: str, bodies: list[bytes], headers: Mapping[str, str] | None = None, connections: int = CONNECTIONS) -> float:
    """Seconds until every body is answered, over so many connections."""
    waiting: SimpleQueue[bytes] = SimpleQueue()
    for body in bodies:
        waiting.put(body)
    failures: list[str] = []

    def work() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while not failures:
            try:
                body = waiting.get_nowait()
            except Empty:
                break
            connection.request("POST", path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 300:
                failures.append(f"{answer.status} {text[:200]!r}")
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"the server on port {port} refused a write: {failures[0]}")
    return time.monotonic() - begun


@contextmanager
def _victoriametrics() -> Iterator[tuple[int, str]]:
    with _running(lambda port, folder: ["victoria-metrics", f"-storageDataPath={folder}", f"-httpListenAddr=127.0.0.1:{port}"]) as port:
        yield port, "/api/v1/import"


@contextmanager
def _influxdb() -> Iterator[tuple[int, str]]:
    def command(port: int, folder: Path) -> list[str]:
        configuration = folder / "influxdb.conf"
        configuration.write_text(
            f'reporting-disabled = true\nbind-address = "127.0.0.1:{free_port()}"\n'
            f'[meta]\n dir = "{folder}/meta"\n[data]\n dir = "{folder}/data"\n wal-dir = "{folder}/wal"\n'
            f'[http]\n bind-address = "127.0.0.1:{port}"\n log-enabled = false\n'
        )
        return ["influxd", "-config", str(configuration)]

    with _running(command) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/query?q=CREATE%20DATABASE%20bench")
        connection.getresponse().read()
        connection.close()
        yield port, "/write?db=bench&precision=ms"


@contextmanager
def _running(command: Callable[[int, Path], list[str]]) -> Iterator[int]:
    """A server with a folder of its own, ended and removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="webmacs-peer-"))
    port = free_port()
    process = subprocess.Popen(command(port, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield port
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/ping")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    raise SystemExit(f"{process.args!r} did not start within {READY_S:.0f} s")
