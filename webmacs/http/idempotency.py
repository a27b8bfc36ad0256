"""Requests that may be sent again: under the same Idempotency-Key they are answered as the first time, and done once.

The key is taken in the transaction of the change, so that of two at once the second waits for the first, and a change that failed leaves
no key behind. Answers are sealed: one may hold a credential that is shown once. Source: draft-ietf-httpapi-idempotency-key-header.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from webmacs import clock, keys
from webmacs.http.guard import Identity
from webmacs.http.problem import Problem, Unprocessable
from webmacs.storage.pool import Connection, Pool

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"
KEPT_H: Final = 24
KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
REPLAYABLE: Final = frozenset({"content-type", "location", "etag"})


@dataclass(frozen=True, slots=True)
class Claim:
    """A key of one owner (owner_of the caller), and the digest of the request it came with."""

    owner: UUID
    key: str
    request_hash: bytes


def owner_of(caller: Identity) -> UUID:
    """Whose a key is: of each API token its own, so that none is answered what another of the same person may and was shown once. A
    person's is the same after signing in again, a source's with its next credential."""
    if caller.kind in ("token", "kiosk") and caller.credential_hash is not None:
        return UUID(bytes=caller.credential_hash[:16])
    return caller.public_id


def check(key: str) -> None:
    """Raises Unprocessable."""
    if not KEY.fullmatch(key):
        raise Unprocessable.at("header", HEADER, msg="A key has 1 to 200 printable ASCII characters and no spaces.")


@dataclass(frozen=True, slots=True)
class Kept:
    """A key with the answer it is given, sealed."""

    claim: Claim
    status: int
    headers: dict[str, Any]
    body: bytes


async def take(conn: Connection, claim: Claim, sealing: bytes) -> Response | None:
    """None when the key is new and now taken; else the answer it was given. Raises Problem when it came with another request."""
    taken = await conn.fetchval(
        """INSERT INTO idempotency_keys (owner, key, request_hash, created_on) VALUES ($1, $2, $3, $4)
           ON CONFLICT DO NOTHING RETURNING true""",
        claim.owner, claim.key, claim.request_hash, clock.now(),
    )  # fmt: skip
    return None if taken else await find(conn, claim, sealing)


async def find(database: Pool | Connection, claim: Claim, sealing: bytes) -> Response | None:
    """The answer that a key was given; None when it is not taken. Raises Problem when it came with another request."""
    row = await database.fetchrow(
        "SELECT request_hash, status, headers, body FROM idempotency_keys WHERE owner = $1 AND key = $2", claim.owner, claim.key
    )
    if row is None:
        return None
    if row["request_hash"] != claim.request_hash:
        raise Problem(
            422, "idempotency-key-reused", "Key was used",
            "This Idempotency-Key came with another request before; use a new key for each new request.",
        )  # fmt: skip
    body = keys.unseal(sealing, row["body"], _context(claim))
    return Response(body, row["status"], row["headers"] | {REPLAYED: "true"})


def seal(claim: Claim, sealing: bytes, response: Response) -> Kept:
    headers = {name: value for name, value in response.headers.items() if name in REPLAYABLE}
    return Kept(claim, response.status_code, headers, keys.seal(sealing, bytes(response.body), _context(claim)))


async def keep(conn: Connection, claim: Claim, sealing: bytes, response: Response) -> None:
    kept = seal(claim, sealing, response)
    await conn.execute(
        "UPDATE idempotency_keys SET status = $3, headers = $4, body = $5 WHERE owner = $1 AND key = $2",
        claim.owner, claim.key, kept.status, kept.headers, kept.body,
    )  # fmt: skip


async def keep_new(conn: Connection, kept: Sequence[Kept]) -> list[bool]:
    """Takes keys that are already answered, in the transaction of what they stand for. Of each: whether it was new; what is not new, here
    or among these, has been done before and must not be done again. Waits for others who are taking the same."""
    first = {(one.claim.owner, one.claim.key): one for one in reversed(kept)}
    rows = [first[key] for key in sorted(first)]
    taken = await conn.fetch(
        """INSERT INTO idempotency_keys (owner, key, request_hash, status, headers, body, created_on)
           SELECT *, $7 FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::int2[], $5::jsonb[], $6::bytea[])
           ON CONFLICT DO NOTHING RETURNING owner, key""",
        [one.claim.owner for one in rows], [one.claim.key for one in rows], [one.claim.request_hash for one in rows],
        [one.status for one in rows], [one.headers for one in rows], [one.body for one in rows], clock.now(),
    )  # fmt: skip
    new = {(row["owner"], row["key"]) for row in taken}
    return [(key := (one.claim.owner, one.claim.key)) in new and first[key] is one for one in kept]


async def forget_old(conn: Connection) -> None:
    await conn.execute("DELETE FROM idempotency_keys WHERE created_on < $1", clock.now() - timedelta(hours=KEPT_H))


def _context(claim: Claim) -> bytes:
    return claim.owner.bytes + claim.key.encode()
