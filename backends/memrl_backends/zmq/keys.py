"""CURVE keys: who a server is, who a client is, and what each key may do.

A folder of keys (0700) holds, as JSON files:

```
server.key                 the server's secret                         0600
server.pub                 the server's public key, for clients
NAME.key                   a client's secret                           0600
authorized/NAME.pub        a client's public key, its name and role, for the server
```

A client on another computer needs `server.pub` and its own `.key`. On loopback `memrl-ctrl machine`
makes a folder by itself, with a client's key for every role, and clients find it (`local_folder`).
What a key may do is decided by the file in `authorized/`, never by the client's own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import zmq
from zmq.utils import z85

from memrl_backends.zmq.wire import Role
from memrl_ctrl.errors import FileError, MemrlError
from memrl_ctrl.state import state_folder

KIND = "memrl-ctrl CURVE key"
SECRET_MODE, FOLDER_MODE = 0o600, 0o700


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key in a file; z85, 40 characters."""

    kind: Literal["memrl-ctrl CURVE key"] = KIND  # type: ignore[assignment]
    name: str
    """Name for people; a controller's name is shown to a second one."""
    role: Literal["server", "observer", "recommender", "controller", "operator"]
    public: str
    secret: str = ""
    """Empty in a public file."""


@dataclass(frozen=True)
class Peer:
    """Who a public key belongs to."""

    name: str
    role: Role
    key: str = ""
    """The public key itself, z85; empty where there are no keys."""


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """What a server needs."""

    folder: Path
    public: bytes
    secret: bytes = field(repr=False)
    authorized: dict[str, Peer]
    """Public key (z85) to its owner."""


@dataclass(frozen=True, kw_only=True)
class ClientKeys:
    """What a client needs."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes
    """Public key of the server."""


def local_folder() -> Path:
    """Return the folder of the keys that serve on loopback."""
    return state_folder() / "keys"


def make_folder(folder: Path) -> None:
    """Make a folder with a server and a client of every role, unless it exists.

    Two processes may do so at once: one of the two folders stays, whole.

    Raises:
        FileError: it cannot be written.
    """
    if folder.exists():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".keys-", dir=folder.parent))  # 0700
    except OSError as error:
        raise FileError(folder, f"cannot be made: {error.strerror}") from error
    try:
        _fill(made)
        made.rename(folder)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        if not folder.exists():
            raise FileError(folder, f"cannot be made: {error.strerror}") from error


def _fill(folder: Path) -> None:
    (folder / "authorized").mkdir(mode=FOLDER_MODE)
    write_pair(folder, "server", "server", folder / "server.pub")
    for role in Role:
        public_file = folder / "authorized" / f"{role.value}.pub"
        write_pair(folder, role.value, role.value, public_file)


def write_pair(folder: Path, name: str, role: str, public_file: Path) -> KeyFile:
    """Make a key: its secret in `folder/NAME.key`, its public half in `public_file`; return that.

    Raises:
        FileExistsError: there is one of that name.
        OSError: it cannot be written.
    """
    public, secret = (part.decode() for part in zmq.curve_keypair())
    key = KeyFile(name=name, role=role, public=public, secret=secret)  # type: ignore[arg-type]
    write_key(folder / f"{name}.key", key, SECRET_MODE)
    shown = msgspec.structs.replace(key, secret="")
    write_key(public_file, shown, 0o644)
    return shown


def write_key(path: Path, key: KeyFile, mode: int) -> None:
    """Write a new key file; raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(key)) + b"\n")


