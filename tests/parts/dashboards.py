"""Dashboards as rows, for tests of who sees them."""

from typing import Any
from uuid import UUID

from webmacs.storage.ids import uuid7

TABLES = """
    CREATE TABLE IF NOT EXISTS dashboards (
        id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, public_id uuid NOT NULL UNIQUE, name text NOT NULL, description text NOT NULL,
        tags text[] NOT NULL, is_global bool NOT NULL, owner_id int4 REFERENCES users ON DELETE SET NULL, owner_name text NOT NULL,
        created_on timestamptz NOT NULL, changed_on timestamptz NOT NULL);
    CREATE TABLE IF NOT EXISTS dashboard_widgets (
        id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, public_id uuid NOT NULL UNIQUE,
        dashboard_id int4 NOT NULL REFERENCES dashboards ON DELETE CASCADE, widget_type text NOT NULL, title text NOT NULL,
        x int2 NOT NULL, y int2 NOT NULL, w int2 NOT NULL, h int2 NOT NULL, config jsonb NOT NULL);
    CREATE TABLE IF NOT EXISTS dashboard_widget_events (
        widget_id int4 NOT NULL REFERENCES dashboard_widgets ON DELETE CASCADE, position int2 NOT NULL,
        event_id int4 NOT NULL REFERENCES events ON DELETE CASCADE, PRIMARY KEY (widget_id, position));
"""


async def make_dashboard(conn: Any, owner: UUID, events: list[UUID], *, is_global: bool = False) -> UUID:
    """A dashboard of this user with one widget that shows these events."""
    await conn.execute(TABLES)
    public_id = uuid7()
    dashboard = await conn.fetchval(
        """INSERT INTO dashboards (public_id, name, description, tags, is_global, owner_id, owner_name, created_on, changed_on)
           SELECT $1, 'wall', '', '{}', $2, id, username, now(), now() FROM users WHERE public_id = $3 RETURNING id""",
        public_id, is_global, owner,
    )  # fmt: skip
    widget = await conn.fetchval(
        """INSERT INTO dashboard_widgets (public_id, dashboard_id, widget_type, title, x, y, w, h, config)
           VALUES ($1, $2, 'gauge', '', 0, 0, 4, 4, '{}') RETURNING id""",
        uuid7(), dashboard,
    )  # fmt: skip
    await conn.execute(
        "INSERT INTO dashboard_widget_events SELECT $1, row_number() OVER (), id FROM events WHERE public_id = ANY($2)", widget, events
    )
    return public_id
