"""Coverage-guided fuzzing of what the native core makes of a message: `make fuzz SECONDS=300`.

Begins with ingest_core/tests/corpus.hex (a message a line) and the golden frames, and writes the smallest set that reaches as much back
to that file; `cargo test` runs and mutates it. A message that breaks a promise is printed in hex: add it to the corpus with its mend.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATE = ROOT / "ingest_core"
CORPUS = CRATE / "tests/corpus.hex"
GOLDEN = ROOT / "tests/contract/frames/frames.json"
WORK = CRATE / "fuzz/target/message"
FUZZ = ["cargo", "+nightly", "fuzz"]
BYTES_MAX = 512
"""Longer messages find nothing that shorter ones do not, and fill the corpus."""


def main(seconds: int) -> int:
    if subprocess.run([*FUZZ, "--version"], cwd=CRATE, capture_output=True, check=False).returncode:
        print("Fuzzing needs a nightly Rust and cargo-fuzz: `rustup toolchain install nightly`, then `cargo install cargo-fuzz`.")
        return 1
    shutil.rmtree(WORK, ignore_errors=True)
    found, kept, broken = (WORK / name for name in ("found", "kept", "broken"))
    for folder in (found, kept, broken):
        folder.mkdir(parents=True)
    for number, message in enumerate(seeds()):
        (found / f"seed-{number}").write_bytes(message)
    # no sanitizer: the core has no unsafe code to watch, and without one it is ten times as fast
    run = [*FUZZ, "run", "--sanitizer", "none", "message"]
    limits = [f"-max_len={2 * BYTES_MAX}", f"-max_total_time={seconds}", f"-artifact_prefix={broken}/", "-print_final_stats=1"]
    code = subprocess.call([*run, str(found), "--", *limits], cwd=CRATE)
    for culprit in broken.iterdir():
        print(f"breaks a promise: {culprit.read_bytes().hex()}")
    if code:
        return code
    code = subprocess.call([*run, str(kept), str(found), "--", "-merge=1", "-use_counters=0", f"-max_len={BYTES_MAX}"], cwd=CRATE)
    if code == 0:
        CORPUS.write_text("".join(f"{line}\n" for line in sorted({file.read_bytes().hex() for file in kept.iterdir()})))
    return code


def seeds() -> list[bytes]:
    golden = json.loads(GOLDEN.read_text("utf-8"))["frames"]
    return [bytes.fromhex(text) for text in [*CORPUS.read_text().split(), *(frame["hex"] for frame in golden)]]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
