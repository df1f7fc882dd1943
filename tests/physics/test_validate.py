"""The comparison with BLonD itself, in a small size."""

import dataclasses

import pytest

pytest.importorskip("numba")
blond_import = pytest.importorskip("memrl_backends.blond._import")

from memrl_backends.blond.validate import QUICK, plan  # noqa: E402
from memrl_ctrl.errors import MissingExtraError  # noqa: E402
from memrl_ctrl.program import load_machine, load_program  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _blond():
    try:
        blond_import.blond()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("seed", [3, 4])
def test_kernel_and_blond_agree_at_conditions_of_any_seed(seed):
    """Matching with and without wake, tracking at two intensities and along 2 ms of the ramp pass."""
    effort = dataclasses.replace(
        QUICK,
        matching=2,
        stationary=1,
        intensities=(0.0, 9e12),
        particles=50_000,
        ramp_ms=2.0,
    )
    work = plan(load_machine("psb"), [load_program("psb-2gev")], effort, seed)
    parts = []
    found = [task.run(parts.append) for task in work.tasks]
    assert [c.check for c in found] == [
        "matching",
        "matching",
        "matching-wake",
        "stationary-0",
        "stationary-9e12",
        "ramp",
    ]
    for comparison in found:
        assert comparison.passed, (comparison.what, comparison.figures)
    assert min(parts) == 0.0
    assert max(parts) == 1.0
