"""What an applicant owes already, and which documents are lent against: read and written with the decision itself.

Two decisions that were both taken on the same standing cannot both be written: each takes the next number of the
applicant, and of the document. The second one's transaction fails on it, is done again, and sees the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, Literal, cast

import sqlalchemy as sa

from coordinator.database.schema import FacilityRow, FinancedEvidenceRow, PolicyArchiveRow
from coordinator.database.transaction import Transaction

Watch = Literal["active", "warned", "frozen"]


@dataclass(frozen=True, kw_only=True)
class FacilityRecord:
    """Money that may go out under an approved decision, or is out.

    Attributes:
        number: 1, 2, ... within the tenant's applicant.
        granted: The limit.
        is_open: Whether it counts against what the applicant may owe.
    """

    decision_id: str
    tenant: str
    applicant: str
    number: int
    industry: str
    currency: str
    granted: Decimal
    disbursed: Decimal = Decimal(0)
    repaid: Decimal = Decimal(0)
    watch: Watch = "active"
    is_open: bool = True

    @property
    def outstanding(self) -> Decimal:
        """What counts as owed: a limit counts as drawn, less what was paid back."""
        return self.granted - self.repaid if self.is_open else Decimal(0)


@dataclass(frozen=True)
class Claim:
    """A document that is lent against.

    Attributes:
        fingerprint: Keyed hash of it.
        number: How many times it is.
        own: Whether the asking tenant is among those who lend against it.
    """

    fingerprint: bytes
    number: int
    own: bool


@dataclass(frozen=True)
class Standing:
    """What a decision must take into account.

    Attributes:
        number: Of the applicant's last facility; 0 for none.
        owed: Currency and what is outstanding in it, sorted by currency.
        claims: Of the documents asked about, those that are lent against; sorted by fingerprint.
    """

    number: int = 0
    owed: tuple[tuple[str, Decimal], ...] = ()
    claims: tuple[Claim, ...] = ()

    def claim(self, fingerprint: bytes) -> Claim | None:
        """The document's claim, if it is lent against."""
        return next((one for one in self.claims if one.fingerprint == fingerprint), None)


NOTHING: Final = Standing()

_FACILITIES: Final = sa.select(cast("sa.Table", FacilityRow.__table__))
_MINE: Final = (FacilityRow.tenant_id == sa.bindparam("tenant"), FacilityRow.applicant == sa.bindparam("applicant"))
_LAST: Final = sa.select(sa.func.max(FacilityRow.number)).where(*_MINE).scalar_subquery()


def _standing(which: sa.ColumnElement[bool]) -> sa.CompoundSelect[Any]:
    """Both questions in one statement: every decision asks it."""
    owed = sa.select(
        FacilityRow.number,
        FacilityRow.currency,
        FacilityRow.granted,
        FacilityRow.repaid,
        FacilityRow.is_open,
        sa.cast(sa.null(), FinancedEvidenceRow.fingerprint.type).label("fingerprint"),
        sa.cast(sa.null(), FinancedEvidenceRow.tenant_id.type).label("claimant"),
    ).where(*_MINE, FacilityRow.is_open | (FacilityRow.number == _LAST))
    claimed = sa.select(
        FinancedEvidenceRow.number,
        *(
            sa.cast(sa.null(), column.type)
            for column in (FacilityRow.currency, FacilityRow.granted, FacilityRow.repaid, FacilityRow.is_open)
        ),
        FinancedEvidenceRow.fingerprint,
        FinancedEvidenceRow.tenant_id,
    ).where(which)
    return sa.union_all(owed, claimed)


# A list of any length costs as much again as the statement; most decisions are about one document.
_WITH_ONE: Final = _standing(FinancedEvidenceRow.fingerprint == sa.bindparam("fingerprint"))
_WITH_MANY: Final = _standing(FinancedEvidenceRow.fingerprint.in_(sa.bindparam("fingerprints", expanding=True)))
_FACILITY: Final = _FACILITIES.where(
    FacilityRow.decision_id == sa.bindparam("decision"), FacilityRow.tenant_id == sa.bindparam("tenant")
)


