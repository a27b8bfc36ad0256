"""`webmacs openapi`: prints the OpenAPI document of the REST interface."""

import argparse
import json

from webmacs.app import ROUTES, SOCKETS
from webmacs.http.openapi import document
from webmacs.settings import Settings


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    print(json.dumps(document(ROUTES, SOCKETS), indent=2))
    return 0
