"""/ws/controller/telemetry: one source's socket, or a person's who sends text frames.

The receiving coroutine hands bytes to the core unread and acknowledges nothing; commits do, through `committed`. A bad frame is
refused by its NACK and the socket lives on; only silence, a flood beyond its credit that never ends, and a newer connection of the
same source end it.
"""

import asyncio
import json
from typing import Final

import msgspec
from starlette.websockets import WebSocket
from webmacs_controller import wire

from webmacs import clock, ingest_core, logs
from webmacs.http import idempotency
from webmacs.http.guard import Identity
from webmacs.http.route import socket
from webmacs.http.socket import CLOSE_AWAY, CLOSE_ENDED, CLOSE_FENCED, SupervisedSocket
from webmacs.ingest_core import Refused, Segment
from webmacs.storage.faults import FAULTS
from webmacs.telemetry.flush import Void
from webmacs.telemetry.intake import Intake
from webmacs.telemetry.protocol import Delivery, Verdict, credit_for

log = logs.get(__name__)

PING_S: Final = 5.0
"""After so long without a message to send: only a send shows that a client still reads, and the web server's own answers to pings of the
WebSocket would wait for it without a bound."""
ANSWERS_MAX: Final = 1024
"""Answers that wait for the client to read them; beyond it nothing more of it is heard. A commit adds those of the frames under way."""