class StandingWrites:
    """The part of a unit of work that lends, over its `Transaction`."""

    _transaction: Transaction

    def standing(
        self, tenant: str, applicant: str, fingerprints: Sequence[bytes] = (), *, crowded: bool = True
    ) -> Standing:
        """What the applicant owes, and which of these documents are lent against.

        Args:
            tenant: Who asks.
            applicant: About whom.
            fingerprints: Of documents.
            crowded: Whether work that shares this transaction may be about the same applicant or document: then what
                it wrote is sent first. Without it such work is found out by its number, and done again.
        """
        if len(fingerprints) == 1:
            rows = self._rows(_WITH_ONE, crowded, tenant=tenant, applicant=applicant, fingerprint=fingerprints[0])
        else:
            some = list(fingerprints)
            rows = self._rows(_WITH_MANY, crowded, tenant=tenant, applicant=applicant, fingerprints=some)
        owed: dict[str, Decimal] = {}
        claims: dict[bytes, Claim] = {}
        last = 0
        for row in rows:
            values: tuple[Any, ...] = tuple(row.values())
            number, currency, granted, repaid, is_open, fingerprint, claimant = values
            if fingerprint is None:
                last = max(last, number)
                if is_open:
                    owed[currency] = owed.get(currency, Decimal(0)) + granted - repaid
            else:
                known = claims.get(fingerprint, Claim(fingerprint, 0, own=False))
                own = known.own or claimant == tenant
                claims[fingerprint] = Claim(fingerprint, max(known.number, number), own)
        return Standing(last, tuple(sorted(owed.items())), tuple(claims[one] for one in sorted(claims)))

    def lend(self, facility: FacilityRecord, fingerprints: Iterable[bytes], standing: Standing) -> None:
        """Open a facility, and claim the documents that it is lent against.

        Args:
            facility: Its number is the standing's next one.
            fingerprints: Of the documents.
            standing: What was decided on.
        """
        row = {**vars(facility), "tenant_id": facility.tenant}
        del row["tenant"]
        self._transaction.insert(FacilityRow, **row)
        for fingerprint in fingerprints:
            known = standing.claim(fingerprint)
            self._transaction.insert(
                FinancedEvidenceRow,
                fingerprint=fingerprint,
                number=1 if known is None else known.number + 1,
                tenant_id=facility.tenant,
                decision_id=facility.decision_id,
            )

    def facility(self, tenant: str, decision_id: str) -> FacilityRecord | None:
        """The decision's facility within this transaction, or None where there is none."""
        rows = self._rows(_FACILITY, True, decision=decision_id, tenant=tenant)
        return facility_of(rows[0]) if rows else None

    def change_facility(
        self,
        facility: FacilityRecord,
        *,
        disbursed: Decimal | None = None,
        repaid: Decimal | None = None,
        watch: Watch | None = None,
        is_open: bool | None = None,
    ) -> FacilityRecord:
        """Write what a transition did to a facility; the transition itself is `move`."""
        given = {"disbursed": disbursed, "repaid": repaid, "watch": watch, "is_open": is_open}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self._transaction.execute(
            sa.update(FacilityRow).where(FacilityRow.decision_id == facility.decision_id).values(**changes)
        )
        return replace(facility, **changes)

    def _rows(self, statement: sa.Executable, crowded: bool, **values: Any) -> Sequence[sa.RowMapping]:
        if crowded:
            return self._transaction.execute(statement, **values).mappings().all()
        return self._transaction.look_up_all(statement, **values)


def facility_of(row: sa.RowMapping) -> FacilityRecord:
    """A facility from its row."""
    values = dict(row)
    return FacilityRecord(tenant=values.pop("tenant_id"), **values)


FACILITIES: Final = _FACILITIES
ARCHIVE: Final = sa.select(PolicyArchiveRow.content).where(PolicyArchiveRow.sha256 == sa.bindparam("sha256"))
