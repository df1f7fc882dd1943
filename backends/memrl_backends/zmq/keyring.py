"""Who may come in, while the server runs and from the command line."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from memrl_backends.zmq.endpoint import Endpoint
from memrl_backends.zmq.keys import (
    FOLDER_MODE,
    KeyFile,
    Peer,
    ServerKeys,
    authorized_keys,
    check_own,
    load_server,
    local_folder,
    make_folder,
    peer_of,
    read_authorized,
    read_key,
    write_key,
    write_pair,
)
from memrl_backends.zmq.wire import Role
from memrl_ctrl.errors import FileError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = "server"


class KeyRing:
    """The keys that may come in, read again when their folder changes.

    A file that cannot be trusted lets nobody in, and neither does a folder that others may write to.

    Args:
        keys: as they were when the server started.
        note: called with a sentence about what is wrong.
    """

    def __init__(self, keys: ServerKeys, note: Callable[[str], None] | None = None) -> None:
        self.public, self.secret = keys.public, keys.secret
        self._folder = keys.folder / "authorized"
        self._peers = dict(keys.authorized)
        self._note = note or (lambda _: None)
        self._seen = self._signature()
        self._said: set[str] = set()

    def find(self, public: str) -> Peer | None:
        """Return whose key it is (z85), or None."""
        return self._peers.get(public)

    def refresh(self) -> list[Peer]:
        """Look whether the folder has changed; return those who may not come in any more as they were."""
        seen = self._signature()
        if seen is None or seen == self._seen:
            return []
        self._seen = seen
        before, self._peers = self._peers, self._read()
        return [peer for key, peer in before.items() if self._peers.get(key) != peer]

    def _signature(self) -> tuple[object, ...] | None:
        """Return what changes with every change of the folder; None where it cannot be looked at now."""
        with suppress(OSError):
            if not self._folder.exists():
                return ()
            entries = [os.stat(self._folder)]
            names = []
            with os.scandir(self._folder) as found:
                for entry in found:
                    names.append(entry.name)
                    entries.append(entry.stat())
            return (
                *sorted(names),
                *((s.st_ino, s.st_mtime_ns, s.st_size, s.st_mode, s.st_uid) for s in entries),
            )
        return None

    def _read(self) -> dict[str, Peer]:
        try:
            check_own(self._folder, "700")
            paths = sorted(self._folder.glob("*.pub"))
        except (FileError, OSError) as error:
            self._say(str(error))
            return {}
        peers = {}
        for path in paths:
            try:
                key = read_authorized(path)
            except FileError as error:
                self._say(str(error))
            else:
                peers[key.public] = peer_of(key)
        return peers

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._note(text)


# What `memrl-ctrl keys` does


def fingerprint(key: KeyFile) -> str:
    """Return a short text by which two people can compare a public key."""
    digest = hashlib.sha256(key.public.encode()).hexdigest()
    return " ".join(digest[i : i + 4] for i in range(0, 16, 4))


def new_key(folder: Path, name: str, role: Role) -> Path:
    """Make a client's key in a folder, which is made where it is missing; return its public file.

    Raises:
        UsageError: a name that no file should have, or one that is taken.
        FileError: it cannot be written.
    """
    _check_name(name)
    public_file = folder / f"{name}.pub"
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        check_own(folder, "700")
        write_pair(folder, name, role.value, public_file)
    except FileExistsError as error:
        raise UsageError(
            f"there is a key {name!r} in {folder}: choose another name, or remove it first"
        ) from error
    except OSError as error:
        raise FileError(folder, f"a key cannot be written here: {error.strerror}") from error
    return public_file


def authorize(folder: Path, public_file: Path, role: Role, name: str | None) -> KeyFile:
    """Let a public key in, as a role; a running server takes it up by itself.

    Args:
        folder: of the server's keys.
        public_file: the client's `.pub`.
        role: what it may do; what the file itself says of a role means nothing.
        name: under which it is known; the file's unless given.

    Raises:
        UsageError: the name is taken, or the key is authorized already under another.
        FileError: a file is wrong.
    """
    _check_server(folder)
    given = read_key(public_file, secret=False)
    if given.role == RESERVED:
        raise FileError(public_file, "a server's key cannot be authorized as a client")
    name = name or given.name
    _check_name(name)
    for path, known in authorized_keys(folder):
        if known.public == given.public and path.stem != name:
            raise UsageError(f"this key is authorized as {path.stem!r} already: revoke that first")
        if path.stem == name and known.public != given.public:
            raise UsageError(f"another key is authorized as {name!r}: give --name, or revoke that")
    allowed = KeyFile(name=name, role=role.value, public=given.public)
    path = folder / "authorized" / f"{name}.pub"
    new = path.with_suffix(".new")
    try:
        new.unlink(missing_ok=True)
        write_key(new, allowed, 0o644)
        new.rename(path)  # whole at once, whoever reads it meanwhile
    except OSError as error:
        raise FileError(path, f"cannot be written: {error.strerror}") from error
    return allowed


def revoke(folder: Path, name: str) -> KeyFile:
    """Let a key in no longer; a running server ends its sessions, and its lease, within a second.

    Raises:
        UsageError: nobody of that name is authorized; says who is.
        FileError: a file is wrong.
    """
    _check_server(folder)
    known = {path.stem: (path, key) for path, key in authorized_keys(folder)}
    if name not in known:
        raise UsageError(
            f"no key {name!r} is authorized in {folder}; there is: {', '.join(known) or '(none)'}"
        )
    path, key = known[name]
    try:
        path.unlink()
    except OSError as error:
        raise FileError(path, f"cannot be removed: {error.strerror}") from error
    return key


def listed(folder: Path) -> list[tuple[str, KeyFile]]:
    """Return name and key of all who may come in."""
    _check_server(folder)
    return [(path.stem, key) for path, key in authorized_keys(folder)]


def _check_server(folder: Path) -> None:
    if not (folder / "authorized").is_dir():
        raise UsageError(
            f"{folder} is no folder of a machine's keys; `memrl-ctrl keys new --server` makes one"
        )


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or name == RESERVED:
        raise UsageError(
            f"{name!r} is no name for a key: letters, digits, '.', '_' and '-', at most 64, "
            f"and not {RESERVED!r}"
        )


def ring_for(
    asked: Endpoint,
    keys: Path | None,
    *,
    insecure_loopback: bool,
    note: Callable[[str], None] | None,
) -> KeyRing | None:
    """Return who may come in to a server; None where there are no keys and everybody may.

    Args:
        asked: where it listens.
        keys: folder of keys; None makes and uses the local folder on loopback.
        insecure_loopback: no keys.
        note: called with a sentence about what is wrong.

    Raises:
        UsageError: not on loopback and no keys.
        FileError: a file of keys that is absent or wrong.
    """
    if insecure_loopback:
        if not asked.loopback:
            raise UsageError(f"{asked} is not on loopback: --insecure-loopback does not go there")
        return None
    if keys is None:
        if not asked.loopback:
            raise UsageError(
                f"{asked} can be reached from outside: give the keys that may come in "
                "(--keys FOLDER), or bind to 127.0.0.1"
            )
        keys = local_folder()
        make_folder(keys)
    return KeyRing(load_server(keys), note)
