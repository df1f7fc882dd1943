"""A file for HDF5 to write to that never fails under it: the library does not survive a full disk.

Where a write fails inside the HDF5 library, datasets and file cannot be closed any more; what follows is a
crash at the interpreter's end at worst. So the first failure is kept, and everything after it goes nowhere.
Whoever made the file asks for it.
"""

from __future__ import annotations

import io
import os
from pathlib import Path


class PatientFile(io.RawIOBase):
    """A new file for `h5py.File(..., driver="fileobj")`.

    Args:
        path: the file; replaced where it exists.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("w+b", buffering=0)
        self._position = 0
        self._size = 0
        self.error: OSError | None = None
        """The first failure; None while all went well."""

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def writable(self) -> bool:
        """Whether it can be written: yes."""
        return True

    def seekable(self) -> bool:
        """Whether places in it can be chosen: yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the place."""
        return self._position

    def write(self, data: object) -> int:
        """Write everything, or note why not."""
        rest = memoryview(data).cast("B")  # type: ignore[arg-type]
        count, place = rest.nbytes, self._position
        try:
            while rest and self.error is None:
                done = os.pwrite(self._file.fileno(), rest, place)
                rest, place = rest[done:], place + done
        except OSError as error:
            self.error = error
        self._position += count
        self._size = max(self._size, self._position)
        return count

    def readinto(self, buffer: object) -> int:
        """Read what is there; zeros where nothing is."""
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        wanted = min(target.nbytes, max(self._size - self._position, 0))
        found = os.pread(self._file.fileno(), wanted, self._position)
        target[: len(found)] = found
        target[len(found) : wanted] = bytes(wanted - len(found))
        self._position += wanted
        return wanted

    def truncate(self, size: int | None = None) -> int:
        """Cut the file, or make it longer."""
        self._size = self._position if size is None else size
        try:
            if self.error is None:
                os.ftruncate(self._file.fileno(), self._size)
        except OSError as error:
            self.error = error
        return self._size

    def close(self) -> None:
        """Close it; may be called twice."""
        self._file.close()
        super().close()
