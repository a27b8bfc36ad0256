"""Whatever is sent, no answer is a 5xx or contradicts the OpenAPI document.

WEBMACS_TEST_FUZZ_EXAMPLES is how many requests each operation gets, besides those at its edges; `make fuzz-api` sends many more.
"""

import asyncio
import copy
import json
import os
from typing import Any

import pytest
from parts.backend import Backend, make_user, sign_in
from parts.fuzzing import fuzz

from webmacs import app
from webmacs.accounts import Role
from webmacs.http import openapi

DOCUMENT: Any = json.loads(openapi.encode(app.ROUTES, app.SOCKETS))
EXAMPLES = int(os.environ.get("WEBMACS_TEST_FUZZ_EXAMPLES", "5"))
SEED = int(os.environ.get("WEBMACS_TEST_FUZZ_SEED", "1"))
WITHOUT = {"logout"}
"""They would end the session that asks."""


@pytest.fixture(scope="module")
async def tokens(backend: Backend) -> dict[Role, str]:
    """All before the first odd request: thousands of them try to sign in, and then nobody may for a while."""
    roles: list[Role] = ["viewer", "operator", "admin"]
    signed_in = {}
    for role in roles:
        email = f"{role}@example.org"
        signed_in[role] = await sign_in(backend, email, await make_user(backend.database, backend.data_dir, email, role))
    return signed_in


async def test_a_document_that_says_otherwise_is_found_out(backend: Backend, tokens: dict[Role, str]) -> None:
    lying = copy.deepcopy(DOCUMENT)
    lying["paths"] = {path: lying["paths"][path] for path in ("/api/v1/auth/me", "/api/v1/events", "/api/v1/events/{public_id}")}
    lying["components"]["schemas"]["Me"]["properties"]["email"] = {"type": "integer"}
    lying["paths"]["/api/v1/events/{public_id}"]["get"]["x-problem-types"].remove("not-found")
    del lying["paths"]["/api/v1/events/{public_id}"]["put"]["responses"]["404"]
    lying["paths"]["/api/v1/events"]["get"]["responses"]["200"]["headers"]["X-Never"] = {"required": True, "schema": {"type": "string"}}
    findings = await asyncio.to_thread(fuzz, lying, backend.url, tokens["operator"], examples=5, seed=SEED, edges=True, without=())
    found = {tuple(what.split(": ")[:2]) for what in findings.failures}
    assert found >= {
        ("GET /api/v1/auth/me", "response_schema_conformance"),
        ("GET /api/v1/events/{public_id}", "problem_conformance"),
        ("PUT /api/v1/events/{public_id}", "status_code_conformance"),
        ("GET /api/v1/events", "response_headers_conformance"),
    }


@pytest.mark.parametrize("role", ["viewer", "admin"])
async def test_no_request_is_answered_otherwise_than_the_document_says(
    backend: Backend, tokens: dict[Role, str], role: Role, capsys: pytest.CaptureFixture[str]
) -> None:
    """The viewer comes first: chains of an administrator's requests end sessions, their own at last."""
    edges = role == "admin" or "WEBMACS_TEST_FUZZ_EXAMPLES" in os.environ  # most of them are nothing that a viewer may do
    findings = await asyncio.to_thread(
        fuzz, DOCUMENT, backend.url, tokens[role], examples=EXAMPLES, seed=SEED, edges=edges, without=WITHOUT
    )
    with capsys.disabled():
        print(f"\nas {role}: {findings}, seed {SEED}")
    assert findings.failures == {}, "\n\n".join(f"{what}\n{how}" for what, how in findings.failures.items())
    answered = {place.rpartition(" ")[0] for place in findings.statuses if not place.endswith(" 401")}  # else the session had ended
    assert answered == {f"{one.method} {one.path}" for one in app.ROUTES if one.handler.__name__ not in WITHOUT}
