"""`clew setup`: which model answers. Everything is tried before anything is written, and written whole or not at all."""

from clew.surfaces.cli.setup.command import setup
from clew.surfaces.cli.setup.wizard import offer_setup, run_setup

__all__ = ["offer_setup", "run_setup", "setup"]
