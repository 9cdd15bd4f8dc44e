"""The ledger in plain Python: what the port means, short enough to read, for tests and for temporary talk."""

from clew.adapters.stores.memory.ledger import MemoryLedger
from clew.adapters.stores.memory.state import Disk

__all__ = ["Disk", "MemoryLedger"]
