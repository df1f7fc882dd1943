"""Memory-based reinforcement learning control of the PS Booster's second-harmonic RF phase.

Importing this package registers its environments with Gymnasium (`memrl/BeamPhase-v0`,
`memrl/BeamCycle-v0`) and pulls neither torch nor BLonD.
"""

from memrl_ctrl import _early

_early.install()  # before anything that takes time to load

from importlib.metadata import PackageNotFoundError, version  # noqa: E402

import gymnasium  # noqa: E402

try:
    __version__ = version("memrl-ctrl")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]

for _name in ("BeamPhase", "BeamCycle"):
    if f"memrl/{_name}-v0" not in gymnasium.registry:
        gymnasium.register(
            id=f"memrl/{_name}-v0",
            entry_point=f"memrl_ctrl.env:{_name}Env",
            vector_entry_point=f"memrl_ctrl.env:{_name}VectorEnv",
        )
