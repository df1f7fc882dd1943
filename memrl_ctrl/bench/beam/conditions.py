"""The conditions that controllers are compared in: what is wrong with machine and readings, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml

from memrl_ctrl.beam import Conditions
from memrl_ctrl.errors import UnknownNameError
from memrl_ctrl.outputs import write_output
from memrl_ctrl.program import (
    CycleProgram,
    MachineFile,
    PiecewiseLinear,
    load_machine,
    load_program,
    save_machine,
)

RANDOM = "random"
"""Prefix of conditions whose points are drawn from a machine's whole operating range."""
MACHINE = "psb"
PROGRAMS = ("psb-2gev", "psb-1p4gev", "psb-1p4gev-modified", "psb-tof")
"""Programs whose points the other conditions are drawn from, in equal parts."""
N_SLICES = 128
SHOTS = 30
OFF = 1.3
"""Model errors: by this factor, 30 % too much."""

LIMITED: Mapping[str, Any] = MappingProxyType({"slew_share": 1.0, "slew_deg": (8.0, 40.0)})
"""In every episode another largest change a shot."""

MachineChange = Callable[[MachineFile], MachineFile]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a controller meets."""

    name: str
    words: str
    """What it is, for tables and documents."""
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Options of the simulation that differ from the usual ones."""
    faults: tuple[Mapping[str, Any], ...] = ()
    """Faults, as a scenario file lists them."""
    machine: MachineChange | None = None
    """What the true machine is, made from the one that was trained on."""
    correlation_slices: float = 0.0
    """Above 0: neighbouring slices share their noise over about so many; the noise of a slice stays."""
    shots: int = SHOTS
    default: bool = True
    """Whether `all` holds it."""
    points: Literal["both", "programs", "random"] = "both"
    """What it is played on: points of programs, uniformly random ones, or both, apart."""

    @property
    def is_random(self) -> bool:
        """Whether its points are uniformly random instead of those of programs."""
        return self.name.startswith(f"{RANDOM}-")


USUAL: Mapping[str, Any] = MappingProxyType(
    {
        "n_slices": N_SLICES,
        "noise": 0.02,
        "monitor": "wcm",
        "intensity": (1e11, 1e13),
        "filling": (0.5, 0.9),
        "require_reference": False,
    }
)
"""Options of the simulation in every condition, unless it says otherwise."""
EMITTANCE_EVS = (0.6, 1.2)
"""Where the true bucket is not the one that is known: of bunches that came from outside, eV s."""


def _gamma_transition(machine: MachineFile) -> MachineFile:
    was = machine.gamma_transition
    return replace(
        machine,
        gamma_transition=PiecewiseLinear(
            ctime_ms=was.ctime_ms, value=OFF * was.value, beyond=was.beyond
        ),
    )


def _cells(machine: MachineFile) -> MachineFile:
    less = tuple(replace(item, count=item.count / OFF) for item in machine.impedance)
    return replace(machine, impedance=less)


def _impedance(machine: MachineFile) -> MachineFile:
    more = tuple(replace(item, r_shunt_ohm=OFF * item.r_shunt_ohm) for item in machine.impedance)
    return replace(machine, impedance=more, space_charge_g=OFF * machine.space_charge_g)


_BASE = (
    Condition(name="still", words="the offset stands still"),
    Condition(
        name="bunch",
        words="still, emittances as of one bunch along the cycle: 0.5 to 0.9 of its smallest bucket",
        options={"one_bunch": True},
        points="programs",
    ),
    Condition(
        name="noise-5", words="still, 5 % noise a slice instead of 2 %", options={"noise": 0.05}
    ),
    Condition(
        name="correlated",
        words="still, the noise of 2 % a slice shared by neighbours over 4 slices",
        correlation_slices=4.0,
    ),
    Condition(name="jitter", words="jitter of 1 degree a shot", options={"offset_jitter_deg": 1.0}),
    Condition(
        name="drift", words="random walk of 0.3 degree a shot", options={"offset_drift_deg": 0.3}
    ),
    Condition(
        name="steps",
        words="the offset steps by 40 degrees before shot 11, by -25 before shot 21",
        faults=(
            {"fault": "offset_jump", "at_cycle": [12], "offset_deg": 40.0},
            {"fault": "offset_jump", "at_cycle": [22], "offset_deg": -25.0},
        ),
    ),
    Condition(
        name="lag",
        words="still, a cavity that lags by 0.3 cycles: 4 % of a change come a shot later",
        options={"settling_cycles": 0.3},
    ),
    Condition(
        name="limited",
        words="still, limits cut every change to 8 to 40 degrees a shot, in each episode to another",
        options=LIMITED,
    ),
    Condition(
        name="flat",
        words="limited, where the field hardly rises, with bunches of 0.4 to 1.2 eV s",
        options={**LIMITED, "flat_share": 1.0, "filling": None, "emittance_evs": (0.4, 1.2)},
        points="random",
    ),
    Condition(
        name="faint",
        words="2e11 protons where the field hardly rises, bunches of 0.3 to 0.8 eV s",
        options={
            "intensity": 2e11,
            "flat_share": 1.0,
            "filling": None,
            "emittance_evs": (0.3, 0.8),
        },
        points="random",
    ),
    Condition(name="1e13", words="intensity of 1e13 protons", options={"intensity": 1e13}),
    Condition(
        name="flipped",
        words="the pick-up has the wrong sign all the time",
        faults=({"fault": "flipped_polarity", "at_cycle": [1], "for_cycles": 1000},),
    ),
    Condition(
        name="dead",
        words="the pick-up is dead in shots 11 to 13, and nothing says so",
        faults=({"fault": "dead_pickup", "at_cycle": [12], "for_cycles": 3},),
    ),
    Condition(
        name="model-gamma-t",
        words="gamma_transition 30 % higher, emittance "
        f"{EMITTANCE_EVS[0]} to {EMITTANCE_EVS[1]} eV s whatever the bucket",
        options={"emittance_evs": EMITTANCE_EVS, "filling": None},
        machine=_gamma_transition,
    ),
    Condition(name="model-cells", words="cavity cells fewer by a factor 1.3", machine=_cells),
    Condition(
        name="model-impedance", words="impedance and space charge 30 % higher", machine=_impedance
    ),
    Condition(
        name="long",
        words="still, 200 shots",
        shots=200,
        default=False,
        points="programs",
    ),
    Condition(
        name="tracked",
        words="the kernel replaced by BLonD tracking, 100,000 macroparticles, three synchrotron periods",
        options={"fidelity": "tracking", "macroparticles": 100_000},
        shots=10,
        default=False,
    ),
)
CONDITIONS: dict[str, Condition] = {
    each.name: each
    for condition in _BASE
    for each in (condition, replace(condition, name=f"{RANDOM}-{condition.name}"))
    if condition.points in ("both", "random" if each.is_random else "programs")
}
"""Every condition by name: on the points of programs, and (`random-…`) on uniformly random ones."""


