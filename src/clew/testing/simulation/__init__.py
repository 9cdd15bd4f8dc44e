"""Whole conversations under the fault model: several processes on one disk, in virtual time, from one seed.

A run does everything that people, platforms and operating systems do, at random, with commits that fail, processes that are
killed or paused, clocks that jump, models and tools that misbehave, and checks after every action, and at every write, what
docs/fault-model.md says must hold. Two runs of one seed give the same trace.
"""

from clew.testing.simulation.run import Run, run_seed

__all__ = ["Run", "run_seed"]
