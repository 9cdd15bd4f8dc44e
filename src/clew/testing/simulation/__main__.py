"""`python -m clew.testing.simulation`. Its work is in `command`: other processes have to find it by name."""

import sys

from clew.testing.simulation.command import main

if __name__ == "__main__":
    sys.exit(main())
