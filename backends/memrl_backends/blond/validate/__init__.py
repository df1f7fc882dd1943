"""The kernel compared with BLonD: what `memrl-ctrl validate` computes, judges and draws.

Four comparisons, at conditions drawn by a seed from a machine's operating range: BLonD's matching
without and with intensity effects, particles of the kernel's distribution tracked by BLonD, and the
bunch carried along the ramp by BLonD. `docs/physics.md` explains them and shows the last table.
"""

from memrl_backends.blond.validate.comparison import Comparison, Figure
from memrl_backends.blond.validate.plan import FULL, QUICK, Effort, Task, plan

__all__ = ["FULL", "QUICK", "Comparison", "Effort", "Figure", "Task", "plan"]
