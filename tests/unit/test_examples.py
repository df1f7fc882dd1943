"""The examples run as they stand in the documentation."""

import importlib.util
from pathlib import Path

from memrl_ctrl.backend import BeamBackend
from memrl_ctrl.testing import BackendContract

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestOwnBackend(BackendContract):
    """The example of a backend of one's own keeps the whole contract."""

    def make_backend(self) -> BeamBackend:
        return load("own_backend").open_backend()
