"""What memrl-ctrl itself writes into the folder of a run; whatever else lies there is somebody's."""

from __future__ import annotations

from pathlib import Path

from memrl_ctrl.trace.digest import digest_path
from memrl_ctrl.trace.export import Form
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME
from memrl_ctrl.trace.leftovers import leftovers
from memrl_ctrl.trace.plot import PICTURES, PLOTS_NAME


def hdf5_files(folder: Path) -> list[Path]:
    """Return the HDF5 file of a run, last, behind its digest and what was never finished of it.

    Raises:
        OSError: the folder may not be looked into.
    """
    hdf5 = folder / HDF5_NAME
    return [*leftovers(hdf5), *filter(_is_there, (digest_path(hdf5), hdf5))]


def own_files(folder: Path) -> list[Path]:
    """Return the files of a run, those that can be made again first and the journal last.

    Exports and pictures count where they have the name and the place that they are given unasked.

    Raises:
        OSError: the folder may not be looked into.
    """
    hdf5, journal, plots = folder / HDF5_NAME, folder / JOURNAL_NAME, folder / PLOTS_NAME
    made = [hdf5.with_suffix(f".{form.value}") for form in Form]
    if not plots.is_symlink():
        made += [plots / name for name in PICTURES]
    return [*filter(_is_there, made), *hdf5_files(folder), *filter(_is_there, [journal])]


def others(folder: Path, own: list[Path]) -> tuple[str, ...]:
    """Return the names of what lies in the folder of a run besides its own files.

    Raises:
        OSError: the folder may not be looked into.
    """
    known = set(own)
    return tuple(
        path.name
        for path in sorted(folder.iterdir())
        if path not in known and not (_is_plots(path) and known.issuperset(path.iterdir()))
    )


def remove_empty(folder: Path) -> None:
    """Delete the folder of a run where nothing is left in it, and that of its pictures likewise.

    Raises:
        OSError: the file system refuses.
    """
    for place in (folder / PLOTS_NAME, folder):
        if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
            place.resolve().rmdir()  # "." cannot be deleted by that name


def _is_plots(path: Path) -> bool:
    return path.name == PLOTS_NAME and path.is_dir() and not path.is_symlink()


def _is_there(path: Path) -> bool:
    return path.is_file() or path.is_symlink()
