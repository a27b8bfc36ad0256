"""The sampler: every reading that was due came, or is in a gap with its cause."""

import math
from collections.abc import Sequence

from webmacs_controller.clock import Now, Timeline
from webmacs_controller.sampler import Missed, Sampler
from webmacs_controller.sdk import Channel, Column, Device, DeviceError, Readings, SyncDevice

S_US = 1_000_000


class Bench(SyncDevice):
    """Two channels: `fast` with every read, `slow` with every second one. `answers` says what the next reads do."""

    read_interval_ms = 1000

    def __init__(self) -> None:
        self.answers: list[Readings | Exception] = []
        self.opened = self.closed = 0

    def channels(self) -> Sequence[Channel]:
        return [Channel("fast", "Fast", "", interval_ms=1000), Channel("slow", "Slow", "", interval_ms=2000)]

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None:
        self.closed += 1

    def read(self) -> Readings:
        answer = self.answers.pop(0) if self.answers else {"fast": Column(None, (1.0,)), "slow": Column(None, (2.0,))}
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bed:
    def __init__(self, device: Device | SyncDevice | None = None) -> None:
        self.device = device or Bench()
        self.us = 50 * S_US
        self.wall_us = 1_800_000_000 * S_US
        start = self.now()
        channels = self.device.channels()
        numbers = {channel.key: number for number, channel in enumerate(channels, 1)}
        self.sampler = Sampler("bench", self.device, channels, numbers, Timeline(start), self.now)

    def now(self) -> Now:
        return Now(self.wall_us + self.us, self.us)

    async def beat(self, times: int = 1) -> None:
        for _ in range(times):
            self.us = max(self.us, self.sampler.deadline_us)
            await self.sampler.sample_once()


async def bed(device: Device | SyncDevice | None = None) -> Bed:
    made = Bed(device)
    await made.sampler.open()
    return made


def counted(missed: Sequence[Missed]) -> dict[tuple[int, str], int]:
    return {(number, cause): sum(m.n for m in missed if (m.number, m.cause) == (number, cause)) for number, _, _, _, cause in missed}


async def test_readings_are_stamped_with_the_moment_of_the_read() -> None:
    test = await bed()
    await test.beat(3)
    taken = test.sampler.take()
    assert taken.columns[1].times_us.tolist() == [1_800_000_050 * S_US + n * S_US for n in (1, 2, 3)]
    assert (taken.columns[1].values.tolist(), taken.missed) == ([1.0, 1.0, 1.0], [])
    assert test.sampler.take().columns == {}


async def test_a_late_read_does_not_move_the_beat() -> None:
    test = await bed()
    await test.beat()
    test.us += S_US + 400_000
    await test.beat()
    assert test.sampler.deadline_us == 53 * S_US
    assert test.sampler.take().missed == []


async def test_a_failing_device_counts_every_channel_at_its_own_interval_until_it_works_again() -> None:
    test = await bed()
    assert isinstance(test.device, Bench)
    await test.beat(2)
    test.device.answers = [DeviceError("The bench is off: switch it on.")]
    await test.beat(4)  # fails, opens again a second later, reads from the tick after that
    await test.beat(4)
    taken = test.sampler.take()
    assert counted(taken.missed) == {(1, "device_error"): 2, (2, "device_error"): 1}
    assert (test.sampler.failures, test.device.opened, test.device.closed) == (1, 2, 1)
    gap = next(missed for missed in taken.missed if missed.number == 1)
    assert (gap.from_us, gap.to_us) == (1_800_000_053 * S_US, 1_800_000_054 * S_US)


