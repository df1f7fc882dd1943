"""What was found in a trace: how much is there, what is lost and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from memrl_ctrl.trace.codec import Record
from memrl_ctrl.trace.records import CycleRecord, EndRecord, SignatureRecord
from memrl_ctrl.trace.signing import is_valid

MOST_PLACES = 10
"""So many places of damage are told one by one."""


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """One place of a trace that cannot be trusted. What is before and after it is kept."""

    kind: Literal["torn", "damaged", "altered", "missing", "memory"]
    """`torn`: the file ends within a record; `damaged`: bytes that are no record; `altered`: a
    record that its successor's hash does not confirm; `missing`: records that are not there; `memory`:
    a cycle that is kept, without the memory that went into its policy."""
    offset: int | None
    """Where it begins in the journal, bytes; None in an HDF5 file, whose records lie in columns."""
    size: int
    """Bytes that are lost."""
    sequence: int
    """Sequence number of the first record that is lost; -1 where it is none in particular."""
    after_cycle: int | None
    """Last whole cycle before it; None where there is none."""
    text: str
    """What is wrong, in words."""

    @classmethod
    def of_file(cls, text: str) -> Damage:
        """Return what is altered in an HDF5 file, and is in no record in particular."""
        return cls(kind="altered", offset=None, size=0, sequence=-1, after_cycle=None, text=text)

    @property
    def end(self) -> int | None:
        """Where it ends in the journal, bytes."""
        return None if self.offset is None else self.offset + self.size

    def sentence(self) -> str:
        """Return it in words, with its place."""
        if self.sequence < 0:
            return f"{self.kind}: {self.text}"
        where = "before the first cycle" if self.after_cycle is None else f"{self.after_cycle}"
        after = where if self.after_cycle is None else f"after cycle {where}"
        place = f"at byte {self.offset} (record {self.sequence}, {after})"
        if self.offset is None:
            place = f"at record {self.sequence} ({after})"
        lost = f"; {self.size} bytes lost" if self.size else ""
        return f"{self.kind} {place}: {self.text}{lost}"


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """The other file of a run's folder, held against the one that was checked."""

    name: str
    """Its name."""
    text: str
    """What it is to the one that was checked, in words that follow its name."""
    fault: bool
    """Whether anything is wrong with that."""

    def sentence(self) -> str:
        """Return it in words."""
        return f"{self.name} beside it {self.text}"


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What signatures cover."""

    cycles: Mapping[str, int]
    """Cycles under a valid signature, by public key (hexadecimal)."""
    unsigned: int
    """Cycles under none: no signature follows them, or what is between is lost."""

    def sentences(self) -> list[str]:
        """Return it in words, a line for each key; none where nothing is signed."""
        lines = [f"{count} cycles signed by {key}" for key, count in self.cycles.items()]
        if lines and self.unsigned:
            lines.append(f"{self.unsigned} cycles not signed")
        return lines


class Coverage:
    """Follows records, and says which cycles a valid signature covers.

    A signature covers the records before it as far as the chain of hashes goes back whole.

    Args:
        run_id: identity of the run.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._next = 0
        self._last_cycle: int | None = None
        self._waiting = 0
        self._unsigned = 0
        self._cycles: dict[str, int] = {}
        self.false: list[Damage] = []
        """Signatures that are not valid."""

    def add(
        self,
        sequence: int,
        record: Record,
        previous: bytes,
        *,
        whole: bool = True,
        offset: int | None = None,
    ) -> None:
        """Take the next record whose hash its successor confirms, if it has one.

        Args:
            sequence: of the record.
            record: what it holds.
            previous: hash of the record before it, as it has it.
            whole: whether its own hash can be known.
            offset: where it stands in the journal; None in an HDF5 file.
        """
        if sequence != self._next:
            self._unsigned, self._waiting = self._unsigned + self._waiting, 0
        self._next = sequence + 1 if whole else -1
        if isinstance(record, CycleRecord):
            self._waiting += 1
            self._last_cycle = record.cycle
        elif isinstance(record, SignatureRecord):
            if is_valid(record, self._run_id, sequence, previous):
                key = record.public_key.hex()
                self._cycles[key] = self._cycles.get(key, 0) + self._waiting
                self._waiting = 0
            else:
                self.false.append(
                    Damage(
                        kind="altered",
                        offset=offset,
                        size=0,
                        sequence=sequence,
                        after_cycle=self._last_cycle,
                        text="a signature that is not valid for what stands before it",
                    )
                )

    def broken(self) -> None:
        """Note that what came until now is not what was signed, or cannot be known to be."""
        self._next = -1

    def signed(self) -> Signed:
        """Return what is covered; after the last record."""
        return Signed(cycles=dict(self._cycles), unsigned=self._unsigned + self._waiting)


