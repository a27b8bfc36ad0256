"""The audit log: who did what, when, from where, and what was before and after. Rows are only ever added; the database refuses the rest.

A change is written in its own transaction, by webmacs/http/route.py. Refusals are gathered and written once a second, those of one kind as
one row with their number, so that whoever knocks often does not fill the disk.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec

from webmacs import clock, logs
from webmacs.storage.changes import CHANNEL, What
from webmacs.storage.copy import copy_records
from webmacs.storage.faults import FAULTS
from webmacs.storage.pool import Connection, Pool

log = logs.get(__name__)

ActorKind: TypeAlias = Literal["user", "token", "kiosk", "source", "nobody", "system"]

GATHER_S: Final = 1.0
GATHERED_MAX: Final = 1_000
"""Different refusals that wait to be written; what comes beyond is one row that says how many."""
COPIED_MIN: Final = 50
"""More rows of one change than these go in by COPY."""
UNREMARKABLE: Final = frozenset({"version", "changed_on"})
"""They change with every change."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who, and from where."""

    kind: ActorKind
    public_id: UUID | None
    name: str | None
    address: str | None


NOBODY: Final = Actor("nobody", None, None, None)


@dataclass(frozen=True, slots=True)
class Entry:
    """What was done to what. `before` and `after` never hold a secret."""

    action: str
    kind: str
    object_public_id: UUID | None = None
    object_name: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    detail: str | None = None

    @property
    def says_nothing(self) -> bool:
        """An update after which everything is as before."""
        return self.action == "update" and self.before == {} and self.after == {} and self.detail is None


@dataclass(frozen=True, slots=True)
class Version:
    """A state of what people configure; without content it is the deletion."""

    kind: str
    id: UUID
    version: int
    content: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Insertion:
    """Rows of a change that go in with its account: INSERTs as they stand in a WITH, with arguments $1..$n."""

    rows: str
    arguments: tuple[Any, ...]


NOTHING: Final = Insertion("", ())


def difference(before: Any, after: Any) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(from, to) of two states of one thing, as the API shows them: of a change the fields that differ, else the whole."""
    old, new = (None if state is None else msgspec.to_builtins(state, str_keys=True) for state in (before, after))
    if old is None or new is None:
        return old, new
    differing = [name for name in new if name not in UNREMARKABLE and old.get(name) != new[name]]
    return {name: old.get(name) for name in differing}, {name: new[name] for name in differing}


def change_of(
    before: Any, after: Any, kind: str, *, action: str | None = None, name: str | None = None, detail: str | None = None
) -> tuple[Entry, Version | None]:
    """What two states of a thing as the API shows them (never a secret) leave behind, None where there is none. The action is create,
    update or delete when nothing else is said; a thing with a `version` that is another leaves that version."""
    state = before if after is None else after
    public_id = getattr(state, "public_id", None)
    old, new = difference(before, after)
    action = action or ("create" if before is None else "delete" if after is None else "update")
    entry = Entry(action, kind, public_id, name or getattr(state, "name", None), old, new, detail)
    version = getattr(state, "version", None)
    anew = before is None or after is None or getattr(before, "version", None) != version
    if not isinstance(version, int) or public_id is None or not anew:  # of software it is a text
        return entry, None
    content = None if after is None else msgspec.to_builtins(after, str_keys=True)
    return entry, Version(kind, public_id, version + (after is None), content)


async def account(
    conn: Connection,
    actor: Actor,
    request_id: str | None,
    entries: Sequence[Entry],
    versions: Sequence[Version],
    announced: Iterable[What],
    insertion: Insertion | None = None,
) -> None:
    """What a change leaves behind besides itself, in its transaction: its rows here, its versions, and word of it; one round trip for all.
    Raises the database's faults."""
    words = list(announced)
    if not (entries or versions or words):
        return
    now = clock.now()
    if len(entries) > COPIED_MIN:
        await write(conn, actor, request_id, entries)
        rows = [(one.kind, one.id, one.version, now, actor.name, one.content) for one in versions]
        columns = ("kind", "object_public_id", "version", "at", "actor_name", "content")
        await copy_records(conn, "versions", columns, rows)
        entries, versions = [], []
    inserted = insertion or NOTHING
    await conn.fetch(
        _accounting(inserted.rows, len(inserted.arguments)),
        *inserted.arguments, now, actor.kind, actor.public_id, actor.name, actor.address, request_id, entries, versions, CHANNEL, words,
    )  # fmt: skip


