"""A cycle that was acknowledged survives a power cut, whatever the disk did with what was not synced."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from memrl_ctrl.testing.traces import endless_cycles, sample_header, sample_outcome
from memrl_ctrl.trace import JournalWriter, Signer, TraceReader, recover, verify
from memrl_ctrl.trace.codec import encode

CUTS, CUTS_IN_ALL = 60, 2000
CYCLES = 40
SECTOR_BYTES, PAGE_BYTES = 512, 4096
POINTS, SLICES = 3, 64


@dataclass
class Disk:
    """What a journal asked of the disk, in order: it notes, and lets everything through."""

    data: bytearray = field(default_factory=bytearray)
    durable: int = 0
    moments: list[tuple[int, int, int]] = field(default_factory=list)
    """After each call: bytes written, bytes of them that are durable, cycles acknowledged."""
    acknowledged: int = 0

    def note(self) -> None:
        """Remember this moment."""
        self.moments.append((len(self.data), self.durable, self.acknowledged))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """A run, with every write and every sync that it made."""
    disk, path = Disk(), tmp_path_factory.mktemp("power") / "trace.journal"
    writev, sync = os.writev, os.fdatasync
    patch = pytest.MonkeyPatch()

    def noted_write(file: int, parts: list[bytes]) -> int:
        written = writev(file, parts)
        disk.data += b"".join(parts)[:written]
        disk.note()
        return written

    def noted_sync(file: int) -> None:
        sync(file)
        disk.durable = len(disk.data)
        disk.note()

    header = sample_header(points=POINTS, n_slices=SLICES)
    with patch.context() as context:
        context.setattr(os, "writev", noted_write)
        context.setattr(os, "fdatasync", noted_sync)
        journal = JournalWriter(path, header, Signer(bytes(range(32))))
        for record, _ in zip(endless_cycles(header), range(CYCLES), strict=False):
            journal.append(record)
            disk.acknowledged += 1
            disk.note()
            outcome = sample_outcome(record)
            if outcome is not None:
                journal.append(outcome, durable=False)
        journal.close("end")
    assert bytes(disk.data) == path.read_bytes()
    return disk


def left_on_the_disk(disk: Disk, moment: tuple[int, int, int], generator: random.Random) -> bytes:
    """Return what a power cut leaves: what is durable, and anything of what is not."""
    written, durable, _ = moment
    rest = bytearray(disk.data[durable:written])
    # Pages reach the disk in any order, or never: then the file has zeros, or another file's old bytes.
    for start in range(-durable % PAGE_BYTES - PAGE_BYTES, len(rest), PAGE_BYTES):
        fate = generator.choice(["kept", "zeros", "old", "kept"])
        page = slice(max(start, 0), min(start + PAGE_BYTES, len(rest)))
        size = max(page.stop - page.start, 0)
        if fate == "zeros":
            rest[page] = bytes(size)
        elif fate == "old":
            rest[page] = generator.randbytes(size)
    # The length is another piece of metadata: it may be that of any moment since the last sync.
    rest = rest[: generator.randint(0, len(rest))]
    if len(rest) >= SECTOR_BYTES and generator.random() < 0.5:  # the last sector is torn
        torn = generator.randint(1, SECTOR_BYTES)
        rest[-torn:] = generator.randbytes(torn)
    return bytes(disk.data[:durable] + rest)


def check_a_cut(disk: Disk, folder: Path, generator: random.Random) -> int:
    """Every acknowledged cycle is there, to the bit; verify and recover agree; return what was lost."""
    header_done = next(m for m in disk.moments if m[1])
    moment = generator.choice([m for m in disk.moments if m[1] >= header_done[1]])
    journal = folder / "trace.journal"
    journal.write_bytes(left := left_on_the_disk(disk, moment, generator))
    (folder / "trace.h5").unlink(missing_ok=True)  # of the cut before, with other cycles
    report = verify(journal)
    recovery = recover(folder)
    assert (recovery.report.cycles, recovery.report.damage) == (report.cycles, report.damage)
    found = verify(recovery.hdf5)
    assert (found.cycles, found.damage) == (report.cycles, report.damage)
    acknowledged = moment[2]
    assert report.cycles >= acknowledged
    if left != disk.data[: len(left)]:
        assert report.damage
        # Nothing durable is ever called damaged: the first damage is behind the last sync.
        assert all(
            place.offset is not None and place.offset >= moment[1] for place in report.damage
        )
    header = sample_header(points=POINTS, n_slices=SLICES)
    with TraceReader(recovery.hdf5) as trace:
        assert trace.cycles[:acknowledged].tolist() == list(range(acknowledged))
        for index, expected in zip(range(acknowledged), endless_cycles(header), strict=False):
            assert encode(trace.record(index)) == encode(expected)
    return report.lost_bytes


def test_no_acknowledged_cycle_is_lost_by_a_power_cut(disk: Disk, tmp_path: Path) -> None:
    """Cut at random moments, un-synced pages dropped or old, the last sector torn: none is lost."""
    generator = random.Random(7)
    lost = [check_a_cut(disk, tmp_path, generator) for _ in range(CUTS)]
    assert any(lost)  # the cuts did tear something
    assert not all(lost)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_none_is_lost_in_two_thousand_cuts(disk: Disk, tmp_path: Path) -> None:
    """The same, two thousand times."""
    generator = random.Random(2000)
    for _ in range(CUTS_IN_ALL):
        check_a_cut(disk, tmp_path, generator)
