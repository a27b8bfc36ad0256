"""The backend of the controller's rows: it does not compact, so that a reading that is stored twice is seen."""

from collections.abc import AsyncIterator

import pytest
from parts.backend import Backend


@pytest.fixture(scope="module")
async def backend(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    """A backend process that the tests of one module share, on `module_database`."""
    process = Backend(module_database, tmp_path_factory.mktemp("backend"), compacting=False)
    await process.start()
    yield process
    assert await process.stop() == 0, process.log
