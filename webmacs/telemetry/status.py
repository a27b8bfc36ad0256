"""Once a second: how storing goes and how far behind each source is, to every browser, and what was seen of sources to the database."""

import asyncio
from typing import Final
from uuid import UUID

import msgspec

from webmacs import clock, logs
from webmacs.fanout.hub import Hub
from webmacs.storage.faults import FAULTS
from webmacs.storage.pool import Pool
from webmacs.storage.vitals import Vitals
from webmacs.telemetry import sources
from webmacs.telemetry.intake import Intake

log = logs.get(__name__)

PERIOD_S: Final = 1.0
SEEN_PERIODS: Final = 5
"""sources.last_seen_on is brought up to date this often, in periods."""


async def tell(pool: Pool, hub: Hub, intake: Intake, vitals: Vitals) -> None:
    """For ever. While the database is away the list of sources stays as it was last known."""
    known: list[tuple[int, UUID, str, bool]] = []
    last = clock.monotonic()
    period = 0
    while True:
        await asyncio.sleep(PERIOD_S)
        now = clock.monotonic()
        vitals.beat(now - last)
        vitals.judge()
        last = now
        if period % SEEN_PERIODS == 0:
            try:
                heard = [(key, live.sender) for key, live in intake.live.items()]
                await sources.seen(pool, [sources.Heard(key, None, one.clock_offset_us, one.lag_ms) for key, one in heard])
                known = [tuple(row) for row in await pool.fetch("SELECT id, public_id, name, enabled FROM sources ORDER BY name")]
            except FAULTS as fault:
                log.debug("status_without_database", reason=str(fault))
        period += 1
        status = _status(known, intake, vitals)
        message, kiosk = (msgspec.json.encode(one) for one in (status, status | {"sources": []}))
        hub.broadcast(message, standing=True, kiosk=kiosk)


def _status(known: list[tuple[int, UUID, str, bool]], intake: Intake, vitals: Vitals) -> dict[str, object]:
    live = {key: one.sender for key, one in intake.live.items()}
    return {
        "type": "status",
        "server_time": clock.now(),
        "storing": vitals.storing,
        "stored_per_s": round(vitals.stored_per_s, 1),
        "lag_ms": round(vitals.lag_ms, 1),
        "refused": vitals.refused,
        "sources": [
            {
                "public_id": public_id,
                "name": name,
                "state": "live" if key in live else "offline",
                "lag_ms": None if key not in live or live[key].lag_ms is None else round(live[key].lag_ms or 0.0, 1),
            }
            for key, public_id, name, enabled in known
            if enabled
        ],
    }
