"""Every path of the API, looked up part by part: a request for the last of a hundred and fifty costs what the first does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

ID: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


@dataclass(slots=True)
class _Node:
    app: ASGIApp | None = None
    words: dict[str, _Node] = field(default_factory=dict)
    parameters: dict[str, _Node] = field(default_factory=dict)


class Paths(BaseRoute):
    """`apps` by path. A parameter called `..._id` is a UUID, another any text without a slash; a word goes before a parameter."""

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._root = _Node()
        for path, app in apps.items():
            node = self._root
            for part in path.split("/"):
                node = node.parameters.setdefault(part[1:-1], _Node()) if part.startswith("{") else node.words.setdefault(part, _Node())
            node.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http":
            parameters: dict[str, Any] = {}
            app = _find(self._root, scope["path"].split("/"), 0, parameters)
            if app is not None:
                return Match.FULL, {"endpoint": app, "path_params": parameters}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["endpoint"](scope, receive, send)


def _find(node: _Node, parts: list[str], at: int, parameters: dict[str, Any]) -> ASGIApp | None:
    if at == len(parts):
        return node.app
    part = parts[at]
    word = node.words.get(part)
    if word is not None and (app := _find(word, parts, at + 1, parameters)) is not None:
        return app
    for name, child in node.parameters.items():
        value = _value(name, part)
        if value is not None and (app := _find(child, parts, at + 1, parameters)) is not None:
            parameters[name] = value
            return app
    return None


def _value(name: str, part: str) -> UUID | str | None:
    """None for what is no value of this parameter."""
    if name.endswith("_id"):
        return UUID(part) if ID.fullmatch(part) else None
    return part or None
