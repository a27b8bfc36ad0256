"""Which passwords are refused because they are guessed first, and which are not."""

import pytest

from webmacs.guessable import _common, reason


@pytest.mark.parametrize(
    "password",
    [
        "password1234", "PASSWORD!!!!", "!!!!password", "passwordpassword", "qwerty123456", "monkey dragon letmein", "monkey_dragon_77",
        "webmacs12345", "WebMACS-Dashboard", "operator 2026", "maria.weber2026", "weber-weber-weber", "maria@plant.org", "aaaaaaaaaaaaa",
        "abcdeabcdeabcde", "1234567890123", "9876543210987", "13579135791357", "leavemealone",
    ],
)  # fmt: skip
def test_what_is_guessed_first_is_refused(password: str) -> None:
    assert reason(password, "maria@plant.org", "Maria Weber") is not None


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "kX9#mQ2$vL5pR8",
        "monkey of the green hill",
        "48151623421337",
        "äöüß éèêë",
        "webmacs runs the boiler",
        "x" * 5 + "y" * 8,
    ],
)
def test_what_is_not_is_taken_without_rules_of_composition(password: str) -> None:
    assert reason(password, "maria@plant.org", "Maria Weber") is None


def test_at_least_three_thousand_common_ones_are_known() -> None:
    assert len(_common()) >= 3_000
