"""Requests that nobody would write, made of the OpenAPI document, and what is wrong with the answers."""

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

import schemathesis
from schemathesis import Case, CheckContext, Response, SerializationContext
from schemathesis.engine import Status, events, from_schema
from schemathesis.transport.serialization import Binary

CHECKS: Final = {
    # valid by the schema and yet refused: a name that is taken, an id that there is not, a range that ends before it begins
    "positive_data_acceptance": {"enabled": False},
    "max_response_time": 10.0,
    "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]},  # 413: too long a text
}


@schemathesis.check
def problem_conformance(ctx: CheckContext, response: Response, case: Case) -> None:
    """A refusal is a problem of a type that the document lists for the operation, and names its request."""
    if response.status_code < 400 or case.method.upper() not in (case.operation.method.upper(), "HEAD"):
        return
    problem = response.json()
    if "type" not in problem and response.status_code == 503:  # of /health: an answer in shape
        return
    listed = case.operation.definition.raw["x-problem-types"]
    assert problem["type"].removeprefix("/problems/") in listed, f"{problem['type']} is not in x-problem-types"
    if "idempotent-replayed" not in response.headers:  # it is answered as the first time, with that request's id
        assert [problem["request_id"]] == response.headers["x-request-id"]


@dataclass
class Findings:
    """What was sent and what was found. `failures`: each with the command that shows it again."""

    statuses: Counter[str] = field(default_factory=Counter)
    """How often each status was answered, by operation and status."""
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return self.statuses.total()

    def __str__(self) -> str:
        by_status = Counter[str]()
        for place, times in self.statuses.items():
            by_status[place.rpartition(" ")[2]] += times
        return f"{self.requests:,} requests ({', '.join(f'{status}: {n:,}' for status, n in sorted(by_status.items()))})"


def fuzz(document: dict[str, Any], url: str, token: str, *, examples: int, seed: int, edges: bool, without: Collection[str]) -> Findings:
    """Sends `examples` requests of each operation, valid and broken, then chains of them, with a token; with `edges` also what lies at
    each bound of each field. `without`: operations that are left alone, by their names."""
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "base-url": url,
            "headers": {"Authorization": f"Bearer {token}"},
            "request-timeout": 20,
            "continue-on-failure": True,
            "checks": CHECKS,
            "generation": {"max-examples": examples, "deterministic": True, "database": "none", "no-shrink": True},
            "phases": {"coverage": {"enabled": edges, "unexpected-methods": []}},  # test_bad_input.py tries every method at every path
            "warnings": False,
        }
    )
    _send_as_it_is(document)
    schema = schemathesis.openapi.from_dict(document, config=config).exclude(operation_id=sorted(without))
    findings = Findings()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _note(event, findings)
        elif isinstance(event, events.NonFatalError):
            findings.failures[f"{event.label}: {event.value!r}"] = str(event.info)
        elif isinstance(event, events.FatalError):
            raise event.exception
    return findings


def _send_as_it_is(document: dict[str, Any]) -> None:
    """Bodies that are no JSON are sent as they were made up: most are nonsense, and have to be refused as such."""
    bodies = [operation.get("requestBody", {}) for operations in document["paths"].values() for operation in operations.values()]
    media_types = {media_type for body in bodies for media_type in body.get("content", {})} - {"application/json"}

    def encode(context: SerializationContext, value: Any) -> bytes:
        if isinstance(value, Binary):
            return value.data
        return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else json.dumps(value).encode()

    schemathesis.serializer(*media_types)(encode)


def _note(event: events.ScenarioFinished, findings: Findings) -> None:
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        case = recorder.cases[case_id].value
        status = "none" if interaction.response is None else str(interaction.response.status_code)
        findings.statuses[f"{case.operation.label} {status}"] += 1
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.status is Status.FAILURE and check.failure_info is not None:
                what = f"{recorder.cases[case_id].value.operation.label}: {check.name}: {check.failure_info.failure.title}"
                findings.failures.setdefault(what, f"{check.failure_info.failure.message}\n{check.failure_info.code_sample}")
