"""Mutation testing of the guard: `make mutate-guard`, or this file with names of its modules.

Every mutant of a module is put in the module's place in a forked child, which runs the guard's unit
tests. A mutant that they do not notice survives. Survivors must stand, each with its reason, in
docs/guard-mutants.md; one that does not fails the run. (mutmut and its like mutate whole source trees
in a copy, which an editable installation does not see; a fork of a process with everything imported
also takes a tenth of the time of a new interpreter.)
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib.abc
import importlib.util
import io
import os
import re
import resource
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
from mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
GUARD = ROOT / "deploy/memrl_deploy/guard"
PACKAGE = "memrl_deploy.guard"
LISTED = ROOT / "docs/guard-mutants.md"
TESTS = sorted(str(path) for path in (ROOT / "tests/unit").glob("test_guard*.py"))
FIRST = {
    "coherence": "",
    "config": "_edges",
    "core": "_edges",
    "health": "_health",
    "outlook": "_outlook",
    "returning": "_returning",
}
"""Whose tests are run first, by the end of the file's name, `_stages` for all others: most mutants are
noticed there."""
SLOW = "across_the_range_does_not"
"""Tests of seconds, of the way back by a turn; only what survives the others is shown to them."""
CPU_S = 40
"""A child that takes more processor time than this does not come to an end: noticed."""

console = Console(highlight=False, soft_wrap=True)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a changed syntax tree."""

    def __init__(self, name: str, tree: ast.Module, path: Path) -> None:
        self._name, self._tree, self._path = name, tree, path

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(self._path))

    def exec_module(self, module: ModuleType) -> None:
        code = compile(self._tree, str(self._path), "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102


def run_tests(chosen: str, module: str = "") -> int:
    """Run the guard's unit tests here, quietly, up to the first failure; return pytest's code.

    Args:
        chosen: which, as pytest's `-k`.
        module: the module that is mutated; its own tests come first.
    """
    own = f"test_guard{FIRST.get(module, '_stages')}.py"
    files = sorted(TESTS, key=lambda path: Path(path).name != own)
    plain = ["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-o", "timeout=0"]
    plain += ["-p", "no:unraisableexception", "-p", "no:xdist", "-k", chosen]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return int(pytest.main([*plain, "--rootdir", str(ROOT), *files]))


def forget() -> None:
    """Drop the guard and its tests from the imported modules: a child imports them anew."""
    for name in list(sys.modules):
        if name.startswith(PACKAGE) or "test_guard" in name:
            del sys.modules[name]


def begin(mutant: Mutant, path: Path, chosen: str) -> int:
    """Fork a child that runs the tests on a mutant; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    spent = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (spent + CPU_S, spent + CPU_S + 5))
    code = 99
    try:
        warnings.simplefilter("ignore")
        sys.meta_path.insert(0, Finder(f"{PACKAGE}.{path.stem}", mutant.tree, path))
        code = run_tests(chosen, path.stem)
    finally:
        os._exit(code)  # whatever was raised: a child never goes on as the parent


def survivors(found: list[Mutant], path: Path, chosen: str, jobs: int) -> list[Mutant]:
    """Return the mutants that the tests do not notice."""
    waiting, running, left = list(reversed(found)), dict[int, Mutant](), []
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            running[begin(mutant, path, chosen)] = mutant
        pid, status = os.wait()
        if os.waitstatus_to_exitcode(status) == 0:
            left.append(running[pid])
        del running[pid]
    return left


def listed() -> set[str]:
    """Return the keys of the survivors that are explained."""
    return set(re.findall(r"^- `(.+?)`:", LISTED.read_text(), flags=re.MULTILINE))


def main() -> int:
    """Run, print each unexplained survivor, and return 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    names = sorted(path.stem for path in GUARD.glob("*.py") if path.stem != "__init__")
    parser.add_argument("modules", nargs="*", metavar="module", help=f"of {', '.join(names)}")
    parser.add_argument("--jobs", type=int, default=2, help="children at a time")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.modules) - set(names))
    if unknown:
        parser.error(f"no module {unknown[0]!r} in the guard; there are {', '.join(names)}")
    os.chdir(ROOT)
    run_tests(f"not {SLOW}")  # so that all else is imported and compiled before the first fork
    forget()
    gc.freeze()  # a child neither looks through nor copies what is here already
    path = GUARD / "core.py"
    as_it_is = Mutant(key="as it is", line=0, tree=ast.parse(path.read_text()))
    slow = "returning" in (chosen.modules or names)
    if not survivors([as_it_is], path, "" if slow else f"not {SLOW}", 1):
        console.print("The guard's unit tests fail on the guard as it is; nothing was mutated.")
        return 2
    explained, new = listed(), 0
    for name in chosen.modules or names:
        path = GUARD / f"{name}.py"
        found = mutants(path.read_text(), path.name)
        left = survivors(found, path, f"not {SLOW}", chosen.jobs)
        if name == "returning":
            left = survivors(left, path, SLOW, chosen.jobs)
        fresh = sorted((one for one in left if one.key not in explained), key=lambda m: m.line)
        gone = {key for key in explained if key.startswith(path.name)} - {m.key for m in left}
        console.print(
            f"{path.name}: {len(found)} mutants, {len(found) - len(left)} noticed, "
            f"{len(left) - len(fresh)} explained, {len(fresh)} neither",
        )
        for one in fresh:
            console.print(f"  line {one.line}: - `{one.key}`:", markup=False)
        for key in sorted(gone):
            console.print(f"  explained, and no longer a survivor: {key}", markup=False)
        new += len(fresh)
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
