"""What a server keeps over its end: fencing numbers, and what it has acknowledged."""

from __future__ import annotations

from pathlib import Path

from memrl_backends.zmq.fence import FILE_NAME, FenceCounter
from memrl_backends.zmq.ledger import Ledger
from memrl_ctrl.errors import FileError


def make_state_folder(folder: Path) -> None:
    """Make the folder of a machine's state, unless it exists.

    Raises:
        FileError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            folder,
            f"a machine keeps its state here, and cannot: {error.strerror}; "
            "give another folder (--state)",
        ) from error


class State:
    """The files of one server.

    Args:
        folder: where they are; made where it is missing.
        port: of the commands, which names the ledger; 0 keeps none beyond this process.

    Raises:
        FileError: they cannot be read or written, or another server uses the ledger.
    """

    def __init__(self, folder: Path, port: int) -> None:
        make_state_folder(folder)
        self.fences = FenceCounter(folder / FILE_NAME)
        self.ledger = Ledger(folder / f"acknowledged-{port}" if port else None)

    def close(self) -> None:
        """Close the files; may be called twice."""
        self.ledger.close()