@dataclass(frozen=True, kw_only=True)
class TraceReport:
    """The state of a trace."""

    path: Path
    cycles: int
    """Whole cycles."""
    first_cycle: int | None
    """Number of the first of them."""
    last_cycle: int | None
    """Number of the last of them."""
    end: EndRecord | None
    """How the run ended; None where it was interrupted or still goes on."""
    live: bool
    """Whether a run is writing to it now."""
    size_bytes: int
    """Length of the journal."""
    damage: tuple[Damage, ...] = ()
    """What is lost."""
    signed: Signed | None = None
    """What signatures cover; None where they have not been checked."""
    beside: Beside | None = None
    """The other file of the run; None where there is none, or where only one was asked for."""

    @property
    def whole(self) -> bool:
        """Whether nothing of it is lost, whatever stands beside it."""
        return not self.damage

    @property
    def lost_bytes(self) -> int:
        """Bytes that belong to no whole record."""
        return sum(place.size for place in self.damage)

    def extent(self) -> str:
        """Return how much is lost, in words; empty where nothing is."""
        kinds = Counter(place.kind for place in self.damage if place.kind != "altered")
        recorded = 0 if self.end is None else self.end.cycles
        fewer = recorded - self.cycles
        altered = sum(place.kind == "altered" and not place.size for place in self.damage)
        parts = (
            (self.lost_bytes, f"{self.lost_bytes} bytes are lost"),
            (fewer > 0, f"{fewer} of {recorded} cycles {'is' if fewer == 1 else 'are'} missing"),
            (kinds["missing"], f"records are missing in {_places(kinds['missing'])}"),
            (kinds["memory"], f"the policy's memory is missing in {_cycles(kinds['memory'])}"),
            (altered, f"{_places(altered)} of the file {'is' if altered == 1 else 'are'} altered"),
        )
        return ", ".join(text for there, text in parts if there)

    def loss(self) -> str:
        """Return in one sentence that something is lost; empty where nothing is."""
        if self.whole:
            return ""
        return (
            f"not whole: {self.extent()}; {self.cycles} cycles are there "
            "(`memrl-ctrl trace verify` says where)"
        )

    def sentences(self) -> list[str]:
        """Return the report in words, a line each."""
        if self.cycles:
            range_ = f"{self.cycles} cycles, {self.first_cycle} to {self.last_cycle}"
        else:
            range_ = "no cycles"
        if self.end is not None:
            because = f" ({self.end.reason})" if self.end.reason else ""
            state = f"the run ended by itself at {self.end.ended_utc}{because}"
        elif self.live:
            state = "a run is writing to it"
        else:
            state = "the run was interrupted"
        lines = [f"{range_}; {state}"]
        lines += [place.sentence() for place in self.damage[:MOST_PLACES]]
        if len(self.damage) > MOST_PLACES:
            more = self.damage[MOST_PLACES:]
            lines.append(f"and {len(more)} more places, the last {more[-1].sentence()}")
        lines += self.signed.sentences() if self.signed is not None else []
        lines += [self.beside.sentence()] if self.beside is not None else []
        if not self.whole:
            lines.append(self.extent())
        elif self.signed is None:
            lines.append("nothing was lost when it was made; `memrl-ctrl trace verify` checks it")
        elif self.beside is not None and self.beside.fault:
            lines.append(f"nothing of {self.path.name} is lost")
        else:
            lines.append("nothing is lost")
        return lines


def _places(count: int) -> str:
    return "1 place" if count == 1 else f"{count} places"


def _cycles(count: int) -> str:
    return "1 cycle" if count == 1 else f"{count} cycles"
