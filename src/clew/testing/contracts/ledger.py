"""The whole suite of the `Ledger` port: a store is one when it passes this.

    class TestMyLedger(LedgerContract):
        @pytest.fixture
        async def reopen(self, tmp_path): ...

`reopen` is a function that opens the test's storage, again and again; it closes what it opened when the test ends.
"""

from __future__ import annotations

from clew.testing.contracts.ledger_case import Reopen
from clew.testing.contracts.ledger_delivery import DeliveryContract
from clew.testing.contracts.ledger_facts import FactContract
from clew.testing.contracts.ledger_fences import FenceContract, KeyContract, LeaseContract
from clew.testing.contracts.ledger_history import AppendContract, MovingContract, OpeningContract
from clew.testing.contracts.ledger_isolation import IsolationContract
from clew.testing.contracts.ledger_jobs import JobContract
from clew.testing.contracts.ledger_people import LinkingContract, PairingContract
from clew.testing.contracts.ledger_purge import PurgeContract
from clew.testing.contracts.ledger_recovery import RecoveryContract, SpendingContract
from clew.testing.contracts.ledger_search import SearchContract
from clew.testing.contracts.ledger_sessions import ForkContract, ListContract, PlaceContract, SettingsContract
from clew.testing.contracts.ledger_sides import SideContract
from clew.testing.contracts.ledger_summaries import SummaryContract
from clew.testing.contracts.ledger_turns import (
    ApprovalContract,
    CallContract,
    InboxContract,
    OutboxContract,
    TurnContract,
)

__all__ = ["LedgerContract", "Reopen"]


class LedgerContract(
    OpeningContract,
    AppendContract,
    MovingContract,
    ForkContract,
    SettingsContract,
    ListContract,
    PlaceContract,
    SideContract,
    SummaryContract,
    FenceContract,
    KeyContract,
    LeaseContract,
    TurnContract,
    CallContract,
    ApprovalContract,
    InboxContract,
    OutboxContract,
    DeliveryContract,
    PairingContract,
    LinkingContract,
    JobContract,
    FactContract,
    RecoveryContract,
    SpendingContract,
    SearchContract,
    IsolationContract,
    PurgeContract,
):
    """Every promise of the port, one sentence a test."""
