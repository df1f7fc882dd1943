"""Machines and cycle programs: what stays from cycle to cycle, and what a machine does in one.

```python
program = load_program("psb-2gev")          # or the path of a YAML file
points = program.at()                       # at the control points; or program.at(ctime_ms)
ring = program.machine.ring                 # memrl_ctrl.beam.Machine
```

File formats: `docs/programs.md`.
"""

from memrl_ctrl.program.controls import ImportedProgram, import_controls_export
from memrl_ctrl.program.cycle import FUNCTIONS, CycleProgram, ProgramPoints
from memrl_ctrl.program.functions import PiecewiseLinear
from memrl_ctrl.program.library import available_machines, available_programs
from memrl_ctrl.program.machine import (
    Assumption,
    HardwareRange,
    ImpedanceItem,
    MachineFile,
    MachineWarning,
    OperatingRange,
)
from memrl_ctrl.program.machine_writer import save_machine
from memrl_ctrl.program.ranges import RangeCheck, check_ranges
from memrl_ctrl.program.reference import ReferencePhases, load_reference
from memrl_ctrl.program.storage import load_machine, load_program, save_program

__all__ = [
    "FUNCTIONS",
    "Assumption",
    "CycleProgram",
    "HardwareRange",
    "ImpedanceItem",
    "ImportedProgram",
    "MachineFile",
    "MachineWarning",
    "OperatingRange",
    "PiecewiseLinear",
    "ProgramPoints",
    "RangeCheck",
    "ReferencePhases",
    "available_machines",
    "available_programs",
    "check_ranges",
    "import_controls_export",
    "load_machine",
    "load_program",
    "load_reference",
    "save_machine",
    "save_program",
]
