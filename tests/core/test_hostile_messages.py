"""Damaged messages in great numbers: what the core's own mutation run found, and each decided as the plain decoder decides."""

import json
import os
import subprocess
from pathlib import Path

import pytest
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
    row.record(done=accepted, refused=frames - accepted, unknown=0, lost=0, twice=0, bytes_held_per_byte=tally["bytes_held_per_byte_max"])
    assert tally["frames"] == frames
