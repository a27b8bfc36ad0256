"""`python -m bench [SUITE ...]`: every suite, or those named. `make bench SUITE=ingest` calls it."""

import importlib
import sys

from bench.figures import Figures

SUITES = ("core", "ingest", "fanout", "history", "rest", "start")


def main(asked: list[str]) -> int:
    unknown = [suite for suite in asked if suite not in SUITES]
    if unknown:
        print(f"bench: there is no suite {', '.join(unknown)}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    for suite in asked or SUITES:
        figures = Figures(suite)
        importlib.import_module(f"bench.{suite}").run(figures)
        print(f"# written to bench/results/{figures.save().name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