class TelemetrySocket(SupervisedSocket):
    """One accepted connection. As a `Sender` it is told of commits; as a coroutine (`serve`) it lives as long as its socket."""

    def __init__(self, ws: WebSocket, identity: Identity, intake: Intake) -> None:
        super().__init__(ws, identity)
        self._intake = intake
        self.source_id = identity.id if identity.kind == "source" else None
        self.stream: bytes | None = None
        self.receipt: idempotency.Kept | None = None
        self.connection: int | None = None
        self._delivery: Delivery | None = None
        self._index = -1
        self._outbox: asyncio.Queue[bytes | str] = asyncio.Queue()
        self._read = asyncio.Event()
        self.lag_ms: float | None = None
        self.clock_offset_us: int | None = None

    # what others tell it

    @property
    def committed_seq(self) -> int:
        return 0 if self._delivery is None else self._delivery.committed_seq

    def committed(self, segment: Segment, now_us: int) -> None:
        if segment.newest_us is not None:
            self.lag_ms = max(0.0, (now_us - segment.newest_us) / 1000)
        if self._delivery is not None and segment.last_seq is not None:
            self._delivery.commit(segment.last_seq)
        for seq, code, channel, position, detail, _ in segment.refusals:
            if seq is not None:  # what has no number was answered when it came
                self._send(wire.Nack(seq, None, code, channel, position, detail))
        if segment.last_seq is not None:
            self._acknowledge()
        if segment.last_index is not None:
            self._outbox.put_nowait(json.dumps({"type": "ack", "index": segment.last_index}))

    def void(self, segment: Segment, void: Void) -> None:
        self.end(*void)

    def fence(self, reason: str) -> None:
        """Its connection was ended for it; what still comes is not heard."""
        self.connection = None
        self.end(CLOSE_FENCED, reason)

    # its life

    async def serve(self) -> None:
        try:
            await super().serve()
        finally:
            self._leave()

    async def say(self) -> bytes | str:
        try:
            async with asyncio.timeout(PING_S):
                message = await self._outbox.get()
        except TimeoutError:
            return wire.encode(wire.Ping(clock.now_us(), int(clock.monotonic() * 1e6)))
        if self._outbox.qsize() < ANSWERS_MAX:
            self._read.set()
        return message

    def _leave(self) -> None:
        """The core keeps what was buffered: it is committed with its numbers, though nobody is left to be told."""
        if self.connection is not None:
            self._intake.leave(self.connection)
            self.connection = None

    def _send(self, message: wire.FromBackend) -> None:
        self._outbox.put_nowait(wire.encode(message))

    def _acknowledge(self) -> None:
        if self._delivery is not None:
            self._send(self._delivery.ack(credit_for(self._intake.connections)))

    # what it hears

    async def hear(self, message: str | bytes) -> None:
        self._index += 1
        await self._hear(message)
        if self._outbox.qsize() >= ANSWERS_MAX:
            self._read.clear()
            await self._read.wait()

    async def _hear(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self._hear_text(message)
            return
        header = ingest_core.peek(message)
        if isinstance(header, Refused):
            self._refuse_unread(header.code, header.detail)
        elif header[0] in wire.NUMBERED_KINDS:
            await self._hear_numbered(message, *header)
        elif header[0] == wire.KIND_PREVIEW:
            self._hear_preview(message)
        else:
            await self._hear_control(message)

    async def _hear_numbered(self, frame: bytes, kind: int, seq: int | None) -> None:
        """Data, gap and quality frames: judged by their number, then taken or refused by the core. Either way the number is consumed."""
        if self._delivery is None or self.connection is None or seq is None:
            self._refuse_unread("malformed", "a hello must come before the first frame")
            return
        match self._delivery.judge(kind, seq, frame):
            case Verdict.TAKE:
                self._delivery.take(seq, len(frame))
                self._intake.accept(self.connection, frame)
                if self._intake.crowded:
                    self._send(wire.Credit(0))  # the acknowledgement of this frame gives it back
                while self._delivery.over(credit_for(self._intake.connections)):
                    await self._intake.flushed()
                await self._intake.room()
            case Verdict.DUPLICATE:
                self._acknowledge()
            case Verdict.HOLE:
                self._intake.count_refusal()
                self._send(self._delivery.hole(seq))

    def _hear_preview(self, frame: bytes) -> None:
        if self.connection is None or self._delivery is None:
            self._refuse_unread("malformed", "a hello must come before the first frame")
            return
        verdict = self._intake.preview(self.connection, frame)
        if isinstance(verdict, Refused):
            self._intake.count_refusal()
            self._send(wire.Nack(None, self._index, verdict.code, verdict.channel, verdict.position, verdict.detail))

    async def _hear_control(self, message: bytes) -> None:
        if len(message) > wire.CONTROL_BYTES_MAX:
            self._refuse_unread("too_large", f"a hello or describe has at most {wire.CONTROL_BYTES_MAX:,} bytes")
            return
        try:
            control = wire.decode_from_source(message)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            self._refuse_unread("malformed", str(error) or type(error).__name__)
            return
        match control:
            case wire.Hello():
                await self._greet(control)
            case wire.Describe():
                await self._describe(control)
            case wire.Ping():
                now_us = clock.now_us()
                self.clock_offset_us = control.wall_us - now_us
                self._send(wire.Pong(now_us, int(clock.monotonic() * 1e6), control.wall_us, control.monotonic_us))
            case wire.Pong():
                pass  # any message is a sign of life, and this one has no more to say

    async def _describe(self, described: wire.Describe) -> None:
        if self.source_id is None:
            self._refuse_unread("not_granted", "only a source describes its devices")
            return
        try:
            await self._intake.describe(self.source_id, self.name, described)
        except FAULTS as fault:
            log.warning("describe_failed", source=self.name, reason=str(fault))
            self.end(CLOSE_AWAY, "the database is away; reconnect in a moment")

    async def _greet(self, hello: wire.Hello) -> None:
        """Hello: whatever the older connection of the source had under way is settled, its events are taken over, the welcome goes."""
        if self.source_id is None:
            self._refuse_unread("not_granted", "binary frames need a source's credential; send text frames or use a source")
            return
        if not hello.version_min <= wire.PROTOCOL_VERSION <= hello.version_max:
            self._refuse_unread("version", f"this backend speaks version {wire.PROTOCOL_VERSION}")
            return
        if len({channel.number for channel in hello.channels}) != len(hello.channels):
            self._refuse_unread("malformed", "a hello has each channel number once")
            return
        self._leave()
        self.clock_offset_us = hello.wall_us - clock.now_us()
        try:
            opened = await self._intake.enter(self, self.source_id, hello)
        except FAULTS as fault:
            log.warning("hello_failed", source=self.name, reason=str(fault))
            self.end(CLOSE_AWAY, "the database is away; reconnect in a moment")
            return
        except LookupError:
            self.end(CLOSE_ENDED, "this source was removed")
            return
        self.connection, self.stream = opened.connection, hello.stream
        self._delivery = Delivery(hello.stream, opened.committed_seq)
        self._send(
            wire.Welcome(
                version=wire.PROTOCOL_VERSION,
                stream=hello.stream,
                committed_seq=opened.committed_seq,
                credit_bytes=credit_for(self._intake.connections),
                accepted=opened.table.accepted,
                refused=opened.table.refused,
                limits=wire.Limits(
                    ingest_core.FRAME_BYTES_MAX,
                    ingest_core.FRAME_READINGS_MAX,
                    ingest_core.CHANNELS_MAX,
                    ingest_core.PAST_US_MAX,
                    ingest_core.FUTURE_US_MAX,
                ),
                server_us=clock.now_us(),
                config_version=self._intake.config_version,
                new_stream=hello.next_seq <= opened.committed_seq,
            )
        )

    async def _hear_text(self, text: str) -> None:
        """A text frame needs no hello: whole or not at all, acknowledged by its index after the commit."""
        index = self._index
        try:
            if self.connection is None:
                self.connection = await self._intake.enter_text(self)
            verdict = await self._intake.accept_text(self.connection, index, text.encode("utf-8", "surrogatepass"))
        except FAULTS as fault:
            log.warning("text_frame_failed", source=self.name, reason=str(fault))
            self.end(CLOSE_AWAY, "the database is away; reconnect in a moment")
            return
        if isinstance(verdict, Refused):
            nack = {"type": "nack", "index": index, "code": verdict.code, "position": verdict.position, "detail": verdict.detail}
            self._outbox.put_nowait(json.dumps(nack))
        await self._intake.room()

    def _refuse_unread(self, code: wire.RefusalCode, detail: str) -> None:
        """A message without a number of its own: counted and answered, but there is nothing to consume."""
        self._intake.count_refusal()
        self._send(wire.Nack(None, self._index, code, None, None, detail))


@socket("/ws/controller/telemetry")
async def telemetry_socket(ws: WebSocket, identity: Identity) -> None:
    """Deliver readings, exactly once. A controller sends frames of columns in MessagePack, and keeps each until it is acknowledged."""
    state = ws.app.state
    await state.sockets.serve(TelemetrySocket(ws, identity, state.intake))
