"""What was committed goes out: views of the core are taken each tick, encoded once, and the same bytes go to every subscriber.

Clients with the same events and interval share a group with one view. A client that has not sent its last messages is conflated: it
gets a view of its own, which gathers what it misses (newest value, min, max, n), until it has caught up. One that cannot send at all
is dropped by its socket. Nothing here waits for a client, and ingest waits for nothing here.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from webmacs import clock, logs
from webmacs.http.guard import Identity
from webmacs.ingest_core import Core, View

log = logs.get(__name__)

INTERVAL_MS_MIN: Final = 20
INTERVAL_MS_MAX: Final = 5_000
PENDING_MAX: Final = 2
"""Messages a client may have waiting; beyond it readings are conflated."""
NOTICES_MAX: Final = 16
"""Status and configuration messages waiting for a client; the oldest is dropped, a newer one follows within a second."""


@dataclass(frozen=True, slots=True)
class Subscription:
    events: frozenset[int] | None
    """None: every event, also those made later"""
    interval_ms: int

    def ids(self) -> list[int] | None:
        return None if self.events is None else sorted(self.events)


class Client:
    """One stream socket's queue. `next()` is awaited by its sender; `offer` and `notify` never block."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.kiosk = identity.kind == "kiosk"
        """It sees one dashboard, and is told of nothing else."""
        self._messages: deque[str] = deque()
        self._notices: deque[str] = deque(maxlen=NOTICES_MAX)
        self._some = asyncio.Event()
        self.behind: View | None = None
        """What it misses while it is conflated."""

    @property
    def full(self) -> bool:
        return len(self._messages) >= PENDING_MAX

    def offer(self, message: str) -> None:
        self._messages.append(message)
        self._some.set()

    def begin(self, message: str) -> None:
        """A new subscription: what waits of the one before is void."""
        self._messages.clear()
        self.offer(message)

    def notify(self, message: str) -> None:
        self._notices.append(message)
        self._some.set()

    async def next(self) -> str:
        while not self._messages and not self._notices:
            self._some.clear()
            await self._some.wait()
        return (self._notices or self._messages).popleft()


@dataclass(slots=True)
class _Group:
    view: View
    due: float
    clients: set[Client] = field(default_factory=set)


class Hub:
    """Topics of one process. `run()` ticks while somebody is subscribed."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._groups: dict[Subscription, _Group] = {}
        self._subscriptions: dict[Client, Subscription] = {}
        self._clients: set[Client] = set()
        self._standing: tuple[str | None, str | None] = (None, None)
        """As everybody is told it, and kiosks."""
        self._busy = asyncio.Event()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many watch."""
        return len(self._clients)

    def join(self, client: Client) -> None:
        self._clients.add(client)
        if (told := self._standing[client.kiosk]) is not None:
            client.notify(told)

    def leave(self, client: Client) -> None:
        self._clients.discard(client)
        self._unsubscribe(client)

    def subscribe(self, client: Client, subscription: Subscription) -> None:
        """Replaces what the client had. The snapshot of now comes first, then every tick; the first may repeat what the snapshot holds."""
        self._unsubscribe(client)
        group = self._groups.get(subscription)
        if group is None:
            group = _Group(self._core.view(subscription.ids()), clock.monotonic() + subscription.interval_ms / 1000)
            self._groups[subscription] = group
        group.clients.add(client)
        self._subscriptions[client] = subscription
        client.begin(self._core.snapshot(subscription.ids()).decode())
        self._busy.set()
        self._changed.set()

    def _unsubscribe(self, client: Client) -> None:
        subscription = self._subscriptions.pop(client, None)
        client.behind = None
        if subscription is None:
            return
        group = self._groups[subscription]
        group.clients.discard(client)
        if not group.clients:
            del self._groups[subscription]
            if not self._groups:
                self._busy.clear()

    def broadcast(self, message: bytes, standing: bool = False, *, kiosk: bytes | None = None) -> None:
        """A status or configuration message to everybody; kiosks are told `kiosk`, or nothing. A standing one is also told to whoever
        comes later."""
        told = message.decode(), None if kiosk is None else kiosk.decode()
        if standing:
            self._standing = told
        for client in self._clients:
            if (text := told[client.kiosk]) is not None:
                client.notify(text)

    def tell(self, message: bytes, concerned: Callable[[Identity], bool]) -> None:
        """A message to those only whom it concerns."""
        text = message.decode()
        for client in self._clients:
            if concerned(client.identity):
                client.notify(text)

    async def run(self) -> None:
        while True:
            await self._busy.wait()
            now = clock.monotonic()
            for subscription, group in self._groups.items():
                if group.due <= now:
                    group.due = max(group.due + subscription.interval_ms / 1000, now)
                    tick(group)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(group.due for group in self._groups.values()) - clock.monotonic()):
                    await self._changed.wait()  # a new subscription may be due sooner


def tick(group: _Group) -> None:
    """One encoding for the group; clients that are behind gather it, or get all they missed at once."""
    for client in group.clients:
        if client.full and client.behind is None:
            client.behind = group.view.fork()
    taken = group.view.take()
    message = None if taken is None else taken.decode()
    for client in group.clients:
        if client.behind is None:
            if message is not None:
                client.offer(message)
        elif not client.full:
            missed = client.behind.take()
            client.behind = None
            if missed is not None:
                client.offer(missed.decode())
