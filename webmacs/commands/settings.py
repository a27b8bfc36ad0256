"""`webmacs settings`: every setting, its value and where that comes from; with --markdown the page docs/settings.md."""

import argparse
import os

from webmacs.settings import FILE_VARIABLE, Settings, load_with_origins, variable

SECRET = frozenset({"database_url"})


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    if parsed.markdown:
        print(markdown(), end="")
        return 0
    origins = load_with_origins(os.environ)[1]
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        shown = "(set, not shown)" if name in SECRET and value is not None else _text(value)
        print(f"{variable(name):30} {shown:20} from {origins[name]}; default {_text(field.default)}")
        print(f"{'':30} {field.description}")
    return 0


def markdown() -> str:
    """docs/settings.md: a test holds the file to it."""
    lines = [
        "# Settings",
        "",
        "This page is made by `webmacs settings --markdown`. A setting comes from the command line, else from the environment, else from",
        f"the TOML file that `{FILE_VARIABLE}` names (there it is called `port`, not `WEBMACS_PORT`), else it has its default.",
        "An unknown or wrong one stops the start with exit code 78. `WEBMACS_CONTROLLER_*` belongs to the controller.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        lines.append(f"| `{variable(name)}` | {_text(field.default)} | {field.description} |")
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    if value is None or value == ():
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
