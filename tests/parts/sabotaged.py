"""`python -m parts.sabotaged NAME -- webmacs serve ...` (or webmacs_controller run ...): a real process of the product that breaks one
promise, see parts/sabotage.py."""

import runpy
import sys
from functools import partial

from parts import sabotage
from webmacs.commands import serve


def main(name: str, separator: str, module: str, *arguments: str) -> None:
    if separator != "--" or not set(name.split("+")) <= sabotage.SWITCHES.keys():
        sys.exit(f"usage: python -m parts.sabotaged {{{','.join(sabotage.SWITCHES)}}} -- MODULE ARGUMENTS")
    sabotage.apply(name)
    serve.make_app = partial(sabotage.make_app, name)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
