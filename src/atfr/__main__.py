"""`python -m atfr`: the command line."""

import sys

from atfr.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