@cache
def _accounting(rows: str, n: int) -> str:
    """One statement for an account, after the `rows` with their n arguments."""
    at, kind, public_id, name, address, request_id, entries, versions, channel, words = (f"${n + i}" for i in range(1, 11))
    return f"""
        WITH {rows}{rows and ","} audited AS (
            INSERT INTO audit_log (at, action, kind, object_public_id, object_name, actor_kind, actor_public_id, actor_name, address,
                                   request_id, before, after, detail)
            SELECT {at}, e.action, e.kind, e.object_public_id, e.object_name, {kind}, {public_id}, {name}, {address}, {request_id},
                   e.before, e.after, e.detail
              FROM jsonb_to_recordset({entries})
                AS e (action text, kind text, object_public_id uuid, object_name text, before jsonb, after jsonb, detail text)
        ), kept AS (
            INSERT INTO versions (kind, object_public_id, version, at, actor_name, content)
            SELECT v.kind, v.id, v.version, {at}, {name}, v.content
              FROM jsonb_to_recordset({versions}) AS v (kind text, id uuid, version int4, content jsonb)
        )
        SELECT pg_notify({channel}, what) FROM jsonb_array_elements_text({words}) AS what
    """  # noqa: S608 - our own statements


async def write(conn: Connection, actor: Actor, request_id: str | None, entries: Sequence[Entry]) -> None:
    """In the transaction of what they tell of. Raises the database's faults."""
    now = clock.now()
    rows = [_row(now, actor, request_id, entry, 1) for entry in entries]
    if len(rows) == 1:
        await conn.execute(INSERT, *rows[0])
    else:
        await copy_records(conn, "audit_log", COLUMNS, rows)


COLUMNS: Final = (
    "at", "action", "kind", "object_public_id", "object_name", "actor_kind", "actor_public_id", "actor_name", "address", "request_id",
    "before", "after", "detail", "n",
)  # fmt: skip
INSERT: Final = f"""
    INSERT INTO audit_log ({", ".join(COLUMNS)}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""  # noqa: S608 - our own names


def _row(at: Any, actor: Actor, request_id: str | None, entry: Entry, n: int) -> tuple[Any, ...]:
    return (
        at, entry.action, entry.kind, entry.object_public_id, entry.object_name, actor.kind, actor.public_id, actor.name, actor.address,
        request_id, entry.before, entry.after, entry.detail, n,
    )  # fmt: skip


class Refusals:
    """What was refused and waits to be written. While the database is away it waits on, up to GATHERED_MAX kinds."""

    def __init__(self) -> None:
        self._gathered: dict[tuple[Actor, str, str, str | None], list[Any]] = {}
        self._beyond = 0

    def note(self, actor: Actor, request_id: str | None, action: str, kind: str, detail: str | None) -> None:
        key = (actor, action, kind, detail)
        known = self._gathered.get(key)
        if known is not None:
            known[2] += 1
        elif len(self._gathered) < GATHERED_MAX:
            self._gathered[key] = [clock.now(), request_id, 1]
        else:
            self._beyond += 1

    async def run(self, pool: Pool) -> None:
        """Writes what was gathered, once a second, for ever."""
        while True:
            await asyncio.sleep(GATHER_S)
            try:
                await self.write(pool)
            except FAULTS as fault:
                log.debug("refusals_wait", reason=str(fault))

    async def write(self, pool: Pool) -> None:
        """Raises the database's faults; what was gathered is then kept."""
        gathered, self._gathered, beyond, self._beyond = self._gathered, {}, self._beyond, 0
        rows = [
            _row(at, actor, request_id, Entry(action, kind, detail=detail), n)
            for (actor, action, kind, detail), (at, request_id, n) in gathered.items()
        ]
        if beyond:
            rows.append(_row(rows[-1][0], NOBODY, None, Entry("refused", "request", detail="more than could be told apart"), beyond))
        if not rows:
            return
        try:
            async with pool.acquire() as conn:
                await copy_records(conn, "audit_log", COLUMNS, rows)
        except BaseException:
            for key, (_, _, n) in self._gathered.items():
                if key in gathered:
                    gathered[key][2] += n
            self._beyond += beyond
            self._gathered |= gathered
            raise
