"""`python -m autoep inspect MODEL_OR_CONFIG`."""

from __future__ import annotations

import argparse
import sys

import autoep


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m autoep", description=autoep.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="say what AutoEP sees in a model, without loading its weights"
    )
    inspect.add_argument(
        "model", help="a folder with a config.json, the file itself, or a name on the Hub"
    )
    args = parser.parse_args(arguments)
    try:
        print(autoep.inspect(args.model))
    except autoep.Error as error:
        print(f"autoep: {error}", file=sys.stderr)
        return 2
    return 0
