"""No backend is registered without a case of the contract."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

from memrl_ctrl.registry import BACKENDS, points
from memrl_ctrl.testing import BackendContract

HERE = Path(__file__).parent


def covered() -> set[str]:
    """Return the names that the cases of this folder say they cover."""
    names = set()
    for path in HERE.glob("test_*.py"):
        if path == Path(__file__):
            continue
        spec = importlib.util.spec_from_file_location(f"contract_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        names |= {
            case.registered_as
            for case in vars(module).values()
            if isinstance(case, type) and issubclass(case, BackendContract)
        }
    return names - {""}


def test_every_registered_backend_has_a_case() -> None:
    """A backend that is declared or installed without a case of the contract fails the suite."""
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())
    declared = set(project["project"]["entry-points"][BACKENDS])
    # Others' plug-ins may be installed beside this project: theirs are theirs to test.
    installed = {
        name for name, point in points(BACKENDS).items() if point.module.startswith("memrl_")
    }
    assert declared | installed <= covered()
