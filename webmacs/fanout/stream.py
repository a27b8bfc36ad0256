"""/ws/datapoints/stream: the browsers' socket. Judged before it is accepted, it says what it wants and gets what was committed."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, Protocol
from uuid import UUID

import msgspec
from starlette.websockets import WebSocket

from webmacs import clock
from webmacs.fanout.hub import INTERVAL_MS_MAX, INTERVAL_MS_MIN, Client, Hub, Subscription
from webmacs.http import kiosk
from webmacs.http.guard import Identity
from webmacs.http.route import socket
from webmacs.http.socket import CLOSE_AWAY, SupervisedSocket
from webmacs.storage.faults import FAULTS
from webmacs.storage.pool import Pool

MESSAGE_BYTES_MAX: Final = 1024 * 1024


class Subscribe(msgspec.Struct, tag_field="type", tag="subscribe", forbid_unknown_fields=True):
    events: list[UUID] | Literal["all"]
    interval_ms: Annotated[int, msgspec.Meta(ge=INTERVAL_MS_MIN, le=INTERVAL_MS_MAX)] = 100


class Ping(msgspec.Struct, tag_field="type", tag="ping", forbid_unknown_fields=True):
    pass


_decoder: msgspec.json.Decoder[Subscribe | Ping] = msgspec.json.Decoder(Subscribe | Ping)


class Events(Protocol):
    def event_id(self, public_id: UUID) -> int | None: ...

    async def look_for(self, public_ids: Sequence[bytes]) -> None: ...


class StreamSocket(SupervisedSocket):
    """One accepted connection of a person or a machine that watches."""

    def __init__(self, ws: WebSocket, identity: Identity, hub: Hub, events: Events, pool: Pool) -> None:
        super().__init__(ws, identity)
        self._hub = hub
        self._events = events
        self._pool = pool
        self._client = Client(identity)
        self._asked: Subscribe | None = None
        self._shown: frozenset[int] | None = None
        """The events of a kiosk's dashboard; None: everything is shown."""

    async def serve(self) -> None:
        self._client.notify(_json({"type": "connected", "server_time": clock.now()}))
        self._hub.join(self._client)
        try:
            await super().serve()
        finally:
            self._hub.leave(self._client)

    async def say(self) -> str:
        return await self._client.next()

    async def hear(self, message: str | bytes) -> None:
        try:
            if len(message) > MESSAGE_BYTES_MAX:
                raise msgspec.ValidationError(f"a message may have {MESSAGE_BYTES_MAX} bytes")
            asked = _decoder.decode(message)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            self._client.notify(_json({"type": "error", "detail": f"not understood: {error}"}))
            return
        if isinstance(asked, Ping):
            self._client.notify(_json({"type": "pong"}))
        else:
            await self._subscribe(asked)

    async def _subscribe(self, asked: Subscribe) -> None:
        named = [] if asked.events == "all" else asked.events
        try:
            if unknown := [public_id.bytes for public_id in named if self._events.event_id(public_id) is None]:
                await self._events.look_for(unknown)
            shown = await kiosk.events_of(self._pool, self.identity)
        except FAULTS:
            self.end(CLOSE_AWAY, "the database cannot be reached; reconnect")
            return
        self._watch(asked, shown)

    def show(self, events: frozenset[int]) -> None:
        if self._asked is not None and events != self._shown:
            self._watch(self._asked, events)

    def _watch(self, asked: Subscribe, shown: frozenset[int] | None) -> None:
        self._asked, self._shown = asked, shown
        events = shown
        if asked.events != "all":
            known = {public_id: self._events.event_id(public_id) for public_id in asked.events}
            if shown is not None:
                known = {public_id: event_id if event_id in shown else None for public_id, event_id in known.items()}
            missing = [str(public_id) for public_id, event_id in known.items() if event_id is None]
            if missing:
                self._client.notify(_json({"type": "error", "detail": f"no such event: {', '.join(missing[:10])}", "count": len(missing)}))
            events = frozenset(event_id for event_id in known.values() if event_id is not None)
        self._hub.subscribe(self._client, Subscription(events, asked.interval_ms))


@socket("/ws/datapoints/stream")
async def datapoints_stream(ws: WebSocket, identity: Identity) -> None:
    """Watch readings as they are committed. The client says which events it watches and how often it wants to hear of them, in JSON."""
    state = ws.app.state
    await state.sockets.serve(StreamSocket(ws, identity, state.hub, state.catalogue, state.parts.pool))


def _json(message: dict[str, object]) -> str:
    return msgspec.json.encode(message).decode()
