"""A connection between the controller and one worker of the backend: what each end sent is heard in order, until it breaks, or until a
broken relay loses, delays or repeats a single frame or receipt, which TCP would not.
"""

import random
from collections import Counter, deque
from typing import Final

from webmacs_controller import wire

RELAYED: Final = wire.NUMBERED_KINDS | {8, 9}
"""What a broken relay touches: frames, acks and nacks. It moves none of them across a greeting, since none names its stream."""
GREETINGS: Final = frozenset({1, 2})
REPEATED_MAX: Final = 20
"""So far back goes what it repeats."""


class Way:
    """One direction, of `what`. What a relay did to it is counted in `seen`."""

    def __init__(self, what: str, seen: Counter[str]) -> None:
        self._what = what
        self._seen = seen
        self.messages: deque[bytes] = deque()
        self.swallows = False  # half-open: nobody notices
        self.loses_next = self.delays_next = False
        self._lost = False
        self._delayed: bytes | None = None
        self._sent: deque[bytes] = deque(maxlen=REPEATED_MAX)  # since the last greeting

    @property
    def faulty(self) -> bool:
        """The relay lost or keeps something while both ends believe in the connection: perhaps nobody notices before that ends."""
        return self._lost or self.loses_next or self.delays_next or self._delayed is not None

    def send(self, message: bytes) -> None:
        if message[1] in GREETINGS:
            self._deliver_delayed()
            self._sent.clear()
        elif message[1] in RELAYED:
            self._sent.append(message)
            if self.loses_next:
                self.loses_next, self._lost = False, True
                self._seen[f"{self._what} lost under way"] += 1
                return
            if self.delays_next and self._delayed is None:
                self.delays_next, self._delayed = False, message
                return
        self.messages.append(message)
        self._deliver_delayed()

    def _deliver_delayed(self) -> None:
        if self._delayed is not None:
            self.messages.append(self._delayed)
            self._delayed = None
            self._seen[f"{self._what} delayed under way"] += 1

    def repeat(self, chance: random.Random) -> bool:
        """Something arrives that was sent before, whether it has arrived, is under way or was lost."""
        if not self._sent or self.swallows:
            return False
        self.messages.append(chance.choice(self._sent))
        self._seen[f"{self._what} repeated under way"] += 1
        return True

    def swallow(self) -> None:
        self.swallows = True
        self.messages.clear()
        self._delayed = None

    def cut(self, chance: random.Random) -> None:
        self._delayed = None
        for _ in range(chance.randint(0, len(self.messages))):
            self.messages.pop()


class Connection:
    def __init__(self, seen: Counter[str]) -> None:
        self.up, self.down = Way("frames", seen), Way("receipts", seen)
        self.source_open = self.backend_open = True
        self.broken = False  # both ends notice when they have heard what still arrives

    def send_up(self, message: bytes) -> None:
        self._send(self.up, message)

    def send_down(self, message: bytes) -> None:
        self._send(self.down, message)

    def _send(self, way: Way, message: bytes) -> None:
        if not way.swallows and not self.broken:
            way.send(message)

    def cut(self, chance: random.Random) -> None:
        """Of what is under way, each way, any end is lost."""
        self.broken = True
        self.up.cut(chance)
        self.down.cut(chance)

    def swallow(self, chance: random.Random) -> None:
        """From now on nothing arrives, one way or both."""
        for way in chance.choice(((self.up,), (self.down,), (self.up, self.down))):
            way.swallow()

    def heard_out(self, at_backend: bool) -> bool:
        """There is nothing more to hear at this end, and it knows."""
        way, other_open = (self.up, self.source_open) if at_backend else (self.down, self.backend_open)
        return not way.messages and not way.swallows and (self.broken or not other_open)
