"""The simulated world: a controller, two workers of a backend, a database and what connects them, on simulated time. Each step is
drawn from one seed, so a seed is a life, and replays exactly.

Every seed draws first which faults its world knows and how often they come: worlds with few kinds of faults go deep into each.
"""

import hashlib
import random
from collections.abc import Callable

from simulation.backend import Worker
from simulation.database import Database
from simulation.disk import Died
from simulation.journal import Journal, Violation
from simulation.machine import WALL_US, Machine
from simulation.network import Connection

WORKERS = 2
SETTLE_STEPS_MAX = 20_000
"""Once faults stop, everything is delivered within so many steps."""


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.trace: list[tuple[object, ...]] = []
        self.now_us = 1_000_000
        self.journal = Journal()
        self._chance = chance = random.Random(seed)
        self._database = Database(self.journal)
        self._owners = 0
        self._credit_bytes = chance.choice((1, 300, 2_000, 100_000))
        self._workers = [self._new_worker() for _ in range(WORKERS)]
        self._images: list[dict[object, bytes]] = [{}]
        self._backups = [self._database.backup()]
        self._death: Callable[[], None] | None = None
        self._down_until_us = 0
        self._settling = False
        self._unanswered = chance.choice((0.0, 0.05, 0.3))
        self._machine = Machine(random.Random(chance.random()), lambda: self.now_us, self.journal, chance.choice((3_000, 12_000, 1 << 20)))
        self._actions, self._weights = self._draw_actions(chance)

    def _draw_actions(self, chance: random.Random) -> tuple[list[Callable[[], object]], list[int]]:
        """Work has a weight of some 600; of the faults each world knows about half."""
        work: dict[Callable[[], object], int] = {
            self.sample: chance.choice((50, 150, 300)),
            self.send: 150,
            self.hear_backend: 150,
            self.flush: chance.choice((30, 150)),
            self.hear_source: 150,
            self.connect: 40,
        }
        known = {getattr(self, fault.__name__): chance.choice((1, 3, 10)) for fault in self.FAULTS if chance.random() < 0.5}
        chosen = work | known
        return list(chosen), list(chosen.values())

    def _new_worker(self) -> Worker:
        self._owners += 1
        return Worker(self._owners, self._database, self._credit_bytes)

    # a life

    def run(self, steps: int) -> str:
        """Lives, then lets everything settle. Answers the hash of the trace. Raises AssertionError (Violation) for a broken promise."""
        actions = self._chance.choices(self._actions, self._weights, k=steps)
        for action in actions:
            self.now_us += self._chance.randrange(1_000, 150_000)
            self._guarded(self._keep)
            self._note(action.__name__, self._guarded(action))
            self.journal.seen[action.__name__] += 1
        self._settle()
        self.journal.close()
        self._note("stored", sorted(self.journal.stored.items()))
        return hashlib.sha256(repr(self.trace).encode()).hexdigest()

    def _note(self, *what: object) -> None:
        self.trace.append((self.now_us, *what))

    def _guarded(self, act: Callable[[], object]) -> object:
        try:
            return act()
        except Died:
            self.journal.seen["deaths in the middle of a call"] += 1
            return self._die()

    def _die(self) -> str:
        death, self._death = self._death, None
        assert death is not None
        death()
        self._down_until_us = self.now_us + self._chance.randrange(100_000, 3_000_000)
        return death.__name__

    @property
    def _controller_runs(self) -> bool:
        return self._machine.alive

    def _keep(self) -> None:
        if not self._machine.alive and self.now_us >= self._down_until_us:
            self._note("controller starts")
            if not self._settling and self._death is None and self._chance.random() < 0.1:
                self._die_within(self._chance.choice((self._machine.kill, self._machine.cut_power)))
            self._machine.start()
        if self._controller_runs:
            self._machine.keep()
        if not self._database.up and self._chance.random() < 0.05:
            self._database.up = True
        if self._machine.disk.failing and self._chance.random() < 0.03:
            self._machine.mend_disk()

    # work

    def sample(self) -> None:
        if self._controller_runs:
            self._machine.sample()

    def connect(self) -> None:
        machine = self._machine
        if self._controller_runs and machine.connection is None and self.now_us >= machine.connect_us:
            connection = Connection(self.journal.seen)
            self._chance.choice(self._workers).accept(connection, self.now_us)
            machine.connect(connection)

    def send(self) -> int:
        messages = self._chance.choice((1, 3, 10)) if self._controller_runs else 0
        return sum(self._machine.send() for _ in range(messages))

    def hear_source(self) -> int:
        messages = self._chance.choice((1, 3, 10)) if self._controller_runs else 0
        return sum(self._controller_runs and self._machine.hear() for _ in range(messages))

    def hear_backend(self) -> int:
        messages = self._chance.choice((1, 3, 10))
        return sum(worker.hear(self.now_us) for worker in self._awake() for _ in range(messages))

    def flush(self) -> int:
        commit = self._chance.choice(("unanswered", "failed")) if self._chance.random() < self._unanswered else "done"
        return sum(worker.step(commit) for worker in self._awake())

    def _awake(self) -> list[Worker]:
        return [worker for worker in self._workers if self.now_us >= worker.frozen_until_us]

    # faults of the network

    def cut_connection(self) -> None:
        if self._machine.connection is not None:
            self._machine.connection.cut(self._chance)

    def half_open(self) -> None:
        if self._machine.connection is not None:
            self._machine.connection.swallow(self._chance)

    def reconnect(self) -> None:
        """The source gives its connection up; what it sent is still on the way, and the backend believes in the old one."""
        if self._controller_runs and self._machine.connection is not None:
            self._machine.disconnect()
            self._machine.connect_us = self.now_us

    # faults of a relay that is broken: TCP does none of them

    def lose_frame(self) -> None:
        if self._machine.connection is not None:
            self._machine.connection.up.loses_next = True

    def lose_receipt(self) -> None:
        if self._machine.connection is not None:
            self._machine.connection.down.loses_next = True

    def delay_frame(self) -> None:
        """Behind the next."""
        if self._machine.connection is not None:
            self._machine.connection.up.delays_next = True

    def delay_receipt(self) -> None:
        if self._machine.connection is not None:
            self._machine.connection.down.delays_next = True

    def repeat_frame(self) -> object:
        connection = self._machine.connection
        return connection is not None and not connection.broken and connection.up.repeat(self._chance)

    def repeat_receipt(self) -> object:
        connection = self._machine.connection
        return connection is not None and not connection.broken and connection.down.repeat(self._chance)

    # faults of the controller

    def kill_controller(self) -> object:
        return self._kill(self._machine.kill)

    def cut_power(self) -> object:
        return self._kill(self._machine.cut_power)

    def _kill(self, death: Callable[[], None]) -> object:
        if not self._machine.alive or self._death is not None:
            return None
        self._die_within(death)
        return self._die() if self._chance.random() < 0.3 else None

    def _die_within(self, death: Callable[[], None]) -> None:
        """At one of its next calls of the disk."""
        self._death = death
        self._machine.disk.calls_until_death = self._chance.randint(1, 30)

    def stop_controller(self) -> None:
        if self._controller_runs:
            self._machine.stop()
            self._death = None
            self._down_until_us = self.now_us + 1_000_000

    def freeze_controller(self) -> None:
        if self._controller_runs:
            for_us = self._chance.randrange(1_000_000, 60_000_000)
            self._machine.frozen_us += for_us
            self.now_us += for_us

    def take_image(self) -> None:
        self._images.append(self._machine.disk.image())

    def put_back_image(self) -> object:
        """An older image of the disk, or none at all."""
        if not self._machine.alive:
            return None
        image, shared_too = self._chance.choice(self._images), self._chance.random() < 0.5
        self._death = lambda: self._machine.put_back(image, shared_too)
        return self._die()

    def disk_fails(self) -> None:
        self._machine.fail_disk()

    def flip_bit(self) -> bool:
        return self._machine.flip_a_bit()

    def set_clock(self) -> int:
        """An hour on or back, to 1970, or right."""
        wall_us = self._machine.wall_us
        step_us = self._chance.choice((3_600_000_000, -3_600_000_000, 90_000, -self._machine.now().wall_us, WALL_US - wall_us))
        self._machine.wall_us += step_us
        return step_us

    # faults of the backend

    def kill_worker(self) -> None:
        i = self._chance.randrange(WORKERS)
        self._workers[i].die(self._chance)
        self._workers[i] = self._new_worker()

    def take_backup(self) -> None:
        self._backups.append(self._database.backup())

    def restore_backup(self) -> None:
        """Of the database, an older one; the backend starts anew on it."""
        for worker in self._workers:
            worker.die(self._chance)
        self._database.restore(self._chance.choice(self._backups), self._machine.held())
        self._workers = [self._new_worker() for _ in range(WORKERS)]

    def freeze_worker(self) -> None:
        self._chance.choice(self._workers).frozen_until_us = self.now_us + self._chance.randrange(1_000_000, 60_000_000)

    def database_away(self) -> None:
        self._database.up = False

    # the end

    def _settle(self) -> None:
        """Faults have stopped. Everything sampled is delivered, or the world is stuck."""
        self._settling = True
        self._unanswered = 0.0
        self._death = None
        self._machine.disk.calls_until_death = None
        self._database.up = True
        self._machine.mend_disk()
        for worker in self._workers:
            worker.frozen_until_us = 0
        machine = self._machine
        connection = machine.connection
        if connection is not None and (connection.up.faulty or connection.down.faulty):  # the broken relay goes, and its connection ends
            connection.cut(self._chance)
        for _ in range(SETTLE_STEPS_MAX):
            self.now_us += 50_000
            self._guarded(self._keep)
            if not machine.alive:
                continue
            self.connect()
            busy = machine.send() | machine.hear()
            for worker in self._workers:
                busy |= worker.hear(self.now_us) | worker.step("done")
            if not busy and machine.delivery.delivered:
                return
        raise Violation(f"after {SETTLE_STEPS_MAX} quiet steps {machine.spool.frames} frames still wait")

    FAULTS = (
        cut_connection,
        half_open,
        reconnect,
        lose_frame,
        lose_receipt,
        delay_frame,
        delay_receipt,
        repeat_frame,
        repeat_receipt,
        kill_controller,
        cut_power,
        stop_controller,
        freeze_controller,
        put_back_image,
        take_image,
        disk_fails,
        flip_bit,
        set_clock,
        kill_worker,
        take_backup,
        restore_backup,
        freeze_worker,
        database_away,
    )
