"""`webmacs openapi`: prints the OpenAPI document of the REST interface."""

import argparse

import orjson

from webmacs.http.openapi import document
from webmacs.settings import Settings


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    print(orjson.dumps(document(), option=orjson.OPT_INDENT_2).decode())
    return 0
