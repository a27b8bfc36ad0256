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


def test_times_go_on_from_an_earlier_process_when_the_clock_was_set_back_between_them() -> None:
    newest_us = START.wall_us + 10_000_000
    timeline = Timeline(START, newest_us)
    assert timeline.at(START.monotonic_us) == newest_us + 1
    assert timeline.rebase(Now(START.wall_us + 30_000_000, START.monotonic_us + 30_000_000)) is None
    assert timeline.at(START.monotonic_us + 30_000_000) == START.wall_us + 30_000_000
    assert Timeline(START, START.wall_us - 1).at(START.monotonic_us) == START.wall_us
    assert Timeline(START, START.wall_us + 9 * 365 * 24 * HOUR_US).at(START.monotonic_us) == START.wall_us


def test_a_clock_that_was_years_ahead_is_followed_back_at_once_because_nothing_of_it_is_stored() -> None:
    timeline = Timeline(START)
    back_us = -2 * 365 * 24 * HOUR_US
    later = Now(START.wall_us + back_us + 1_000_000, START.monotonic_us + 1_000_000)
    assert timeline.rebase(later) == back_us
    assert timeline.at(later.monotonic_us) == later.wall_us


def test_a_clock_that_is_lost_while_it_runs_is_not_followed() -> None:
    timeline = Timeline(START)
    timeline.rebase(Now(START.wall_us + HOUR_US, START.monotonic_us))
    assert timeline.rebase(Now(1_000_000, START.monotonic_us + 1_000_000)) is None
    assert timeline.known
    assert timeline.at(START.monotonic_us + 2_000_000) == START.wall_us + HOUR_US + 2_000_000
    assert timeline.rebase(Now(START.wall_us + 3_000_000, START.monotonic_us + 3_000_000)) == -HOUR_US
    assert timeline.at(START.monotonic_us + 3_000_000) == START.wall_us + HOUR_US + 3_000_000


def test_a_clock_that_was_never_set_is_not_known() -> None:
    timeline = Timeline(Now(5_000_000, 1_000))
    assert not timeline.known
    timeline.rebase(Now(START.wall_us, 2_000))
    assert timeline.known


def test_a_clock_that_drifts_is_followed_without_being_noted() -> None:
    timeline = Timeline(START)
    for s in range(1, 100):
        assert timeline.rebase(Now(START.wall_us + s * 1_000_500, START.monotonic_us + s * 1_000_000)) is None
        assert abs(timeline.at(START.monotonic_us + s * 1_000_000) - (START.wall_us + s * 1_000_500)) <= 1
