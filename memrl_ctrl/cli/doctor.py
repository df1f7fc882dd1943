"""`memrl-ctrl doctor`: what works on this machine, and why the rest does not."""

from __future__ import annotations

import importlib
import os
import platform

import numpy as np
from rich.markup import escape
from rich.table import Table

from memrl_ctrl import __version__, registry
from memrl_ctrl.errors import BeamError, MemrlError
from memrl_ctrl.installed import NEEDS, library_versions, missing, requirements
from memrl_ctrl.terminal import Terminal

THREAD_VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_WAIT_POLICY")


def doctor() -> int:
    """Show versions, which extras, commands and backends are usable and why not, and a self-check.

    The self-check matches one bunch with the kernel and holds it against what symmetry demands.
    Exit code 0 if everything of the base install works, 1 otherwise.
    """
    console = Terminal()
    healthy = _versions(console)
    _extras(console)
    _commands(console)
    healthy &= _plugins(console)
    _threads(console)
    healthy &= _kernel(console)
    console.print(
        "[green]Ready.[/green]" if healthy else "[red]Something is wrong: see above.[/red]"
    )
    return 0 if healthy else 1


def _versions(console: Terminal) -> bool:
    table = Table(title=f"memrl-ctrl {__version__} on Python {platform.python_version()}")
    table.add_column("base package")
    table.add_column("version")
    base = requirements()[""]
    found = library_versions(base)
    for name in base:
        table.add_row(name, found.get(name, "[red]missing[/red]"))
    console.print(table)
    return all(name in found for name in base)


def _extras(console: Terminal) -> None:
    table = Table(title="Extras")
    table.add_column("extra")
    table.add_column("usable")
    table.add_column("what is there, or how to get it")
    for extra, names in requirements().items():
        if not extra:
            continue
        found = library_versions(names)
        absent = [name for name in names if name not in found]
        words = ", ".join(f"{name} {found[name]}" for name in names if name in found)
        if absent:
            words = f'{", ".join(absent)} missing: pip install "memrl-ctrl[{extra}]"'
        table.add_row(extra, "no" if absent else "yes", escape(words))
    console.print(table)


def _commands(console: Terminal) -> None:
    """Say of each command whether what is installed is enough for it."""
    table = Table(title="Commands")
    table.add_column("usable")
    table.add_column("command")
    names = sorted({*registry.points(registry.COMMANDS), *NEEDS})
    table.add_row("yes", ", ".join(name for name in names if missing(name) is None))
    for name in names:
        problem = missing(name)
        if problem is not None:
            table.add_row("[yellow]no[/yellow]", escape(str(problem)))
    console.print(table)


def _plugins(console: Terminal) -> bool:
    table = Table(title="Plug-ins that load")
    table.add_column("kind")
    table.add_column("usable")
    table.add_column("not usable, and why")
    healthy = True
    kinds = {
        "backend": registry.BACKENDS,
        "command": registry.COMMANDS,
        "reward": registry.REWARDS,
        "benchmark": registry.BENCHMARKS,
    }
    for kind, group in kinds.items():
        good, bad = [], []
        for name in sorted(registry.points(group)):
            try:
                registry.load(group, kind, name)
                good.append(name)
            except MemrlError as error:
                bad.append(str(error))
            except (ImportError, AttributeError) as error:
                bad.append(f"{name}: {error}")
                healthy = False
        table.add_row(kind, ", ".join(good), "\n".join(bad))
    console.print(table)
    return healthy


def _threads(console: Terminal) -> None:
    settings = ", ".join(f"{name}={os.environ.get(name, '(not set)')}" for name in THREAD_VARIABLES)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    console.print(f"Processors: {usable} usable of {os.cpu_count()}; {settings}")


def _kernel(console: Terminal) -> bool:
    """Match one bunch: at Bdot = 0 and phi_2 = 0 its profile must mirror itself."""
    try:
        beam = importlib.import_module("memrl_ctrl.beam")
        conditions = beam.Conditions(
            b_field_t=0.5,
            b_dot_t_per_s=0.0,
            v1_v=8e3,
            v2_v=4e3,
            phi2_rad=0.0,
            emittance_evs=1.0,
            intensity=5e12,
            machine=beam.Machine(space_charge_g=2.0),
        )
        profile = np.asarray(
            beam.matched_profiles(conditions, 256).line_density[0], dtype=np.float64
        )
    except (BeamError, ImportError) as error:
        console.print(f"[red]Kernel: {error}[/red]")
        return False
    lopsided = float(np.abs(profile - profile[::-1]).max() / profile.max())
    area = float(profile.sum() * 2.0 * np.pi / 256)
    good = lopsided < 1e-3 and abs(area - 1.0) < 1e-3
    colour = "green" if good else "red"
    console.print(
        f"[{colour}]Kernel: profile mirrors itself to {lopsided:.1e} of its peak, "
        f"area {area:.6f} (both should be below 1e-3, 1)[/{colour}]"
    )
    return good
