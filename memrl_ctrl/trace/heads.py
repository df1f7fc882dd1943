"""Holding an HDF5 file against the heads that its records had in the journal."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from typing import Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace.codec import FileRecord, Kind, Record, encode
from memrl_ctrl.trace.journal import CHECKED_FROM, HEAD
from memrl_ctrl.trace.reader import TraceReader
from memrl_ctrl.trace.report import Coverage, Damage
from memrl_ctrl.trace.scan import Progress

STATE = "outcomes/state"


def check_heads(trace: TraceReader, progress: Progress | None = None) -> HeadCheck:
    """Hold all records of an HDF5 file against what the journal's heads say."""
    heads = trace.heads()
    check = HeadCheck(trace)
    for index, head in enumerate(heads):
        check.add(head)
        if progress is not None:
            progress(index + 1, len(heads))
    check.finish()
    return check


class HeadCheck:
    """Holds the records of an HDF5 file against the heads that they had in the journal."""

    def __init__(self, trace: TraceReader) -> None:
        self._trace = trace
        self._index = -1
        self._files = iter(trace.header.files.items())
        self._signatures = iter(trace.signatures())
        self.coverage = Coverage(trace.header.run_id)
        self._confirmed: tuple[int, bytes] | None = None
        self._incomplete = {d.sequence for d in trace.damage if d.kind == "memory"}
        self._lost = sorted(
            d.sequence for d in trace.damage if d.kind != "memory" and d.sequence >= 0
        )
        self._expected = 0
        self._heads: Counter[int] = Counter()
        self.damage: list[Damage] = []

    def add(self, row: NDArray[np.uint8]) -> None:
        """Check the next record."""
        head = row.tobytes()
        _, crc, _, kind, length, sequence, previous = HEAD.unpack(head)
        self._check_sequence(sequence)
        self._heads[kind] += 1
        before = self._confirmed
        if before is not None and before[0] + 1 == sequence and before[1] != previous:
            self._note(before[0], "its content is not what the next record confirms")
            self.coverage.broken()
        self._confirmed = None
        try:
            record = self._record(Kind(kind))
            payload = encode(record)
        except (TraceError, ValueError, StopIteration, IndexError) as error:
            why = getattr(error, "problem", error)
            self._note(sequence, f"the record cannot be made again: {why}", length)
            return
        found = int(google_crc32c.extend(google_crc32c.value(head[CHECKED_FROM:]), payload))
        if len(payload) != length or found != crc:
            self._note(sequence, "its content differs from what the journal had", length)
            return
        whole = sequence not in self._incomplete
        self.coverage.add(sequence, record, previous, whole=whole)
        if not whole:
            return  # its hash is that of the whole record
        digest = hashlib.sha256(head)
        digest.update(payload)
        self._confirmed = (sequence, digest.digest())

    def finish(self) -> None:
        """Check that there is nothing which the journal did not have, and nothing without a head."""
        trace, end = self._trace, self._trace.report.end
        for kind, name, there in (
            (Kind.FILE, "files", len(trace.header.files)),
            (Kind.CYCLE, "cycles", len(trace)),
            (Kind.OUTCOME, "outcomes", self._outcomes()),
            (Kind.END, "ends of the run", int(end is not None)),
            (Kind.SIGNATURE, "signatures", len(trace.signatures())),
        ):
            if there > self._heads[kind]:
                self._note(
                    -1, f"{there - self._heads[kind]} {name} more than it has heads of records"
                )
        if end is not None and end.cycles > len(trace) and not self._lost:
            self._note(-1, f"the run recorded {end.cycles} cycles, and {len(trace)} are there")

    def _outcomes(self) -> int:
        """Return how many outcomes there are; a column that cannot be read is noted."""
        if STATE not in self._trace.names:
            return 0
        try:
            return int(np.count_nonzero(self._trace.array(STATE) >= 0))
        except TraceError as error:
            self._note(-1, error.problem)
            return 0

    def _check_sequence(self, sequence: int) -> None:
        """Check that the records follow each other, but for those that are said to be lost."""
        expected, self._expected = self._expected, max(self._expected, sequence + 1)
        if sequence < expected:
            self._note(sequence, f"record {sequence} stands after record {expected - 1}")
            return
        at = bisect_left(self._lost, expected)
        told = at < len(self._lost) and self._lost[at] < sequence
        if sequence > expected and not told:
            text = f"record {sequence} follows, {expected} was expected, and nothing says why"
            self._note(expected, text, kind="missing")

    def _record(self, kind: Kind) -> Record:
        match kind:
            case Kind.HEADER:
                return self._trace.header
            case Kind.FILE:
                name, data = next(self._files)
                return FileRecord(name=name, data=data)
            case Kind.CYCLE:
                self._index += 1
                return self._trace.record(self._index)
            case Kind.OUTCOME:
                outcome = self._trace.outcome(self._index)
                if outcome is None:
                    raise ValueError("the outcome is missing")
                return outcome
            case Kind.END:
                end = self._trace.report.end
                if end is None:
                    raise ValueError("the end is missing")
                return end
            case Kind.SIGNATURE:
                return next(self._signatures)

    def _note(
        self,
        sequence: int,
        text: str,
        size: int = 0,
        kind: Literal["altered", "missing"] = "altered",
    ) -> None:
        cycles = self._trace.cycles
        # A record that is altered has been taken already, one that is missing has not.
        last = self._index - (kind == "altered" and sequence >= 0)
        after = int(cycles[last]) if 0 <= last < cycles.size else None
        self.damage.append(
            Damage(
                kind=kind,
                offset=None,
                size=size,
                sequence=sequence,
                after_cycle=after,
                text=text,
            )
        )
