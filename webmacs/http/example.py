"""Examples made of schemas: of the fields' own examples where they have some, otherwise of their formats, bounds and names."""

from collections.abc import Mapping
from typing import Any, Final

UUID: Final = "019a0d5e-7c00-7a41-9d3c-5b8e2f6a1c04"
BEGINNING: Final = "2026-11-23T12:00:00Z"
END: Final = "2026-11-23T13:00:00Z"
ENDS: Final = ("to", "end", "until", "stopped_on", "expires_on")
NUMBER: Final = 21.5


class Recursive(Exception):
    """A schema holds itself and cannot do without."""


class Examples:
    """Makes examples of schemas that refer to `components`. `full` False leaves out what a body need not have."""

    def __init__(self, components: Mapping[str, Any], *, full: bool = True) -> None:
        self._components = components
        self._full = full
        self._within: list[str] = []

    def of(self, schema: Mapping[str, Any], name: str = "") -> Any:
        """Raises Recursive."""
        if "examples" in schema:
            return schema["examples"][0]
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        if "$ref" in schema:
            return self._referred(schema["$ref"].rpartition("/")[2], name)
        if "anyOf" in schema or "oneOf" in schema:
            return self._first_of(schema.get("anyOf") or schema["oneOf"], name)
        if schema.get("default") is not None:
            return schema["default"]
        match schema.get("type"):
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema, name)
            case "string":
                return _text(schema, name)
            case "integer" | "number" as kind:
                return _number(schema, kind)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return {}

    def _referred(self, component: str, name: str) -> Any:
        if component in self._within:
            raise Recursive(component)
        self._within.append(component)
        try:
            return self.of(self._components[component], name)
        finally:
            self._within.pop()

    def _first_of(self, choices: list[Mapping[str, Any]], name: str) -> Any:
        for choice in sorted(choices, key=lambda one: one.get("type") == "null"):
            try:
                return self.of(choice, name)
            except Recursive as recursive:
                last = recursive
        raise last

    def _object(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        required = schema.get("required", ())
        made = {}
        for name, kind in schema.get("properties", {}).items():
            if name in required or self._full:
                try:
                    made[name] = self.of(kind, name)
                except Recursive:
                    if name in required:
                        raise
        return made

    def _array(self, schema: Mapping[str, Any], name: str) -> list[Any]:
        if "prefixItems" in schema:
            return [self.of(kind, name) for kind in schema["prefixItems"]]
        least = schema.get("minItems", 0)
        try:
            return [self.of(schema.get("items") or {}, name.removesuffix("s"))] * max(1, least)
        except Recursive:
            if least:
                raise
            return []


def _text(schema: Mapping[str, Any], name: str) -> str:
    match schema.get("format"):
        case "uuid":
            return UUID
        case "date-time":
            return END if name in ENDS else BEGINNING
        case "date":
            return BEGINNING[:10]
        case "time":
            return BEGINNING[11:]
    words = name.replace("_", " ") or "text"
    return words.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]


def _number(schema: Mapping[str, Any], kind: str) -> float | int:
    least, most = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", schema.get("exclusiveMaximum"))
    wanted: float | int = 1 if kind == "integer" else NUMBER
    if least is not None and wanted <= least:
        wanted = least + ("exclusiveMinimum" in schema)
    if most is not None and wanted >= most:
        wanted = most - ("exclusiveMaximum" in schema)
    return wanted
