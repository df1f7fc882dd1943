"""The backend `twin`: any backend as a scenario says it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from memrl_backends.twin.faulty import FaultyBackend, Timing, check_faults, with_faults
from memrl_backends.twin.scenario import Scenario, load_scenario
from memrl_ctrl import registry
from memrl_ctrl.errors import FileError, UsageError

DEFAULT_BACKEND = "blond"
_OF_A_CYCLE = ("points", "stride", "phase_loop")
"""Options of a scenario that unrelated rows do not have."""


def open_backend(
    *,
    scenario: str | Path | Scenario | None = None,
    backend: str = DEFAULT_BACKEND,
    seed: int | None = None,
    rows: int | None = None,
    n_slices: int | None = None,
    along_cycle: bool = False,
    period_s: float | None = None,
    **options: Any,
) -> FaultyBackend:
    """Open a backend as a scenario says it is.

    Args:
        scenario: name, file, or a scenario that was read; None is one without anything in it.
        backend: what plays it; the sections of a scenario are options of `blond`.
        seed: of everything that is drawn, in the place of the scenario's own.
        rows: unrelated conditions in the place of a program's cycle, for training.
        n_slices: bins of a profile over one turn, in the place of the scenario's own.
        along_cycle: rows are bunches on their way along the program's cycle.
        period_s: time between cycles for whoever lets them take their time: readings then come when
            the scenario says, late ones later. None or 0 delivers everything at once.
        options: of the backend; they win over the scenario's.

    Raises:
        UnknownNameError: no such scenario, backend or option.
        FileError: the scenario file is wrong, or says what the backend does not do.
        UsageError: options that contradict each other.
    """
    read = scenario if isinstance(scenario, Scenario) else None
    if read is None:
        read = Scenario() if scenario is None else load_scenario(str(scenario))
    if seed is None:
        seed = read.seed
    drawn = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    merged = {**read.options, "seed": drawn, "rows": rows, "n_slices": n_slices, **options}
    if n_slices is None:
        merged["n_slices"] = read.options.get("n_slices")
    if along_cycle:
        merged["along_cycle"] = True
    elif rows is not None:
        merged = {k: v for k, v in merged.items() if k not in _OF_A_CYCLE or k in options}
    if options.get("machine") is not None and "program" not in options:
        merged.pop("program", None)
    known = registry.option_names(backend)
    given = {name: value for name, value in merged.items() if value is not None}
    if "seed" not in known:
        given.pop("seed")  # a machine or a recording draws nothing
    timing = None
    if period_s:
        # At another period whoever writes keeps the time that the scenario leaves after a reading.
        left_s = (read.period_s or period_s) - read.reading_at_s
        at_s = min(read.reading_at_s, max(0.0, period_s - left_s))
        timing = Timing(period_s=period_s, reading_at_s=at_s)
    opened = None
    try:
        opened = registry.open_backend(backend, **given)
        check_faults(read.faults, opened)
    except UsageError as error:
        if opened is not None:
            opened.close()
        if read.path is None or options:
            raise  # who gave options may have given the wrong one
        raise FileError(read.path, str(error)) from error
    return with_faults(opened, read.faults, seed=drawn, timing=timing)
