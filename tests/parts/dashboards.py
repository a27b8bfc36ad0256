"""Dashboards as rows, for tests of who sees them."""

from typing import Any
from uuid import UUID

from webmacs.storage.ids import uuid7


async def make_dashboard(conn: Any, owner: UUID, events: list[UUID], *, is_global: bool = False) -> UUID:
    """A dashboard of this user with one widget that shows these events."""
    public_id = uuid7()
    dashboard = await conn.fetchval(
        """INSERT INTO dashboards (public_id, name, description, tags, is_global, owner_id, owner_name, created_on, changed_on)
           SELECT $1::uuid, $1::uuid::text, '', '{}', $2, id, username, now(), now() FROM users WHERE public_id = $3 RETURNING id""",
        public_id, is_global, owner,
    )  # fmt: skip
    widget = await conn.fetchval(
        """INSERT INTO dashboard_widgets (public_id, dashboard_id, title, x, y, w, h, config)
           VALUES ($1, $2, '', 0, 0, 4, 4, '{"widget_type": "gauge"}') RETURNING id""",
        uuid7(), dashboard,
    )  # fmt: skip
    await conn.execute(
        "INSERT INTO dashboard_widget_events SELECT $1, row_number() OVER (), id FROM events WHERE public_id = ANY($2)", widget, events
    )
    return public_id
