"""What a kiosk token opens: one dashboard of those that its owner sees, and the events of its widgets."""

from collections.abc import Sequence
from typing import cast
from uuid import UUID

from webmacs.http.guard import Identity
from webmacs.storage.pool import Connection, Pool


async def sees(database: Pool | Connection, user_id: int, dashboard: UUID) -> bool:
    """Whether this user sees the dashboard: it is their own, or everybody's."""
    seen = await database.fetchval(
        "SELECT EXISTS (SELECT FROM dashboards WHERE public_id = $1 AND (is_global OR owner_id = $2))", dashboard, user_id
    )
    return cast(bool, seen)


async def events_of(database: Pool | Connection, identity: Identity) -> frozenset[int] | None:
    """Ids of the events whose readings a kiosk token shows, as its dashboard is now; None: whoever asks has no kiosk token."""
    if identity.dashboard is None:
        return None
    return (await shown(database, [identity])).get(identity, frozenset())


async def shown(database: Pool | Connection, kiosks: Sequence[Identity]) -> dict[Identity, frozenset[int]]:
    """The same of several kiosk tokens at once. One whose owner does not see its dashboard, which may be gone, is not among them."""
    rows = await database.fetch(
        """SELECT k.n, array_agg(e.event_id) FILTER (WHERE e.event_id IS NOT NULL) AS events
             FROM unnest($1::uuid[], $2::int4[]) WITH ORDINALITY AS k (dashboard, owner_id, n)
             JOIN dashboards d ON d.public_id = k.dashboard AND (d.is_global OR d.owner_id = k.owner_id)
             LEFT JOIN dashboard_widgets w ON w.dashboard_id = d.id LEFT JOIN dashboard_widget_events e ON e.widget_id = w.id
            GROUP BY k.n""",
        [kiosk.dashboard for kiosk in kiosks], [kiosk.id for kiosk in kiosks],
    )  # fmt: skip
    return {kiosks[row["n"] - 1]: frozenset(row["events"] or ()) for row in rows}
