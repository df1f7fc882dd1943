"""The reference optimum: the phase between the harmonics at which a bunch is best."""

from __future__ import annotations

from typing import Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from memrl_ctrl.angles import wrap
from memrl_ctrl.beam import _prepare, _search, _solver
from memrl_ctrl.beam.conditions import Conditions
from memrl_ctrl.beam.machine import Array
from memrl_ctrl.errors import UnknownNameError

Criterion: TypeAlias = Literal["symmetry", "equal-wells", "bunching-factor"]
Reasons: TypeAlias = npt.NDArray[np.str_]

CRITERIA: dict[str, int] = {
    "symmetry": _search.SYMMETRY,
    "equal-wells": _search.EQUAL_WELLS,
    "bunching-factor": _search.BUNCHING_FACTOR,
}
# Points of a scan of the circle, and of a finer one where that finds nothing: two wells may exist
# within a few degrees of phi2 only.
_SCANS = {
    _search.SYMMETRY: (24, 72),
    _search.EQUAL_WELLS: (72, 360),
    _search.BUNCHING_FACTOR: (24, 24),
    _search.LEAST_SKEWNESS: (72, 72),
}
_REASONS = {
    _search.FOUND: "",
    _search.REASON_NO_BUCKET: "no bucket at any phi2: the voltage is too low for this Bdot",
    _search.REASON_NO_ZERO: "the criterion's zero does not exist on the circle of phi2",
    _search.REASON_JUMP: "the criterion changes sign only where the bunch jumps to another bucket",
    _search.REASON_NO_WELLS: "the potential has no two wells at any phi2",
}
_NO_SECOND = "V2 is 0: phi2 has no effect"
_LOW_SECOND = "V2/V1 is not above 0.5: no two inner wells"


@overload
def reference_optimum(
    conditions: Conditions,
    criterion: Criterion = ...,
    *,
    intensity_effects: bool = ...,
    threads: int = ...,
    with_reason: Literal[False] = ...,
) -> Array: ...
@overload
def reference_optimum(
    conditions: Conditions,
    criterion: Criterion = ...,
    *,
    intensity_effects: bool = ...,
    threads: int = ...,
    with_reason: Literal[True],
) -> tuple[Array, Reasons]: ...
def reference_optimum(
    conditions: Conditions,
    criterion: Criterion = "symmetry",
    *,
    intensity_effects: bool = True,
    threads: int = 1,
    with_reason: bool = False,
) -> Array | tuple[Array, Reasons]:
    """The phi2 at which each condition's matched profile is best.

    - `symmetry`: the zero of the profile's skewness (in RF phase increasing with time) in
      bunch-lengthening mode: of the zeros on the circle one where skewness falls with phi2; of
      several, the one with the flattest profile.
    - `equal-wells`: the two inner wells of the potential, wake and space charge included, are
      equally deep (V2/V1 above 0.5).
    - `bunching-factor`: the largest ratio of mean to peak line density.

    Args:
        conditions: the conditions, [n]; their phi2 does not enter.
        criterion: one of the three above.
        intensity_effects: false leaves wake and space charge out.
        threads: threads to share the conditions among.
        with_reason: also return why there is no optimum.

    Returns:
        phi2 in rad, in (-pi, pi], [n]; NaN where no optimum exists. With `with_reason` also one
        sentence for each condition, empty where there is an optimum.

    Raises:
        UnknownNameError: no such criterion.
    """
    if criterion not in CRITERIA:
        raise UnknownNameError("criterion", criterion, CRITERIA)
    low = conditions.v2_v <= (0.5 * conditions.v1_v if criterion == "equal-wells" else 0.0)
    sought = np.flatnonzero(~low)
    answers, codes = _searched(
        CRITERIA[criterion],
        conditions,
        sought,
        intensity_effects=intensity_effects,
        threads=threads,
    )
    if not with_reason:
        return answers
    reasons = np.full(len(conditions), _LOW_SECOND, dtype="U80")
    reasons[conditions.v2_v == 0.0] = _NO_SECOND
    reasons[sought] = [_REASONS[int(code)] for code in codes]
    return answers, reasons


def least_skewed(
    conditions: Conditions, *, intensity_effects: bool = True, threads: int = 1
) -> Array:
    """The phi2 at which each condition's matched profile leans least.

    It takes the place of a reference optimum of criterion `symmetry` where there is none: where two
    zeros of the skewness meet and vanish, the least skewness is left at their place, so that it goes on
    where the reference ends. Where skewness has zeros it is one of them, not always the reference.

    Args:
        conditions: the conditions, [n]; their phi2 does not enter.
        intensity_effects: false leaves wake and space charge out.
        threads: threads to share the conditions among.

    Returns:
        phi2 in rad, in (-pi, pi], [n]; NaN where V2 is 0 or there is no bucket.
    """
    sought = np.flatnonzero(conditions.v2_v > 0.0)
    return _searched(
        _search.LEAST_SKEWNESS,
        conditions,
        sought,
        intensity_effects=intensity_effects,
        threads=threads,
    )[0]


def _searched(
    code: int,
    conditions: Conditions,
    sought: npt.NDArray[np.int64],
    *,
    intensity_effects: bool,
    threads: int,
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Search some of the conditions [n] by a criterion of `_search`.

    Returns:
        phi2 [n], rad, NaN where none was sought or found; what `_search` says of those sought.
    """
    prepared = _prepare.prepare(conditions, intensity_effects=intensity_effects)
    answers = np.full(prepared.count, np.nan)
    parameters, wake = prepared.parameters[sought], prepared.wake[sought]
    half_v2 = 0.5 * conditions.v2_v[sought]
    found = np.empty(sought.size)
    codes = np.empty(sought.size, dtype=np.int64)
    table = _prepare.grid_tables(prepared.harmonics)

    def work(rows: slice) -> None:
        _search.search_batch(
            code,
            half_v2[rows],
            parameters[rows],
            wake[rows],
            table,
            _solver.workspace(prepared.harmonics),
            np.array(_SCANS[code]),
            np.empty(_solver.N_RESULTS),
            found[rows],
            codes[rows],
        )

    _prepare.in_threads(work, sought.size, threads)
    answers[sought] = found
    return wrap(np.where(prepared.mirrored, -answers, answers)), codes
