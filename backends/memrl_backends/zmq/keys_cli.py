"""`memrl-ctrl keys new|authorize|revoke|list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.table import Table

from memrl_backends.zmq import keyring
from memrl_backends.zmq.keys import local_folder, make_folder, read_key
from memrl_backends.zmq.wire import Role
from memrl_ctrl.errors import UsageError
from memrl_ctrl.terminal import Terminal

app = cyclopts.App(
    name="memrl-ctrl keys",
    help="Keys: who may look at a machine, recommend, control and operate it.",
)


@app.command
def new(
    name: str | None = None,
    /,
    *,
    role: Role = Role.OBSERVER,
    keys: Path | None = None,
    server: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Make a key: NAME.key, which stays here (0600), and NAME.pub, which the machine's keeper needs.

    Parameters
    ----------
    name
        Of the key; shown to others who want control.
    role
        What it is for; what it may do is decided where it is authorized.
    keys
        Folder; the local one unless given.
    server
        Make a whole folder for a machine instead: its own key, and one for each role, authorized.
    """
    folder = keys or local_folder()
    console = _console()
    if server:
        if name is not None:
            raise UsageError("a machine's folder of keys takes no name: leave it out")
        if folder.exists():
            raise UsageError(f"{folder} exists: give another folder (--keys)")
        make_folder(folder)
        console.print(f"machine's keys in {folder}; clients need its server.pub and their own .key")
        return
    if name is None:
        raise UsageError("a key needs a name: memrl-ctrl keys new NAME")
    public_file = keyring.new_key(folder, name, role)
    shown = read_key(public_file, secret=False)
    console.print(
        f"{public_file.with_suffix('.key')}: keep it; {public_file}: for the machine's keeper, who "
        f"runs: memrl-ctrl keys authorize {public_file.name} --role {role.value}"
    )
    console.print(f"fingerprint {keyring.fingerprint(shown)}")


@app.command
def authorize(
    public_file: Path,
    /,
    *,
    role: Role,
    name: str | None = None,
    keys: Path | None = None,
) -> None:
    """Let a client's public key in; a machine that runs takes it up within a second.

    Parameters
    ----------
    public_file
        The client's NAME.pub.
    role
        What it may do: observer, recommender, controller or operator.
    name
        Under which it is known here; the file's own unless given.
    keys
        Folder of the machine's keys; the local one unless given.
    """
    allowed = keyring.authorize(keys or local_folder(), public_file, role, name)
    _console().print(
        f"{allowed.name} may come in as {allowed.role}, fingerprint {keyring.fingerprint(allowed)}"
    )


@app.command
def revoke(name: str, /, *, keys: Path | None = None) -> None:
    """Let a key in no longer; a machine that runs ends its sessions and its lease within a second.

    Parameters
    ----------
    name
        As `memrl-ctrl keys list` shows it.
    keys
        Folder of the machine's keys; the local one unless given.
    """
    gone = keyring.revoke(keys or local_folder(), name)
    _console().print(f"{name} ({gone.role}) may come in no longer")


@app.command(name="list")
def list_(*, keys: Path | None = None) -> None:
    """Show who may come in, and as what.

    Parameters
    ----------
    keys
        Folder of the machine's keys; the local one unless given.
    """
    table = Table("name", "role", "fingerprint")
    for name, key in keyring.listed(keys or local_folder()):
        table.add_row(name, key.role, keyring.fingerprint(key))
    _console().print(table)


def _console() -> Terminal:
    return Terminal(highlight=False, soft_wrap=True, markup=False)