def read_key(path: Path, *, secret: bool) -> KeyFile:
    """Read a key file, which nobody else may have written, nor put into its folder.

    Args:
        path: the file.
        secret: whether it must hold a secret, and be readable by its owner alone.

    Raises:
        FileError: absent, no key, a secret that others may read, or a file or folder that others
            own or may write.
    """
    check_own(path.parent, "700")
    mode = check_own(path, "600" if secret else "644")
    if secret and mode & 0o077:
        raise FileError(
            path, f"others may read this secret (mode {mode & 0o777:04o}): chmod 600 {path}"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(path, f"this key cannot be read: {error.strerror}") from error
    try:
        key = msgspec.json.decode(data, type=KeyFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FileError(path, f"this is no key file: {error}") from error
    _check_z85(path, key, secret=secret)
    return key


def check_own(path: Path, wanted: str) -> int:
    """Return the mode of a file or folder after checking that only this user or root may write it."""
    try:
        found = path.stat()
    except OSError as error:
        raise FileError(path, f"this key cannot be read: {error.strerror}") from error
    if found.st_uid not in {0, os.geteuid()}:
        raise FileError(
            path, f"this belongs to another user (id {found.st_uid}): chown {os.geteuid()} {path}"
        )
    mode = found.st_mode
    # In a folder that others may write they could put a key of their own that is let in.
    if mode & 0o022:
        raise FileError(
            path, f"others may write here (mode {mode & 0o777:04o}): chmod {wanted} {path}"
        )
    return mode


def _check_z85(path: Path, key: KeyFile, *, secret: bool) -> None:
    try:
        fits = len(z85.decode(key.public)) == 32 and (
            not secret or zmq.curve_public(key.secret.encode()) == key.public.encode()
        )
    except (ValueError, KeyError, zmq.ZMQError) as error:
        raise FileError(path, f"this is no CURVE key in z85: {error}") from error
    if not fits:
        raise FileError(path, "public and secret key do not belong together")


def load_server(folder: Path) -> ServerKeys:
    """Read what a server needs out of a folder of keys.

    Raises:
        FileError: a file is absent or wrong.
    """
    own = read_key(folder / "server.key", secret=True)
    return ServerKeys(
        folder=folder,
        public=own.public.encode(),
        secret=own.secret.encode(),
        authorized={key.public: peer_of(key) for _, key in authorized_keys(folder)},
    )


def authorized_keys(folder: Path) -> list[tuple[Path, KeyFile]]:
    """Return the files of the clients that may come in, and what they hold.

    Raises:
        FileError: a file is wrong, or others may write here.
    """
    check_own(folder / "authorized", "700")  # also where there is nothing in it
    return [(path, read_authorized(path)) for path in sorted((folder / "authorized").glob("*.pub"))]


def read_authorized(path: Path) -> KeyFile:
    """Read the public key of a client that may come in; raises `FileError`."""
    key = read_key(path, secret=False)
    if key.role == "server":
        raise FileError(path, "a server's key cannot be authorized as a client")
    return key


def peer_of(key: KeyFile) -> Peer:
    """Return whose key it is."""
    return Peer(key.name, Role(key.role), key.public)


def load_client(folder: Path, role: Role, name: str | None = None) -> ClientKeys:
    """Read what a client of a role needs out of a folder of keys.

    Args:
        folder: with `server.pub` and the client's key.
        role: as what it wants to come.
        name: of the key, `NAME.key`; without, the one named after the role, else the only one that
            was made for the role.

    Raises:
        MemrlError: there is no such folder, no such key, or several.
        FileError: a file is wrong.
    """
    if not folder.is_dir():
        raise MemrlError(
            f"no keys in {folder}: `memrl-ctrl machine` on this computer makes them when it starts; "
            "for a machine elsewhere give the folder with its server.pub and your key (--keys)"
        )
    path = folder / f"{name or role.value}.key"
    if name is None and not path.exists():
        path = _only_key(folder, role)
    own = read_key(path, secret=True)
    server = read_key(folder / "server.pub", secret=False)
    return ClientKeys(
        public=own.public.encode(), secret=own.secret.encode(), server=server.public.encode()
    )


def _only_key(folder: Path, role: Role) -> Path:
    """Return the one key in a folder that was made for a role."""
    found = []
    for path in sorted(folder.glob("*.key")):
        key = read_key(path, secret=True)
        if key.role == role.value:
            found.append(path)
    if len(found) != 1:
        names = ", ".join(path.stem for path in found)
        raise FileError(
            folder / f"{role.value}.key",
            f"no such key, and {f'several others could do: {names}' if found else 'no other'}; "
            f"memrl-ctrl keys new {role.value} --role {role.value} --keys {folder} makes one",
        )
    return found[0]
