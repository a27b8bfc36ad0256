"""Damaged messages in great numbers: what the core's own mutation run found, and each decided as the plain decoder decides."""

import json
import os
import subprocess
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import pytest
from parts import frame_check
from parts.mutation import Mutations
from parts.torture import Row
from webmacs_controller import wire

from webmacs import ingest_core
from webmacs.ingest_core import Core, Refused

ROOT = Path(__file__).parents[2]
_ANY = {"accepted", "malformed", "unknown_channel", "not_granted", "out_of_bounds"}
REACHED = {
    "data": {*_ANY, "not_finite", "lengths_differ", "not_increasing"},
    "gap": _ANY,
    "quality": _ANY,
    "preview": {*_ANY, "not_finite"},
    "none": {"malformed"},
}
"""Every verdict that a short frame of each kind can get: a kind whose mutations no longer have its shape is accepted no more."""
KINDS = {wire.KIND_DATA: "data", wire.KIND_GAP: "gap", wire.KIND_QUALITY: "quality", wire.KIND_PREVIEW: "preview"}


def kind_of(frame: bytes) -> str:
    head = ingest_core.peek(frame)
    return "none" if isinstance(head, Refused) else KINDS.get(head[0], "none")


def mutation_run(row: Row, frames: int, *options: str, sabotage: str = "") -> "subprocess.CompletedProcess[str]":
    """The run of ingest_core/tests/hostile.rs, which `make test` runs as part of `cargo test` as well."""
    command = ["cargo", "test", "--quiet", "--manifest-path", "ingest_core/Cargo.toml", "--test", "hostile", *options]
    command += ["no_damaged_message_does_harm", "--", "--nocapture"]
    environment = os.environ | {"WEBMACS_TEST_FRAMES": str(frames), "WEBMACS_TEST_SEED": str(row.seed), "WEBMACS_TEST_SABOTAGE": sabotage}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.row(30)
def test_no_damaged_message_makes_the_core_panic_or_grow(row: Row) -> None:
    """In an optimised build. The memory that it may hold is judged there, message by message; here stands the worst that was seen."""
    frames = row.count(quick=100_000, full=10_000_000)
    run = mutation_run(row, frames, *(["--release"] if row.torture else []))
    assert run.returncode == 0, run.stdout + run.stderr
    (tally,) = (json.loads(line) for line in run.stdout.splitlines() if line.startswith("{"))
    accepted, held = sum(of_kind["accepted"] for kind, of_kind in tally["verdicts"].items() if kind != "none"), tally["bytes_held"]
    row.record(
        done=accepted, refused=frames - accepted, unknown=None, lost=None, twice=None,
        bytes_held_per_byte_accepted=round(held["accepted_per_byte"], 2), bytes_held_to_refuse_a_frame=held["refused"],
        bytes_held_to_refuse_a_text_beyond_four_times_its_own=held["text_refused_beyond"],
    )  # fmt: skip
    assert tally["frames"] == frames


@pytest.mark.row(30)
@pytest.mark.parametrize(("sabotage", "promise"), [("decoding", "internal fault"), ("hoarding", "made it hold 65")])
def test_a_core_that_panics_or_hoards_is_found_by_a_damaged_message(row: Row, sabotage: str, promise: str) -> None:
    run = mutation_run(row, 20_000, "--features", "sabotage", sabotage=f"{sabotage}:1000")
    found = next((line for line in run.stderr.splitlines() if promise in line), "")
    row.caught(sabotage, of=test_no_damaged_message_makes_the_core_panic_or_grow, found=found[found.find(promise) :].partition(":")[0])
    assert run.returncode
    assert found, run.stderr


@pytest.mark.row(30)
def test_a_damaged_frame_is_decided_as_the_plain_decoder_decides(row: Row) -> None:
    """Taken with the same readings, gap or doubt, or refused with the same code, channel and position."""
    count = row.count(quick=20_000, full=1_000_000)
    mutations = Mutations(row.chance, frame_check.NOW, list(frame_check.GRANTED), sorted(frame_check.REFUSED))
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    for number, frame in enumerate(islice(mutations.frames(), count)):
        try:
            verdicts[kind_of(frame)][frame_check.check(frame)] += 1
        except AssertionError as difference:
            raise AssertionError(f"frame {number}: {frame.hex()}") from difference
    total = sum(verdicts.values(), Counter[str]())
    accepted = {f"{kind}_accepted": verdicts[kind]["accepted"] for kind in REACHED if kind != "none"}
    row.record(done=total["accepted"], refused=count - total["accepted"], unknown=None, lost=None, twice=None, **total, **accepted)
    assert {kind: set(of_kind) for kind, of_kind in verdicts.items()} == REACHED, "the mutations do not reach every check of each kind"


@pytest.mark.row(30)
def test_a_core_that_takes_what_is_not_granted_is_found_by_the_plain_decoder(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = frame_check.core

    def generous() -> Core:
        made = sound()
        made.own(1, 5, [(11 + channel, None) for channel in frame_check.REFUSED], [])
        made.open(9, [*frame_check.GRANTED.items(), *((channel, 11 + channel) for channel in frame_check.REFUSED)], [], None)
        return made

    monkeypatch.setattr(frame_check, "core", generous)
    mutations = Mutations(row.chance, frame_check.NOW, list(frame_check.GRANTED), sorted(frame_check.REFUSED))
    for number, frame in enumerate(islice(mutations.frames(), 20_000)):
        try:
            frame_check.check(frame)
        except AssertionError as difference:
            row.caught(
                "grant_everything",
                of=test_a_damaged_frame_is_decided_as_the_plain_decoder_decides,
                frames=number + 1,
                found=str(difference).partition("\n")[0][:120],
            )
            return
    pytest.fail("20,000 frames did not find it")
