"""`python -m autoep inspect MODEL_OR_CONFIG`."""

from __future__ import annotations

import argparse
import sys

import autoep


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0; 1 for a model without experts that AutoEP supports; 2 for one that
        cannot be read.
    """
    parser = argparse.ArgumentParser(prog="python -m autoep", description=autoep.__doc__)
    parser.add_argument("--version", action="version", version=f"autoep {autoep.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="say what AutoEP sees in a model, without loading its weights"
    )
    inspect.add_argument(
        "model", help="a folder with a config.json, the file itself, or a name on the Hub"
    )
    args = parser.parse_args(arguments)
    try:
        found = autoep.inspect(args.model)
    except autoep.Error as error:
        print(f"autoep: {error}", file=sys.stderr)
        return 2
    print(found)
    return 0 if found.blocks else 1
