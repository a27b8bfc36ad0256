"""What a kiosk token opens: one dashboard of those that its owner sees, and the events of its widgets."""

from typing import Final
from uuid import UUID

from webmacs.http.guard import Identity
from webmacs.storage.pool import Connection, Pool

SEEN: Final = "SELECT id FROM dashboards WHERE public_id = $1 AND (is_global OR owner_id = $2)"


async def sees(database: Pool | Connection, user_id: int, dashboard: UUID) -> bool:
    """Whether this user sees the dashboard: it is their own, or everybody's."""
    return await database.fetchval(SEEN, dashboard, user_id) is not None


async def events_of(database: Pool | Connection, identity: Identity) -> frozenset[int] | None:
    """Ids of the events whose readings a kiosk token shows, as its dashboard is now; None: whoever asks has no kiosk token."""
    if identity.dashboard is None:
        return None
    rows = await database.fetch(
        f"""SELECT DISTINCT e.event_id FROM dashboard_widget_events e JOIN dashboard_widgets w ON w.id = e.widget_id
             WHERE w.dashboard_id = ({SEEN})""",  # noqa: S608 - it is ours
        identity.dashboard, identity.id,
    )  # fmt: skip
    return frozenset(row["event_id"] for row in rows)
