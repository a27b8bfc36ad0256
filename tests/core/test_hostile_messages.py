"""Damaged messages in great numbers: what the core's own mutation run found, and each decided as the plain decoder decides."""

import json
import os
import subprocess
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from parts import frame_check
from parts.mutation import Mutations
from parts.torture import Row

ROOT = Path(__file__).parents[2]


@pytest.mark.row(30)
def test_no_damaged_message_makes_the_core_panic_or_grow(row: Row) -> None:
    """The run of ingest_core/tests/hostile.rs in an optimised build; `make test` runs it as part of `cargo test` as well."""
    frames = row.count(quick=20_000, full=10_000_000)
    command = ["cargo", "test", "--quiet", "--manifest-path", "ingest_core/Cargo.toml", "--test", "hostile"]
    run = subprocess.run(
        [*command, *(["--release"] if row.torture else []), "no_damaged_message_does_harm", "--", "--nocapture"],
        cwd=ROOT,
        env=os.environ | {"WEBMACS_TEST_FRAMES": str(frames), "WEBMACS_TEST_SEED": str(row.seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (tally,) = (json.loads(line) for line in run.stdout.splitlines() if line.startswith("{"))
    accepted = tally["verdicts"]["accepted"]
    row.record(
        done=accepted, refused=frames - accepted, unknown=None, lost=None, twice=None,
        bytes_held_per_byte=tally["bytes_held_per_byte_max"],
    )  # fmt: skip
    assert tally["frames"] == frames


@pytest.mark.row(30)
def test_a_damaged_frame_is_decided_as_the_plain_decoder_decides(row: Row) -> None:
    """Taken with the same readings, or refused with the same code, channel and position."""
    count = row.count(quick=20_000, full=1_000_000)
    mutations = Mutations(row.chance, frame_check.NOW, list(frame_check.GRANTED), sorted(frame_check.REFUSED))
    verdicts: Counter[str] = Counter()
    for number, frame in enumerate(islice(mutations.frames(), count)):
        try:
            verdicts[frame_check.check(frame)] += 1
        except AssertionError as difference:
            raise AssertionError(f"frame {number}: {frame.hex()}") from difference
    row.record(done=verdicts["accepted"], refused=count - verdicts["accepted"], unknown=None, lost=None, twice=None, **verdicts)
    assert verdicts.keys() == {
        "accepted",
        "malformed",
        "unknown_channel",
        "not_granted",
        "not_finite",
        "lengths_differ",
        "not_increasing",
        "out_of_bounds",
    }, "the mutations do not reach every check"