async def test_a_device_that_stays_broken_is_opened_ever_less_often_and_still_counted() -> None:
    test = await bed()
    assert isinstance(test.device, Bench)
    test.device.answers = [DeviceError("off")] * 100
    await test.beat(200)
    assert 5 <= test.device.opened <= 9
    test.device.answers = []
    await test.beat(100)
    taken = test.sampler.take()
    missed = counted(taken.missed)
    assert missed[1, "device_error"] + len(taken.columns[1].values) == 300
    assert missed[2, "device_error"] in (missed[1, "device_error"] // 2, missed[1, "device_error"] // 2 + 1)


async def test_a_channel_that_is_left_out_misses_alone() -> None:
    test = await bed()
    assert isinstance(test.device, Bench)
    test.device.answers = [{"slow": Column(None, (2.0,))}] * 3
    await test.beat(5)
    assert counted(test.sampler.take().missed) == {(1, "device_error"): 3}


async def test_values_and_times_that_cannot_be_are_refused_and_counted() -> None:
    test = await bed()
    assert isinstance(test.device, Bench)
    t0_us = test.now().wall_us
    test.device.answers = [
        {"fast": Column((t0_us + 1, t0_us + 2, t0_us + 2, t0_us + 3), (1.0, math.nan, 3.0, 4.0)), "slow": Column(None, (math.inf,))},
        {"fast": Column((t0_us,), (9.0,)), "slow": Column((t0_us + 40 * 24 * 3600 * S_US,), (9.0,))},
    ]
    await test.beat(3)
    taken = test.sampler.take()
    assert taken.columns[1].values.tolist() == [1.0, 3.0, 4.0, 1.0]
    assert test.sampler.readings_refused == 4
    assert counted(taken.missed) == {(1, "device_error"): 2, (2, "device_error"): 2}


async def test_what_was_sampled_in_1970_is_moved_by_as_much_as_the_clock_is_set() -> None:
    test = await bed()
    assert isinstance(test.device, Bench)
    test.wall_us = 0
    timeline = test.sampler._timeline = Timeline(test.now())
    test.device.answers = [{"fast": Column(None, (1.0,)), "slow": Column(None, (1.0,))}, {"slow": Column(None, (2.0,))}]
    await test.beat(2)
    test.wall_us = 1_800_000_000 * S_US
    by_us = timeline.rebase(test.now())
    assert by_us == test.wall_us
    await test.beat()  # sampled before the samplers were told
    test.sampler.restamp(by_us, test.now().wall_us)
    await test.beat()
    taken = test.sampler.take()
    assert taken.columns[1].times_us.tolist() == [test.wall_us + s * S_US for s in (51, 53, 54)]
    assert taken.columns[2].times_us.tolist() == [test.wall_us + s * S_US for s in (51, 52, 53, 54)]
    assert [(missed.number, missed.n, missed.from_us) for missed in taken.missed] == [(1, 1, test.wall_us + 52 * S_US)]


async def test_what_was_due_while_the_process_stood_still_is_declared() -> None:
    test = await bed()
    await test.beat()
    test.us += 31 * S_US
    await test.beat(2)
    assert counted(test.sampler.take().missed) == {(1, "source_stopped"): 30, (2, "source_stopped"): 14}  # slow's first came before


async def test_a_plugin_that_raises_anything_is_a_failed_device_and_not_the_end() -> None:
    test = await bed()
    assert isinstance(test.device, Bench)
    test.device.answers = [ZeroDivisionError("1/0"), {"unknown": Column(None, (1.0,))}]
    await test.beat(8)
    assert test.sampler.failures == 2
    assert test.sampler.take().columns[1].values.tolist()[-1] == 1.0


async def test_an_awaited_device_is_sampled_the_same_way() -> None:
    class Awaited(Device):
        def channels(self) -> Sequence[Channel]:
            return [Channel("a", "A", "")]

        async def read(self) -> Readings:
            return {"a": Column((1_800_000_000 * S_US, 1_800_000_001 * S_US), (1.0, 2.0))}

    test = await bed(Awaited())
    await test.beat()
    assert test.sampler.take().columns[1].values.tolist() == [1.0, 2.0]


def test_a_started_sampler_samples_in_its_own_thread_and_stops() -> None:
    device = Bench()
    device.read_interval_ms = 10
    channels = [Channel("fast", "Fast", "", interval_ms=10), Channel("slow", "Slow", "", interval_ms=20)]
    sampler = Sampler("bench", device, channels, {"fast": 1, "slow": 2}, Timeline(Now(0, 0)))
    sampler.start()
    taken: list[float] = []
    while len(taken) < 3:
        taken += sampler.take().columns.get(1, Column((), ())).values
    sampler.stop(5.0)
    assert (device.opened, device.closed) == (1, 1)
