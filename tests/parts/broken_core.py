"""A native core that panics where it is told to: built for the tests with a feature that no other build has, and loaded by a real backend
in place of its own. The product's code knows nothing of it: `folder` lies first on the process's path, and its sitecustomize.py is the
one that Python runs at every start.

    Backend(database, data_dir, PYTHONPATH=broken_core.path(folder), WEBMACS_TEST_SABOTAGE="taking:50")
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SITE: Final = """
import importlib.util, pathlib, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        here = pathlib.Path(__file__).with_name("ingest_core.abi3.so")
        return importlib.util.spec_from_file_location(name, here) if name == "webmacs.ingest_core" else None

sys.meta_path.insert(0, Finder)
"""


def build(folder: Path) -> None:
    """Builds it into `folder`. Fails with the compiler's words."""
    command = ["cargo", "build", "--profile", "test", "--lib", "--features", "sabotage", "--manifest-path", "ingest_core/Cargo.toml"]
    built = subprocess.run([*command, "--message-format", "json"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    made = [name for line in built.stdout.splitlines() for name in json.loads(line).get("filenames", ()) if name.endswith(".so")]
    (library,) = (name for name in made if Path(name).name == "libingest_core.so")
    shutil.copy(library, folder / "ingest_core.abi3.so")
    (folder / "sitecustomize.py").write_text(SITE)


def path(folder: Path) -> str:
    return f"{folder}:{ROOT}:{ROOT / 'tests'}"
