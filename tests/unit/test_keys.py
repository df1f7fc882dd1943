"""Key folders: made once, readable by their owner alone, checked when read."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import pytest

from memrl_backends.zmq import endpoint as endpoints
from memrl_backends.zmq import open_backend
from memrl_backends.zmq.keys import (
    load_client,
    load_server,
    local_folder,
    make_folder,
    read_key,
)
from memrl_backends.zmq.server import MachineServer
from memrl_backends.zmq.wire import Role
from memrl_ctrl.errors import FileError, MemrlError, UsageError
from memrl_ctrl.testing import FakeBackend


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "state" / "keys"
    make_folder(made)
    return made


def test_a_folder_is_private_and_fits_together(folder: Path) -> None:
    """Secrets are 0600 in a folder 0700, and server and clients know each other."""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server = load_server(folder)
    for role in Role:
        client = load_client(folder, role)
        assert client.server == server.public
        assert server.authorized[client.public.decode()].role is role
    assert "secret" not in repr(server)


def test_making_it_again_changes_nothing(folder: Path) -> None:
    """Keys that exist stay."""
    before = load_server(folder)
    make_folder(folder)
    assert load_server(folder) == before


def test_secrets_that_others_may_read_are_refused(folder: Path) -> None:
    """A key file or folder that is too open is named, with the command that closes it."""
    key = folder / "controller.key"
    key.chmod(0o640)
    with pytest.raises(FileError, match=r"mode 0640.*chmod 600"):
        load_client(folder, Role.CONTROLLER)
    key.chmod(0o600)
    folder.chmod(0o777)
    with pytest.raises(FileError, match=r"mode 0777.*chmod 700"):
        load_client(folder, Role.CONTROLLER)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (".", 0o720),
        ("authorized", 0o777),
        ("authorized", 0o770),
        ("authorized/observer.pub", 0o646),
        ("authorized/controller.pub", 0o664),
    ],
)
def test_who_may_come_in_is_written_by_the_owner_alone(folder: Path, name: str, mode: int) -> None:
    """Where others could let a key in, the server does not start, and names the place."""
    path = folder / name
    path.chmod(mode)
    with pytest.raises(
        FileError, match=rf"others may write here \(mode {mode:04o}\): chmod"
    ) as raised:
        load_server(folder)
    assert str(path) in str(raised.value)


def test_clients_trust_only_a_server_key_of_their_own(folder: Path) -> None:
    """A server's public key that others may exchange is no proof of who the machine is."""
    (folder / "server.pub").chmod(0o666)
    with pytest.raises(FileError, match=r"mode 0666.*chmod 644"):
        load_client(folder, Role.OBSERVER)


def test_keys_of_another_user_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the folder may change it: it must be this user or root."""
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    if own == 0:  # root's files are anybody's to read: give the folder to somebody else
        os.chown(folder, 12345, -1)
    with pytest.raises(FileError, match=r"belongs to another user .*: chown"):
        load_server(folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no key file"),
        ("{}", "no key file"),
        ("\x00\xff", "no key file"),
        ('{"name":"a","role":"observer","public":"short"}', "z85|belong"),
        ('{"name":"a","role":"king","public":"short"}', "role"),
    ],
)
def test_what_is_no_key_is_named(folder: Path, content: str, problem: str) -> None:
    """A key file with anything else in it is one sentence with its path."""
    path = folder / "server.pub"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(FileError, match=problem) as raised:
        read_key(path, secret=False)
    assert str(path) in str(raised.value)


def test_a_pair_that_does_not_fit_is_refused(folder: Path) -> None:
    """A secret beside another key's public half is found out."""
    one, other = (folder / f"{name}.key" for name in ("controller", "observer"))
    secret = other.read_text().split('"secret": "')[1].split('"')[0]
    own = one.read_text().split('"secret": "')[1].split('"')[0]
    one.write_text(one.read_text().replace(own, secret))
    with pytest.raises(FileError, match="do not belong together"):
        read_key(one, secret=True)


def test_a_missing_folder_says_who_makes_it(tmp_path: Path) -> None:
    """Whoever deploys before any machine ran is told what makes the keys."""
    with pytest.raises(MemrlError, match="memrl-ctrl machine"):
        load_client(tmp_path / "none", Role.CONTROLLER)


def test_the_local_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MEMRL_CTRL_STATE first, then XDG_STATE_HOME, then ~/.local/state."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEMRL_CTRL_STATE", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert local_folder() == tmp_path / "home" / ".local" / "state" / "memrl-ctrl" / "keys"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert local_folder() == tmp_path / "xdg" / "memrl-ctrl" / "keys"
    monkeypatch.setenv("MEMRL_CTRL_STATE", str(tmp_path / "own"))
    assert local_folder() == tmp_path / "own" / "keys"


@pytest.mark.parametrize("text", ["", "tcp://", "tcp://a", "ipc:///x", "tcp://a:99999", "a:1"])
def test_an_endpoint_of_another_form_is_refused(text: str) -> None:
    """What is no endpoint is told with an example."""
    with pytest.raises(UsageError, match="tcp://HOST:PORT"):
        endpoints.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.9.9.9:1", True),
        ("tcp://localhost:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://*:1", False),
        ("tcp://10.0.0.1:1", False),
        ("tcp://machine.example:1", False),
    ],
)
def test_loopback_is_told_from_the_rest(text: str, loopback: bool) -> None:
    """Only what cannot be reached from outside counts as loopback."""
    assert endpoints.parse(text).loopback is loopback


def test_off_loopback_nothing_happens_without_keys() -> None:
    """Neither a server nor a client goes off loopback on local keys, or on none."""
    for insecure in (False, True):
        with pytest.raises(UsageError, match=r"outside|not on loopback"):
            MachineServer(
                FakeBackend(points=2), endpoint="tcp://0.0.0.0:0", insecure_loopback=insecure
            )
        with pytest.raises(UsageError, match="not on"):
            open_backend(endpoint="tcp://10.0.0.1:5750", insecure_loopback=insecure)


@pytest.mark.parametrize("name", ["period", "idle", "patience"])
@pytest.mark.parametrize("value_s", [math.nan, math.inf, -math.inf, -0.1, 1e300])
def test_a_time_that_is_none_is_refused(folder: Path, name: str, value_s: float) -> None:
    """NaN, infinity, a negative time and one beyond a day are one sentence with what is allowed."""
    with pytest.raises(UsageError, match=rf"a {name} of .* from 0 to 86400 s"):
        MachineServer(
            FakeBackend(points=2),
            endpoint="tcp://127.0.0.1:0",
            keys=folder,
            **{f"{name}_s": value_s},  # type: ignore[arg-type]
        )
