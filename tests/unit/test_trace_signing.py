"""Signatures say who recorded a trace, and how far it is what was recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.testing.traces import sample_cycle, sample_header, write_sample_journal
from memrl_ctrl.trace import CycleRecord, JournalWriter, Signer, read_journal, recover, verify
from memrl_ctrl.trace.codec import Kind, encode
from memrl_ctrl.trace.journal import SIGN_EVERY_CYCLES, record_head
from memrl_ctrl.trace.report import Signed
from memrl_ctrl.trace.signing import installed_signer, key_path, make_key, public_key

SIGNER = Signer(bytes(range(32)))
KEY = SIGNER.public.hex()


def signed(path: Path) -> Signed:
    """What signatures cover in a trace."""
    found = verify(path).signed
    assert found is not None
    return found


def test_a_signed_run_is_covered_to_its_end(tmp_path: Path) -> None:
    """Every cycle of a run that ended is under its key's signature, in journal and HDF5."""
    write_sample_journal(tmp_path / "trace.journal", 6, signer=SIGNER)
    assert signed(tmp_path) == Signed(cycles={KEY: 6}, unsigned=0)
    assert signed(recover(tmp_path).hdf5) == Signed(cycles={KEY: 6}, unsigned=0)
    assert f"6 cycles signed by {KEY}" in verify(tmp_path).sentences()


def test_an_interrupted_run_is_covered_up_to_its_last_signature(tmp_path: Path) -> None:
    """A run signs now and then: what a kill leaves unsigned is at most what came since."""
    header = sample_header(points=1, n_slices=8)
    path = tmp_path / "trace.journal"
    journal = JournalWriter(path, header, SIGNER)
    for cycle in range(SIGN_EVERY_CYCLES + 7):
        journal.append(sample_cycle(header, cycle), durable=False)
    data = path.read_bytes()
    journal.close()
    path.write_bytes(data)
    assert signed(path) == Signed(cycles={KEY: SIGN_EVERY_CYCLES}, unsigned=7)
    assert "7 cycles not signed" in verify(path).sentences()


def test_a_lost_record_ends_what_a_later_signature_covers(tmp_path: Path) -> None:
    """Cycles before a damaged place have no signature that the chain leads to."""
    path = tmp_path / "trace.journal"
    write_sample_journal(path, 6, signer=SIGNER)
    with read_journal(path) as reader:
        third = [e for e in reader.entries() if isinstance(e.record, CycleRecord)][2]
    data = bytearray(path.read_bytes())
    data[third.offset + 100] ^= 1
    path.write_bytes(data)
    assert signed(path) == Signed(cycles={KEY: 3}, unsigned=2)
    assert signed(recover(tmp_path).hdf5) == Signed(cycles={KEY: 3}, unsigned=2)


def test_a_chain_forged_throughout_is_not_signed(tmp_path: Path) -> None:
    """Who alters a cycle and makes all later hashes anew cannot make the signatures anew."""
    path = tmp_path / "trace.journal"
    write_sample_journal(path, 3, signer=SIGNER)
    with read_journal(path) as reader:
        entries = list(reader.entries())
    forged, previous = b"", bytes(32)
    import hashlib

    for entry in entries:
        record = entry.record
        if isinstance(record, CycleRecord) and record.cycle == 101:
            record = dataclasses.replace(record, proposed_rad=record.proposed_rad + 1.0)
        payload = encode(record)
        kind = Kind(int.from_bytes(entry.head[10:12], "little"))
        head = record_head(kind, payload, entry.sequence, previous)
        previous = hashlib.sha256(head + payload).digest()
        forged += head + payload
    path.write_bytes(forged)
    report = verify(path)
    assert report.cycles == 3
    assert not report.whole
    assert "a signature that is not valid" in report.damage[-1].text
    assert signed(path) == Signed(cycles={KEY: 0}, unsigned=3)


def test_the_key_of_the_installation_is_made_once_and_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key lies in the state folder, readable by its owner only, and is never replaced."""
    monkeypatch.setenv("MEMRL_CTRL_STATE", str(tmp_path / "state"))
    assert installed_signer() is None
    made = make_key()
    assert key_path().stat().st_mode & 0o777 == 0o600
    assert key_path().parent.stat().st_mode & 0o777 == 0o700
    assert make_key().public == made.public
    found = installed_signer()
    assert found is not None
    assert found.public == made.public
    assert [path.name for path in key_path().parent.iterdir()] == ["trace.key"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A key with open permissions, or of another length, is refused with what to do."""
    key = tmp_path / "trace.key"
    make_key(key)
    key.chmod(0o644)
    with pytest.raises(FileError, match=r"can be read by others .mode 644.: `chmod 600"):
        installed_signer(key)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(FileError, match="is no signing key: 5 bytes, a key has 32"):
        installed_signer(key)


def test_a_public_key_is_read_from_text_and_file(tmp_path: Path) -> None:
    """64 hexadecimal digits, or a file that holds them; everything else is told."""
    (tmp_path / "key.pub").write_text(KEY + "\n")
    assert public_key(KEY) == public_key(str(tmp_path / "key.pub")) == SIGNER.public
    for text in ("none", KEY[:-2], KEY + "00"):
        with pytest.raises(UsageError, match="is no public key: 64 hexadecimal digits"):
            public_key(text)
