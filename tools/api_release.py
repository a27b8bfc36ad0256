"""Holds the API against the one that was released: `python tools/api_release.py` writes docs/api/openapi-v1.json anew, if nothing breaks.

What breaks a client: an address, a method, a parameter, a field or a value that is gone; something that must be sent now; a body that was
taken and is refused now; an answer of another type or status. What is added breaks nobody. docs/api/stability.md promises it.
"""

import json
import sys
from pathlib import Path

RELEASED = Path(__file__).resolve().parent.parent / "docs/api/openapi-v1.json"
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")


def breaks(old, new):
    """What of `new` would break a client of `old`, a sentence each. Both are OpenAPI documents."""
    return list(_Comparison(old, new).of_documents())


class _Comparison:
    """Schemas go one of two ways: into the service, where less must not be taken, or out of it, where nothing must be missing."""

    def __init__(self, old, new):
        self.old = old
        self.new = new
        self.within = set()

    def of_documents(self):
        for path, operations in self.old["paths"].items():
            for method, operation in operations.items():
                place = f"{method.upper()} {path}"
                present = self.new["paths"].get(path, {}).get(method)
                if present is None:
                    yield f"{place}: it is gone"
                else:
                    yield from self.of_operations(place, operation, present)
        sockets = {one["path"] for one in self.new.get("x-websockets", [])}
        yield from (f"WS {one['path']}: it is gone" for one in self.old.get("x-websockets", []) if one["path"] not in sockets)
        known = self.new["components"].get("examples", {})
        yield from (f"/problems/{slug}: it is gone" for slug in self.old["components"].get("examples", {}) if slug not in known)

    def of_operations(self, place, old, new):
        if not old.get("security") and new.get("security"):
            yield f"{place}: it needs a credential now"
        yield from self.of_parameters(place, old, new)
        yield from self.of_bodies(place, old, new)
        done, present = ({status for status in one["responses"] if status < "300"} for one in (old, new))
        asked = self.parameters(self.new, new).keys() > self.parameters(self.old, old).keys()  # then another status may be an answer to it
        if done - present or (present != done and not asked):
            yield f"{place}: it answered {', '.join(sorted(done))} and answers {', '.join(sorted(present))} now"
        for status in sorted(done & present):
            yield from self.of_answers(
                f"{place} {status}", self.resolve(self.old, old["responses"][status]), self.resolve(self.new, new["responses"][status])
            )

    def of_parameters(self, place, old, new):
        before, after = self.parameters(self.old, old), self.parameters(self.new, new)
        for key, parameter in before.items():
            where = f"{place}: {key[0]} {key[1]}"
            if key not in after:
                yield f"{where}: it is gone"
            else:
                yield from self.taken(where, parameter["schema"], after[key]["schema"])
        for key, parameter in after.items():
            if parameter.get("required") and not before.get(key, {}).get("required"):
                yield f"{place}: {key[0]} {key[1]}: it must be sent now"

    def parameters(self, document, operation):
        found = [self.resolve(document, one) for one in operation.get("parameters", [])]
        return {(one["in"], one["name"]): one for one in found}

    def of_bodies(self, place, old, new):
        before, after = old.get("requestBody"), new.get("requestBody")
        if before is None:
            if after is not None and after.get("required"):
                yield f"{place}: a body must be sent now"
        elif after is None:
            yield f"{place}: it takes no body now"
        else:
            for media_type, content in before["content"].items():
                if media_type not in after["content"]:
                    yield f"{place}: body {media_type}: it is gone"
                else:
                    yield from self.taken(f"{place}: body", content["schema"], after["content"][media_type]["schema"])

    def of_answers(self, place, old, new):
        yield from (f"{place}: header {name}: it is gone" for name in old.get("headers", {}) if name not in new.get("headers", {}))
        for media_type, content in old.get("content", {}).items():
            if media_type not in new.get("content", {}):
                yield f"{place}: {media_type}: it is gone"
            else:
                yield from self.given(place, content["schema"], new["content"][media_type]["schema"])
        if not old.get("content") and new.get("content"):
            yield f"{place}: it has a body now"

    def taken(self, place, old, new):
        """Whatever `old` took, `new` must take."""
        for before in self.choices(self.old, old):
            alike = [after for after in self.choices(self.new, new) if types(before) <= wider(types(after))]
            if alike:
                yield from min((self.followed(self.taken_choice, place, before, after) for after in alike), key=len)
            else:
                yield f"{place}: it took {said(before)} and takes {said(*self.choices(self.new, new))} now"

    def given(self, place, old, new):
        """Whatever `new` gives, a reader of `old` must know."""
        for after in self.choices(self.new, new):
            alike = [before for before in self.choices(self.old, old) if types(after) <= wider(types(before))]
            if alike:
                yield from min((self.followed(self.given_choice, place, before, after) for before in alike), key=len)
            else:
                yield f"{place}: it was {said(*self.choices(self.old, old))} and is {said(after)} now"

    def followed(self, compare, place, before, after):
        """Schemas that hold themselves are followed once."""
        pair = (compare.__name__, json.dumps([before, after], sort_keys=True))
        if pair in self.within:
            return []
        self.within.add(pair)
        found = list(compare(place, before, after))
        self.within.discard(pair)
        return found

    def taken_choice(self, place, old, new):
        if "enum" in new and not ("enum" in old and set(map(str, old["enum"])) <= set(map(str, new["enum"]))):
            yield f"{place}: it takes fewer values: {sorted(set(map(str, old.get('enum', ['any']))) - set(map(str, new['enum'])))}"
        yield from (f"{place}: {name} is {new[name]} now" for name in LOWER if name in new and new[name] > old.get(name, -(2**64)))
        yield from (f"{place}: {name} is {new[name]} now" for name in UPPER if name in new and new[name] < old.get(name, 2**64))
        yield from (f"{place}: {name} is {new[name]} now" for name in ("pattern", "format") if name in new and new[name] != old.get(name))
        yield from (f"{place}.{name}: it must be sent now" for name in new.get("required", []) if name not in old.get("required", []))
        yield from self.members(place, old, new, self.taken)

    def given_choice(self, place, old, new):
        if "enum" in old and (gone := set(map(str, old["enum"])) - set(map(str, new.get("enum", old["enum"])))):
            yield f"{place}: values are gone: {sorted(gone)}"
        if "format" in old and new.get("format") != old["format"]:
            yield f"{place}: format was {old['format']} and is {new.get('format')} now"
        present = new.get("properties", {})
        yield from (
            f"{place}.{name}: it may be missing now"
            for name in old.get("required", [])
            if name in present and name not in new.get("required", [])
        )
        yield from self.members(place, old, new, self.given)

    def members(self, place, old, new, compare):
        present = new.get("properties", {})
        for name, schema in old.get("properties", {}).items():
            if name not in present:
                yield f"{place}.{name}: it is gone"
            else:
                yield from compare(f"{place}.{name}", schema, present[name])
        for name in ("items", "additionalProperties"):
            if isinstance(old.get(name), dict) and isinstance(new.get(name), dict):
                yield from compare(f"{place}[]", old[name], new[name])

    def choices(self, document, schema):
        resolved = self.resolve(document, schema)
        for choice in resolved.get("anyOf") or resolved.get("oneOf") or [resolved]:
            if choice is resolved or not ({"$ref", "anyOf", "oneOf"} & choice.keys()):
                yield choice
            else:
                yield from self.choices(document, choice)

    def resolve(self, document, thing):
        while "$ref" in thing:
            found = document
            for part in thing["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            thing = found
        return thing


def types(schema):
    """The JSON types that a schema without choices allows; "any" when it does not say."""
    if "enum" in schema or "const" in schema:
        return {kind_of(value) for value in schema.get("enum", [schema.get("const")])}
    said = schema.get("type", "any")
    return set(said) if isinstance(said, list) else {said}


def kind_of(value):
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names[type(value)]


def wider(kinds):
    """Everything is any, and every integer is a number."""
    if "any" in kinds:
        return {"any", "object", "array", "string", "integer", "number", "boolean", "null"}
    return kinds | ({"integer"} if "number" in kinds else set())


def said(*choices):
    return " or ".join(sorted({kind for choice in choices for kind in types(choice)}))


def main():
    from webmacs.app import ROUTES, SOCKETS
    from webmacs.http.openapi import document

    present = json.loads(json.dumps(document(ROUTES, SOCKETS)))
    found = breaks(json.loads(RELEASED.read_text("utf-8")), present) if RELEASED.exists() else []
    if found:
        sys.exit(
            "\n".join([*found, "", f"Clients of v1 would break: {RELEASED.name} stays as it is. Add beside what there is, or make a v2."])
        )
    RELEASED.write_text(json.dumps(present, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{RELEASED.name}: {sum(map(len, present['paths'].values()))} operations")


if __name__ == "__main__":
    main()
