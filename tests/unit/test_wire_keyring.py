"""Who may come in: made, authorized, revoked and listed, and read again while a server runs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from memrl_backends.zmq import keyring
from memrl_backends.zmq.keyring import KeyRing
from memrl_backends.zmq.keys import load_client, load_server, make_folder
from memrl_backends.zmq.wire import Role
from memrl_ctrl.cli import main
from memrl_ctrl.errors import FileError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "keys")
    return tmp_path / "keys"


def test_a_new_key_is_private(tmp_path: Path) -> None:
    """The secret is 0600 in a folder 0700, the public half holds no secret, and a name is used once."""
    public = keyring.new_key(tmp_path / "mine", "anna", Role.CONTROLLER)
    secret = public.with_suffix(".key")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    assert '"secret": ""' in public.read_text()
    with pytest.raises(UsageError, match="there is a key 'anna'"):
        keyring.new_key(tmp_path / "mine", "anna", Role.CONTROLLER)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "server", ".hidden", "x" * 65, "a b", "-x"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    """A name cannot leave the folder, nor stand for the server."""
    with pytest.raises(UsageError, match="is no name for a key"):
        keyring.new_key(tmp_path / "mine", name, Role.OBSERVER)


def test_a_key_in_a_folder_that_others_may_write_is_not_made(tmp_path: Path) -> None:
    """Where others could exchange it, no key is made."""
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(FileError, match="others may write here"):
        keyring.new_key(tmp_path / "open", "anna", Role.OBSERVER)


def test_authorize_decides_the_role(folder: Path, tmp_path: Path) -> None:
    """What the client's file says of its role means nothing; the same key may be given another role."""
    public = keyring.new_key(tmp_path / "mine", "anna", Role.OPERATOR)
    keyring.authorize(folder, public, Role.OBSERVER, None)
    own = load_client_key(tmp_path / "mine", folder)
    assert load_server(folder).authorized[own].role is Role.OBSERVER
    keyring.authorize(folder, public, Role.CONTROLLER, None)
    assert load_server(folder).authorized[own].role is Role.CONTROLLER
    with pytest.raises(UsageError, match="authorized as 'anna' already"):
        keyring.authorize(folder, public, Role.CONTROLLER, "berta")
    other = keyring.new_key(tmp_path / "other", "anna", Role.OPERATOR)
    with pytest.raises(UsageError, match="another key is authorized as 'anna'"):
        keyring.authorize(folder, other, Role.CONTROLLER, None)
    keyring.authorize(folder, other, Role.CONTROLLER, "anna-2")
    assert {name for name, _ in keyring.listed(folder)} == {
        "anna", "anna-2", "controller", "observer", "operator", "recommender",
    }  # fmt: skip


def load_client_key(mine: Path, folder: Path) -> str:
    (mine / "server.pub").write_bytes((folder / "server.pub").read_bytes())
    return load_client(mine, Role.OPERATOR).public.decode()


def test_a_server_is_no_client(folder: Path) -> None:
    """A server's key cannot be let in."""
    with pytest.raises(FileError, match="cannot be authorized as a client"):
        keyring.authorize(folder, folder / "server.pub", Role.OBSERVER, "x")


def test_revoke_names_who_there_is(folder: Path) -> None:
    """A name that is not there is told with those that are."""
    keyring.revoke(folder, "observer")
    assert all(peer.role is not Role.OBSERVER for peer in load_server(folder).authorized.values())
    with pytest.raises(UsageError, match=r"no key 'observer'.*controller, operator, recommender"):
        keyring.revoke(folder, "observer")
    with pytest.raises(UsageError, match="no folder of a machine's keys"):
        keyring.revoke(folder / "authorized", "x")


