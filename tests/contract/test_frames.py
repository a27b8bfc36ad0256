"""The golden frames: the Python encoder writes those bytes, each end reads them as they are meant, the core judges them so."""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from webmacs_controller import wire

from webmacs import ingest_core

FILE = Path(__file__).parent / "frames" / "frames.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
FRAMES: list[dict[str, Any]] = DOCUMENT["frames"]
CONNECTION = 1
_numbered = msgspec.msgpack.Decoder(wire.Data | wire.Gap | wire.Quality | wire.Preview)


def by(**wanted: str) -> list[Any]:
    return [pytest.param(f, id=f["name"]) for f in FRAMES if all(f[key] == value for key, value in wanted.items())]


def bytes_of(frame: dict[str, Any]) -> bytes:
    return bytes.fromhex(frame["hex"]) + bytes(frame.get("repeat", 0))


def plain(value: object) -> object:
    if isinstance(value, dict) and set(value) == {"bin"}:
        return bytes.fromhex(value["bin"])
    if isinstance(value, dict):
        return {key: plain(element) for key, element in value.items()}
    if isinstance(value, list):
        return [plain(element) for element in value]
    return value


def core() -> ingest_core.Core:
    made = ingest_core.Core()
    made.set_events([(10, bytes(15) + b"\1"), (11, bytes(15) + b"\2")])
    made.own(1, 1, [(10, None), (11, None)], [])
    made.open(CONNECTION, [(1, 10), (2, 11)], DOCUMENT["conditions"]["refused"], None)
    return made


def test_every_message_kind_and_every_refusal_code_has_a_golden_frame() -> None:
    kinds = {frame["decoded"][0] for frame in FRAMES if "decoded" in frame}
    assert kinds == set(range(1, 13))
    codes = {frame["outcome"] for frame in FRAMES} - {"accepted"}
    assert codes == set(get_args(wire.RefusalCode))


def test_the_file_is_what_its_generator_writes() -> None:
    namespace: dict[str, Any] = {"__name__": "make_frames", "__file__": str(FILE.parents[1] / "make_frames.py")}
    exec((FILE.parents[1] / "make_frames.py").read_text(), namespace)
    assert namespace["document"]() == FILE.read_text()


@pytest.mark.parametrize("frame", [param for param in by() if "decoded" in param.values[0]])
def test_the_bytes_mean_what_the_file_says(frame: dict[str, Any]) -> None:
    assert msgspec.msgpack.encode(plain(frame["decoded"])) == bytes_of(frame)


@pytest.mark.parametrize("frame", by(**{"from": "source", "judge": "socket", "outcome": "accepted"}))
def test_the_backend_reads_a_source_s_message_and_writes_it_back(frame: dict[str, Any]) -> None:
    assert wire.encode(wire.decode_from_source(bytes_of(frame))) == bytes_of(frame)


@pytest.mark.parametrize("frame", by(**{"from": "backend"}))
def test_the_source_reads_a_backend_s_message_and_writes_it_back(frame: dict[str, Any]) -> None:
    assert wire.encode(wire.decode_from_backend(bytes_of(frame))) == bytes_of(frame)


@pytest.mark.parametrize("frame", by(judge="core", outcome="accepted"))
def test_the_encoder_writes_the_bytes_of_an_accepted_frame(frame: dict[str, Any]) -> None:
    assert wire.encode(_numbered.decode(bytes_of(frame))) == bytes_of(frame)


@pytest.mark.parametrize("frame", by(judge="core"))
def test_the_core_decides_about_a_frame_as_the_file_says(frame: dict[str, Any]) -> None:
    verdict = core().accept(CONNECTION, bytes_of(frame), DOCUMENT["conditions"]["now_us"])
    if frame["outcome"] == "accepted":
        assert isinstance(verdict, ingest_core.Accepted), verdict
        assert verdict.readings == frame["readings"]
    else:
        assert isinstance(verdict, ingest_core.Refused), verdict
        assert (verdict.code, bool(verdict.detail)) == (frame["outcome"], True)


@pytest.mark.parametrize("frame", by(judge="core", outcome="accepted"))
def test_the_core_finds_the_seq_without_reading_the_frame(frame: dict[str, Any]) -> None:
    kind = frame["decoded"][0]
    assert ingest_core.peek(bytes_of(frame)) == (kind, frame["decoded"][1] if kind in wire.NUMBERED_KINDS else None)
