"""Errors as RFC 9457 problems: raised where the fact is known, rendered here, in one place."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from webmacs import logs
from webmacs.storage.faults import passes

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 2
"""What a 503 suggests: storing resumes some seconds after the database is back."""

ERRORS_MAX: Final = 1_000
"""Of wrong fields told at once; what comes beyond is told as a number."""


class FieldError(msgspec.Struct, frozen=True):
    """Where in the request, and what is wrong there."""

    loc: list[str | int]
    msg: str


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True, rename={"kind": "type"}):
    """What every error answer says."""

    kind: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None
    request_id: str | None = None


class Problem(Exception):
    """An answer that is no success. `detail` tells the reader what to do next."""

    def __init__(
        self,
        status: int,
        type: str,
        title: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.noted = False
        """Whether the audit log has been told of this refusal in words of its own."""

    def document(self) -> ProblemDocument:
        return ProblemDocument(f"/problems/{self.type}", self.title, self.status, self.detail, self.errors or None, logs.request_id.get())


class NotFound(Problem):
    def __init__(self, what: str) -> None:
        super().__init__(404, "not-found", "Not found", f"There is no such {what}; it may have been deleted.")


class Conflict(Problem):
    def __init__(self, detail: str) -> None:
        super().__init__(409, "conflict", "Conflict", detail)


class Forbidden(Problem):
    def __init__(self, detail: str, type: str = "forbidden") -> None:
        super().__init__(403, type, "Forbidden", detail)


class Unauthorized(Problem):
    def __init__(self, detail: str = "Sign in, or send a credential in the Authorization header.") -> None:
        super().__init__(401, "unauthorized", "Not signed in", detail, headers={"WWW-Authenticate": "Bearer"})


class Unprocessable(Problem):
    """One or more fields cannot be used. `at` makes it for one."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        first = errors[0]
        beyond = [FieldError([], f"{len(errors) - ERRORS_MAX:,} more errors are not shown.")] if len(errors) > ERRORS_MAX else []
        told = [*errors[:ERRORS_MAX], *beyond]
        super().__init__(422, "unprocessable", "Cannot be used", f"{'.'.join(map(str, first.loc))}: {first.msg}", told)

    @classmethod
    def at(cls, *loc: str | int, msg: str) -> "Unprocessable":
        """Unprocessable.at("body", "min_value", msg="It must not be above max_value.")"""
        return cls([FieldError(list(loc), msg)])

    def within(self, *loc: str | int) -> "Unprocessable":
        """The same of a part of the body, which is at this place of it."""
        return Unprocessable([FieldError([error.loc[0], *loc, *error.loc[1:]], error.msg) for error in self.errors])


def exhausted(limit: str, quota: int, window_s: float, wait_s: int) -> dict[str, str]:
    """Header fields of a 429, those of draft-ietf-httpapi-ratelimit-headers-10."""
    return {
        "Retry-After": str(wait_s),
        "RateLimit-Policy": f'"{limit}";q={quota};w={window_s:.0f}',
        "RateLimit": f'"{limit}";r=0;t={wait_s}',
    }


def unavailable(detail: str = "The database cannot be reached or is too slow now; nothing is known to be changed. Try again.") -> Problem:
    return Problem(503, "unavailable", "Unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def problem_of(error: Exception) -> Problem | None:
    """The problem that an exception stands for; None when it is a bug of ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _of_starlette(error)
    if passes(error):
        return unavailable()
    return None


def bug() -> Problem:
    """What a caller sees of an exception that nobody expected; the log has the traceback."""
    return Problem(500, "internal", "A bug in WebMACS", "WebMACS failed at this request; its log has the details under the request id.")


def render(problem: Problem) -> Response:
    return Response(msgspec.json.encode(problem.document()), problem.status, problem.headers, MEDIA_TYPE)


def _of_starlette(error: HTTPException) -> Problem | None:
    if error.status_code == 404:
        return Problem(404, "not-found", "Not found", "There is nothing at this address; /docs lists what there is.")
    if error.status_code == 405:
        detail = "This address does not know this method; /docs lists those it knows."
        return Problem(405, "method-not-allowed", "Method not allowed", detail, headers=error.headers)
    return None