def test_one_key_with_another_name_is_found(folder: Path, tmp_path: Path) -> None:
    """A client's only key for a role needs no name; of several one must be named; a higher role's key is
    never taken by itself."""
    mine = tmp_path / "mine"
    keyring.new_key(mine, "anna", Role.CONTROLLER)
    (mine / "server.pub").write_bytes((folder / "server.pub").read_bytes())
    first = load_client(mine, Role.CONTROLLER)
    keyring.new_key(mine, "boss", Role.OPERATOR)
    assert load_client(mine, Role.CONTROLLER) == first
    keyring.new_key(mine, "berta", Role.CONTROLLER)
    with pytest.raises(FileError, match="several others could do: anna, berta"):
        load_client(mine, Role.CONTROLLER)
    assert load_client(mine, Role.CONTROLLER, "anna") == first
    with pytest.raises(FileError, match="no such key, and no other"):
        load_client(mine, Role.OBSERVER)


def ring(folder: Path) -> tuple[KeyRing, list[str]]:
    notes: list[str] = []
    return KeyRing(load_server(folder), notes.append), notes


def test_a_running_server_takes_up_changes(folder: Path, tmp_path: Path) -> None:
    """New keys are let in, revoked and changed ones are named as gone, the others stay."""
    found, notes = ring(folder)
    public = keyring.new_key(tmp_path / "mine", "anna", Role.CONTROLLER)
    key = keyring.authorize(folder, public, Role.CONTROLLER, None)
    assert found.find(key.public) is None
    assert found.refresh() == []
    peer = found.find(key.public)
    assert peer is not None
    assert (peer.name, peer.role, peer.key) == ("anna", Role.CONTROLLER, key.public)
    keyring.authorize(folder, public, Role.OBSERVER, None)
    assert found.refresh() == [peer]
    assert found.refresh() == []
    keyring.revoke(folder, "anna")
    assert [gone.role for gone in found.refresh()] == [Role.OBSERVER]
    assert found.find(key.public) is None
    assert notes == []


@pytest.mark.parametrize("mode", [0o777, 0o722])
def test_a_folder_that_others_may_write_lets_nobody_in(folder: Path, mode: int) -> None:
    """While the server runs too; it is said once, and mended when the folder is."""
    found, notes = ring(folder)
    known = [peer.key for peer in load_server(folder).authorized.values()]
    authorized = folder / "authorized"
    authorized.chmod(mode)
    authorized.touch()
    assert len(found.refresh()) == len(known)
    assert all(found.find(key) is None for key in known)
    assert "others may write here" in notes[0]
    authorized.chmod(0o700)
    authorized.touch()
    found.refresh()
    assert all(found.find(key) is not None for key in known)
    assert len(notes) == 1


def test_a_file_that_is_no_key_lets_nobody_in(folder: Path) -> None:
    """One wrong file is named; the others count."""
    found, notes = ring(folder)
    (folder / "authorized" / "observer.pub").write_text("{}")
    assert [peer.name for peer in found.refresh()] == ["observer"]
    assert "no key file" in notes[0]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """new, authorize, list and revoke say what they did; what cannot be is one sentence."""
    keys, mine = str(tmp_path / "keys"), str(tmp_path / "mine")
    assert main(["keys", "new", "--server", "--keys", keys]) == 0
    assert main(["keys", "new", "anna", "--role", "recommender", "--keys", mine]) == 0
    assert "keys authorize anna.pub --role recommender" in capsys.readouterr().out
    public = str(tmp_path / "mine" / "anna.pub")
    assert main(["keys", "authorize", public, "--role", "recommender", "--keys", keys]) == 0
    said = capsys.readouterr().out
    assert "anna may come in as recommender, fingerprint" in said
    assert main(["keys", "list", "--keys", keys]) == 0
    shown = capsys.readouterr().out
    assert said.split("fingerprint ")[1].strip() in shown
    assert main(["keys", "revoke", "anna", "--keys", keys]) == 0
    assert "anna (recommender) may come in no longer" in capsys.readouterr().out
    for wrong in (
        ["new", "--keys", mine],
        ["new", "--server", "--keys", keys],
        ["new", "x", "--server", "--keys", keys],
        ["revoke", "anna", "--keys", keys],
        ["authorize", "/none.pub", "--role", "observer", "--keys", keys],
        ["authorize", public, "--keys", keys],
        ["authorize", public, "--role", "king", "--keys", keys],
    ):
        assert main(["keys", *wrong]) in {2, 3}
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.strip().splitlines()) == 1
