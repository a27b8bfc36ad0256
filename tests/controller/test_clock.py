"""The timeline: whatever is done to the wall clock, times rise."""

from hypothesis import given
from hypothesis import strategies as st
from webmacs_controller.clock import Now, Timeline

HOUR_US = 3_600_000_000
START = Now(1_800_000_000_000_000, 1_000)


@given(st.lists(st.tuples(st.integers(1, 3_000_000), st.integers(-HOUR_US, HOUR_US)), max_size=30))
def test_times_never_run_backwards_however_the_wall_clock_is_set(steps: list[tuple[int, int]]) -> None:
    timeline = Timeline(START)
    monotonic_us, wall_us, newest = START.monotonic_us, START.wall_us, START.wall_us
    for elapsed_us, set_by_us in steps:
        monotonic_us, wall_us = monotonic_us + elapsed_us, wall_us + elapsed_us + set_by_us
        for at in (timeline.at(monotonic_us), timeline.rebase(Now(wall_us, monotonic_us)), timeline.at(monotonic_us)):
            if at is not None and abs(at) > 10**15:
                assert at >= newest
                newest = at


def test_a_clock_that_is_set_forward_is_followed_at_once_and_noted_once() -> None:
    timeline = Timeline(START)
    later = Now(START.wall_us + HOUR_US + 1_000_000, START.monotonic_us + 1_000_000)
    assert timeline.rebase(later) == HOUR_US
    assert timeline.at(later.monotonic_us) == later.wall_us
    assert timeline.rebase(Now(later.wall_us + 1_000_000, later.monotonic_us + 1_000_000)) is None
    assert timeline.corrections == 1


def test_a_clock_that_is_set_back_is_approached_at_half_speed_and_noted_once() -> None:
    timeline = Timeline(START)
    noted = [timeline.rebase(Now(START.wall_us - 10_000_000 + s * 1_000_000, START.monotonic_us + s * 1_000_000)) for s in range(1, 30)]
    assert noted == [-10_000_000, *[None] * 28]
    assert timeline.at(START.monotonic_us + 29_000_000) == START.wall_us - 10_000_000 + 29_000_000
    assert timeline.corrections == 1


def test_a_clock_that_drifts_is_followed_without_being_noted() -> None:
    timeline = Timeline(START)
    for s in range(1, 100):
        assert timeline.rebase(Now(START.wall_us + s * 1_000_500, START.monotonic_us + s * 1_000_000)) is None
        assert abs(timeline.at(START.monotonic_us + s * 1_000_000) - (START.wall_us + s * 1_000_500)) <= 1
