"""Runs the command line: `python -m autoep`."""

import sys

from autoep.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
