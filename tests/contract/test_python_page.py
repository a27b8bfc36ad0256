"""docs/api/python.md is a program: it runs as it stands against a real backend, and does what it says."""

import asyncio
import re
import sys
from pathlib import Path

from parts.backend import Backend, make_user

PAGE = Path(__file__).parents[2] / "docs/api/python.md"
CLIENT_S = 60.0
"""Far more than it needs; it ends by itself."""


async def test_the_blocks_of_the_page_are_a_program_that_runs(backend: Backend, tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text("\n\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)))
    email = "integrator@example.org"
    password = await make_user(backend.database, backend.data_dir, email, "admin")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(script), backend.url, email, password,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(CLIENT_S):
        printed, _ = await process.communicate()
    said = printed.decode()
    assert process.returncode == 0, said
    assert "signed in as integrator" in said
    assert "refused: There is an event called Boiler temperature" in said
    assert "too late: it has version 2" in said
    assert "found again: [True]" in said
    assert "done so far: ['update', 'create']" in said
    assert "live: snapshot" in said
    assert said.endswith("signed out\n")
