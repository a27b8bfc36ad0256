"""`webmacs key rotate`: a new key for sessions. Those that have begun go on until they end, 24 h at most."""

import argparse

from webmacs import clock, keys
from webmacs.instance import make_data_dir
from webmacs.settings import Settings


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    keys.rotate_signing_key(make_data_dir(settings.data_dir), clock.now_us())
    print("Sessions are signed with a new key from now on. The former is accepted for 24 h; rotate twice to end every session now.")
    return 0
