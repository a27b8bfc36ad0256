"""`webmacs up`: the whole system, until Ctrl-C."""

import argparse

from webmacs.settings import Settings
from webmacs.supervisor import supervise


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    return supervise(settings)
