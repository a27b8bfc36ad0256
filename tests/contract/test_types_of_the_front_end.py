"""The SPA's types are made of the document that the backend serves: the committed copy is the present one."""

import json
from pathlib import Path

from webmacs.app import ROUTES, SOCKETS
from webmacs.http.openapi import document

COPY = Path(__file__).parents[2] / "frontend/openapi.json"


def test_the_front_end_is_typed_by_the_present_document() -> None:
    """When it is not: `webmacs openapi > frontend/openapi.json`, then `npm run types` in frontend/."""
    assert json.loads(COPY.read_text()) == json.loads(json.dumps(document(ROUTES, SOCKETS)))
