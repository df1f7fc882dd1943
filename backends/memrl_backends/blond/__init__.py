"""The simulation backend `blond`, in several fidelities behind one contract.

`matched` (default) is the kernel of `memrl_ctrl.beam` and needs no BLonD; `blond` is BLonD's own
matching with the induced voltage converged.
"""

from memrl_backends.blond.along import AlongCycleBackend
from memrl_backends.blond.backend import SimulationBackend
from memrl_backends.blond.options import open_backend

__all__ = ["AlongCycleBackend", "SimulationBackend", "open_backend"]
