"""Gymnasium environments over any backend.

| environment | a step is | over |
|---|---|---|
| `memrl/BeamPhase-v0` | one shot at one control point | simulation, twin, machine |
| `memrl/BeamCycle-v0` | the next control point of one cycle | a backend with control inside the cycle |

Both have a vector version that plays all rows in one call. The environments do not know which backend
they drive.
"""

from memrl_ctrl.env.single import BeamCycleEnv, BeamPhaseEnv
from memrl_ctrl.env.task import BeamCycle, BeamPhase, BeamTask
from memrl_ctrl.env.vector import BeamCycleVectorEnv, BeamPhaseVectorEnv

__all__ = [
    "BeamCycle",
    "BeamCycleEnv",
    "BeamCycleVectorEnv",
    "BeamPhase",
    "BeamPhaseEnv",
    "BeamPhaseVectorEnv",
    "BeamTask",
]
