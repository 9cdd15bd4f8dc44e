"""The `clew` command: answers `--version` at once, and leaves everything else to the composition root.

Nothing of ours is imported before that question is settled, so that asking for the version costs no more than
starting Python.
"""

import sys

import clew


def main() -> int:
    """Run the command line and return its exit code."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"clew {clew.__version__}\n")
        return 0
    from clew.installed import Installed  # noqa: PLC0415  keeps --version quick

    installed = Installed(clew.__file__)
    from clew.bootstrap import main as start  # noqa: PLC0415  the package must be known before it is imported

    return start(installed)


if __name__ == "__main__":
    sys.exit(main())
