"""What was found in a trace: how much is there, what is lost and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from memrl_ctrl.trace.records import EndRecord


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """One place of a trace that cannot be trusted. What is before and after it is kept."""

    kind: Literal["torn", "damaged", "altered", "missing"]
    """`torn`: the file ends within a record; `damaged`: bytes that are no record; `altered`: a
    record that its successor's hash does not confirm; `missing`: records that are not there."""
    offset: int
    """Where it begins in the file, bytes (in an HDF5 file: number of the journal record)."""
    size: int
    """Bytes that are lost."""
    sequence: int
    """Sequence number of the first record that is lost."""
    after_cycle: int | None
    """Last whole cycle before it; None where there is none."""
    text: str
    """What is wrong, in words."""

    def sentence(self) -> str:
        """Return it in words, with its place."""
        where = "before the first cycle" if self.after_cycle is None else f"{self.after_cycle}"
        after = where if self.after_cycle is None else f"after cycle {where}"
        return (
            f"{self.kind} at byte {self.offset} (record {self.sequence}, {after}): "
            f"{self.text}; {self.size} bytes lost"
        )


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

    @property
    def whole(self) -> bool:
        """Whether nothing is lost."""
        return not self.damage

    @property
    def lost_bytes(self) -> int:
        """Bytes that belong to no whole record."""
        return sum(place.size for place in self.damage)

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
        lines += [place.sentence() for place in self.damage]
        lines.append("nothing is lost" if self.whole else f"{self.lost_bytes} bytes are lost")
        return lines
