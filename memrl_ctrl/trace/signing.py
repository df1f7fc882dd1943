"""Signatures over a trace's chain of hashes, with the Ed25519 key of the installation (RFC 8032).

A signature record stands in the journal like any other. It signs the hash of the record before it, and
with it, by the chain, every record before that one. The key is made by `memrl-ctrl trace key --make`;
from then on every run of this user on this computer signs what it records.
"""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.state import state_folder
from memrl_ctrl.trace.records import SignatureRecord

CONTEXT = b"memrl-ctrl trace signature\0"
SECRET_MODE, FOLDER_MODE = 0o600, 0o700
KEY_BYTES = 32
"""Length of a secret and of a public Ed25519 key (RFC 8032, 5.1)."""


def key_path() -> Path:
    """Return where this installation's secret key lies, or would lie."""
    return state_folder() / "signing" / "trace.key"


class Signer:
    """Signs with a secret key.

    Args:
        secret: the key, 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()
        """The public key, 32 bytes."""

    def sign(self, run_id: str, sequence: int, previous: bytes) -> SignatureRecord:
        """Return the signature record that stands at a place of a journal.

        Args:
            run_id: identity of the run.
            sequence: of the signature record.
            previous: hash of the record before it.
        """
        signature = self._key.sign(_signed(run_id, sequence, previous))
        return SignatureRecord(public_key=self.public, signature=signature)


def is_valid(record: SignatureRecord, run_id: str, sequence: int, previous: bytes) -> bool:
    """Whether a signature is that of its key for its place in its journal."""
    try:
        key = Ed25519PublicKey.from_public_bytes(record.public_key)
        key.verify(record.signature, _signed(run_id, sequence, previous))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed(run_id: str, sequence: int, previous: bytes) -> bytes:
    return CONTEXT + run_id.encode() + struct.pack("<Q", sequence) + previous


def installed_signer(path: Path | None = None) -> Signer | None:
    """Return the signer of this installation; None where no key was made.

    Args:
        path: the secret key's file; None is that of the installation.

    Raises:
        FileError: the key cannot be read, is none, or can be read by others.
    """
    path = path or key_path()
    try:
        mode = path.stat().st_mode & 0o777
        secret = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileError(path, f"the signing key cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise FileError(
            path, f"the signing key can be read by others (mode {mode:o}): `chmod 600 {path}`"
        )
    if len(secret) != KEY_BYTES:
        raise FileError(path, f"is no signing key: {len(secret)} bytes, a key has {KEY_BYTES}")
    return Signer(secret)


def make_key(path: Path | None = None) -> Signer:
    """Make this installation's key, unless there is one, and return its signer.

    Args:
        path: the secret key's file; None is that of the installation.

    Raises:
        FileError: it cannot be written.
    """
    path = path or key_path()
    try:
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        file, made = tempfile.mkstemp(prefix=".key-", dir=path.parent)  # 0600
        try:
            with os.fdopen(file, "wb") as whole:
                whole.write(Ed25519PrivateKey.generate().private_bytes_raw())
                whole.flush()
                os.fsync(whole.fileno())
            os.link(made, path)  # whole or not at all, and never over another key
        except FileExistsError:
            pass
        finally:
            Path(made).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(path, f"the signing key cannot be written: {error.strerror}") from error
    signer = installed_signer(path)
    if signer is None:
        raise FileError(path, "vanished while it was made")
    return signer


def public_key(text: str) -> bytes:
    """Return a public key that was given as 64 hexadecimal digits, or as a file that holds them.

    Raises:
        UsageError: it is neither.
    """
    given = text.strip()
    path = Path(given)
    if path.is_file():
        try:
            given = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} holds no public key of 64 hexadecimal digits") from error
    try:
        key = bytes.fromhex(given)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(
            f"{text!r} is no public key: 64 hexadecimal digits, or a file with them, as "
            "`memrl-ctrl trace key` prints"
        )
    return key
