"""Logs as JSON lines on stderr: a fixed snake_case name and its values as fields.

    log = logs.get(__name__)
    log.info("flush_committed", runs=412, readings=90_112, ms=8.4)

`error` wakes a person, `warning` is a state that changed for the worse, `info` a lifecycle, `debug` the rest. Records of other
libraries go the same way; what they only warn of, as the pool does while the database is away, has its exception as `reason` and no
traceback. No more than LINES_PER_SECOND_MAX lines of one kind are written in a second; the rest are counted, and the
count is written when the second is over.
"""

import logging
import sys
from collections import Counter
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson

LINES_PER_SECOND_MAX: Final = 10

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Set once per request; every line written while it is served carries it."""


class Log:
    """Writes named events with fields. Values must be what JSON can hold; anything else is written as its str()."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, name: str, /, **fields: Any) -> None:
        self._write(logging.DEBUG, name, fields)

    def info(self, name: str, /, **fields: Any) -> None:
        self._write(logging.INFO, name, fields)

    def warning(self, name: str, /, **fields: Any) -> None:
        self._write(logging.WARNING, name, fields)

    def error(self, name: str, /, **fields: Any) -> None:
        self._write(logging.ERROR, name, fields)

    def exception(self, name: str, /, **fields: Any) -> None:
        """`error` with the traceback of the exception being handled."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._logger.error(name, exc_info=True, extra={"fields": fields})

    def _write(self, level: int, name: str, fields: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, name, extra={"fields": fields})


def get(name: str) -> Log:
    """The log of a module: `logs.get(__name__)`."""
    return Log(logging.getLogger(name))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, its fields, and the request id if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if (request := request_id.get()) is not None:
            line["request_id"] = request
        line |= getattr(record, "fields", {})
        if record.exc_info and record.levelno >= logging.ERROR:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_info and (error := record.exc_info[1]) is not None:
            line["reason"] = f"{type(error).__name__}: {error}"
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Writes records, at most LINES_PER_SECOND_MAX of one kind (logger and event) in a second, then `lines_left_out` with the count."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._second = 0
        self._written: Counter[tuple[str, str]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if int(record.created) != self._second:
            self._count_left_out(record.created)
            self._second = int(record.created)
        kind = (record.name, str(record.msg))
        self._written[kind] += 1
        if self._written[kind] <= LINES_PER_SECOND_MAX:
            super().emit(record)

    def close(self) -> None:
        self._count_left_out(float(self._second))
        super().close()

    def _count_left_out(self, created: float) -> None:
        for (logger, event), count in self._written.items():
            if count > LINES_PER_SECOND_MAX:
                fields = {"of": event, "count": count - LINES_PER_SECOND_MAX}
                line = {"name": logger, "msg": "lines_left_out", "levelname": "INFO", "created": created, "fields": fields}
                super().emit(logging.makeLogRecord(line))
        self._written.clear()


def set_up(level: str, stream: TextIO | None = None) -> None:
    """Sends every record of this process at or above `level` (debug, info, warning, error) to `stream` (stderr) as JSON lines.
    Called once, at the command line; a second call replaces the first."""
    handler = BoundedHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
