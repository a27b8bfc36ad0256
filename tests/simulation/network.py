"""A connection between the controller and one worker of the backend: what each end sent is heard in order, until it breaks."""

import random
from collections import deque


class Connection:
    def __init__(self) -> None:
        self.to_backend: deque[bytes] = deque()
        self.to_source: deque[bytes] = deque()
        self.source_open = self.backend_open = True
        self.broken = False  # both ends notice when they have heard what still arrives
        self.swallows_up = self.swallows_down = False  # half-open: nobody notices
        self.last_ack: bytes | None = None

    def send_up(self, message: bytes) -> None:
        if not self.swallows_up and not self.broken:
            self.to_backend.append(message)

    def send_down(self, message: bytes) -> None:
        if not self.swallows_down and not self.broken:
            self.to_source.append(message)

    def cut(self, chance: random.Random) -> None:
        """Of what is under way, each way, any end is lost."""
        self.broken = True
        for way in (self.to_backend, self.to_source):
            for _ in range(chance.randint(0, len(way))):
                way.pop()

    def swallow(self, chance: random.Random) -> None:
        """From now on nothing arrives, one way or both."""
        up, down = chance.choice(((True, False), (False, True), (True, True)))
        if up:
            self.swallows_up = True
            self.to_backend.clear()
        if down:
            self.swallows_down = True
            self.to_source.clear()

    def heard_out(self, at_backend: bool) -> bool:
        """There is nothing more to hear at this end, and it knows."""
        if at_backend:
            return not self.to_backend and not self.swallows_up and (self.broken or not self.source_open)
        return not self.to_source and not self.swallows_down and (self.broken or not self.backend_open)
