"""Events that a query names: one that there is not is a mistake to be told, not a list without rows."""

from collections.abc import Sequence
from uuid import UUID

from webmacs.http.problem import Unprocessable
from webmacs.storage.pool import Connection, Pool


async def asked_for(database: Pool | Connection, parameter: str, public_ids: Sequence[UUID] | UUID) -> dict[UUID, int]:
    """Their ids, also of deleted ones whose readings are kept. Raises Unprocessable at the `parameter` that names them."""
    asked = [public_ids] if isinstance(public_ids, UUID) else public_ids
    rows = await database.fetch("SELECT public_id, id FROM events WHERE public_id = ANY($1)", asked)
    ids: dict[UUID, int] = {row["public_id"]: row["id"] for row in rows}
    for index, public_id in enumerate(asked):
        if public_id not in ids:
            place = [] if isinstance(public_ids, UUID) else [index]
            raise Unprocessable.at("query", parameter, *place, msg=f"There is no event {public_id}.")
    return ids
