"""Wheels for tests: whole ones, and such as must never be taken."""

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Callable

NAME = "webmacs_plugin_chiller"
VERSION = "1.2.0"
FILE_NAME = f"{NAME}-{VERSION}-py3-none-any.whl"
INFO = f"{NAME}-{VERSION}.dist-info"
METADATA = f"Metadata-Version: 2.1\nName: webmacs-plugin-chiller\nVersion: {VERSION}\nSummary: Reads a chiller\nRequires-Python: >=3.11\n"


def files() -> dict[str, bytes]:
    return {
        f"{NAME}/__init__.py": b"raise SystemExit('nothing of a wheel may run')\n",
        f"{INFO}/METADATA": METADATA.encode(),
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{INFO}/entry_points.txt": b"[webmacs.plugins]\nchiller = webmacs_plugin_chiller:Chiller\n",
    }


def record(content: dict[str, bytes]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        writer.writerow([path, f"sha256={digest}", len(data)])
    writer.writerow([f"{INFO}/RECORD", "", ""])
    return out.getvalue().encode()


def pack(content: dict[str, bytes], change: Callable[[zipfile.ZipFile], None] = lambda archive: None) -> bytes:
    """A wheel of these files with their RECORD, unless they bring one; `change` may add what does not belong."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in ({f"{INFO}/RECORD": record(content)} | content).items():
            archive.writestr(path, data)
        change(archive)
    return out.getvalue()