def chosen(names: Sequence[str]) -> list[Condition]:
    """Return conditions by name; `all`, `programs` and `random` stand for several.

    Raises:
        UnknownNameError: no condition of that name.
    """
    groups: dict[str, Callable[[Condition], bool]] = {
        "all": lambda each: each.default,
        "programs": lambda each: each.default and not each.is_random,
        "random": lambda each: each.default and each.is_random,
    }
    found: dict[str, Condition] = {}
    for name in names:
        if name in groups:
            found |= {key: each for key, each in CONDITIONS.items() if groups[name](each)}
        elif name in CONDITIONS:
            found[name] = CONDITIONS[name]
        else:
            raise UnknownNameError("condition", name, [*groups, *CONDITIONS])
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class Part:
    """Episodes of a condition that are played in one environment."""

    options: dict[str, Any]
    """Of `memrl/BeamPhase-v0`, the backend among them."""
    episodes: int
    where: str
    """Program or machine."""
    nominal: MachineFile
    """The machine as it is believed to be."""
    correlation_slices: float = 0.0
    """See `Condition`."""
    change: MachineChange | None = None
    """See `Condition.machine`."""

    def known(self, true: Conditions) -> Conditions:
        """Return what the control system believes of the rows, from what they are."""
        if self.change is None:
            return true
        factor = (
            self.change(self.nominal).gamma_transition.value[0]
            / self.nominal.gamma_transition.value[0]
        )
        return true.replace(
            gamma_transition=true.gamma_transition / factor, machine=self.nominal.ring
        )


def parts(
    condition: Condition, episodes: int, programs: Sequence[str | Path], folder: Path
) -> list[Part]:
    """Return the environments that a condition is played in.

    Args:
        condition: what is met.
        episodes: in all, shared equally by the programs.
        programs: names or files.
        folder: for the files that a scenario needs.
    """
    options: dict[str, Any] = {**USUAL, **condition.options, "episode_length": condition.shots}
    options["backend"] = "blond"
    if condition.faults:
        scenario = folder / f"{condition.name}.yaml"
        document = {
            "kind": "scenario",
            "description": condition.words,
            "faults": [dict(fault) for fault in condition.faults],
        }
        write_output(scenario, yaml.safe_dump(document))
        options |= {"backend": "twin", "scenario": str(scenario)}
    common: dict[str, Any] = {
        "correlation_slices": condition.correlation_slices,
        "change": condition.machine,
    }
    if condition.correlation_slices > 0.0:
        options["noise"] = 0.0
    if condition.is_random:
        machine: str | Path = MACHINE
        nominal = load_machine(MACHINE)
        if condition.machine is not None:
            machine = folder / f"{condition.name}-machine.yaml"
            save_machine(condition.machine(nominal), machine, force=True)
        return [
            Part(
                options={**options, "machine": str(machine)},
                episodes=episodes,
                where=MACHINE,
                nominal=nominal,
                **common,
            )
        ]
    shared = [episodes // len(programs)] * len(programs)
    for k in range(episodes - sum(shared)):
        shared[k] += 1
    found = []
    for name, count in zip(programs, shared, strict=True):
        program = load_program(name)
        true = _as_true(program, condition)
        part = Part(
            options={**options, "program": true},
            episodes=count,
            where=str(name),
            nominal=program.machine,
            **common,
        )
        found += [part] if count else []
    return found


def _as_true(program: CycleProgram, condition: Condition) -> CycleProgram:
    if condition.machine is None:
        return program
    return dataclasses.replace(program, machine=condition.machine(program.machine))
