"""A linear probe: what of an episode's secret can be read from the memory, and for how long.

A read-out is fitted on some episodes and scored on others (Alain and Bengio 2016, arXiv 1610.01644):
logistic regression for classes, ridge regression for numbers, for angles of their sine and cosine. The
same from the present observation alone says what needs no memory; chance is what needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.training.memory.linear import ReadOut, logistic, ridge
from memrl_ctrl.training.memory.recording import Moments
from memrl_ctrl.training.memory.secrets import Secret

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

EDGES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
"""Lags at which a group of them begins."""
TESTED = 0.4
"""Share of the episodes that the probe is tested on."""
MOST_SAMPLES = 8_000
"""Decisions that a read-out is fitted to."""
FEWEST_IN_GROUP = 15
"""Decisions that a score is taken of; lags with fewer are joined with the next ones."""
FEWEST_EPISODES = 10
"""With fewer there is nothing to fit to and to test on."""
RESAMPLES = 1_000


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well a secret is read; 1 is always, and right."""

    memory: float
    """From the memory."""
    observation: float
    """From the present observation alone."""
    chance: float
    """From neither: the most frequent class, or the mean."""


@dataclass(frozen=True, kw_only=True)
class AtLag(Scores):
    """Scores of some lags."""

    first: int
    """Smallest lag, steps."""
    last: int
    """Largest lag."""
    decisions: int
    """How many there were in the episodes that were tested."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What is known of one secret."""

    secret: Secret
    overall: Scores
    """Over all decisions for which it must be remembered: after it was seen, and out of sight."""
    interval: tuple[float, float]
    """Of `overall.memory`: 95 % bootstrap interval over episodes."""
    by_lag: tuple[AtLag, ...]
    """Scores against the time since it was seen; 0 is in sight."""
    before: AtLag | None
    """Before it was seen first, where nothing can be known; None where it always was."""
    error_deg: tuple[float, float] | None
    """Of angles: median error read from the memory and from the observation, degrees."""
    episodes: tuple[int, int]
    """Episodes that it was fitted to, and tested on."""
    penalty: float
    """The one that was chosen for the memory."""
    read_out: ReadOut
    """From the units to the secret."""
    units: NDArray[np.bool_]
    """Which units of the state count [units]."""
    column: int
    """Which of the recorded secrets it is."""
    span: tuple[float, float]
    """Smallest and largest value that was recorded."""

    @property
    def score_words(self) -> str:
        """What is counted."""
        return "share that is right" if self.secret.kind == "class" else "R²"

    def decode(self, state: NDArray[Any]) -> Floats:
        """Return what states [samples, units] say: probability of each class, the number, or rad."""
        outputs = self.read_out(np.asarray(state, dtype=np.float64)[:, self.units])
        if self.secret.kind == "class":
            powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            shares: Floats = powers / powers.sum(axis=1, keepdims=True)
            return shares
        if self.secret.kind == "angle":
            return np.arctan2(outputs[:, :1], outputs[:, 1:])
        return outputs

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "secret": self.secret.name,
            "kind": self.secret.kind,
            "score": self.score_words,
            **vars(self.overall),
            "memory_interval_95": list(self.interval),
            "median_error_deg": None if self.error_deg is None else list(self.error_deg),
            "episodes_fitted": self.episodes[0],
            "episodes_tested": self.episodes[1],
            "penalty": self.penalty,
            "since": self.secret.since,
            "by_lag": [vars(row) for row in self.by_lag],
            "before": None if self.before is None else vars(self.before),
        }


def fit_probe(
    moments: Moments, secret: Secret, column: int, units: NDArray[np.bool_], seed: int = 0
) -> Probe | None:
    """Fit and test a probe.

    Args:
        moments: decisions of many episodes.
        secret: what is to be read.
        column: which of the secrets of `moments` it is.
        units: which units of the state count [units].
        seed: parts the episodes, and draws samples.

    Returns:
        None where the secret never differs, or there is too little of it.
    """
    rng = np.random.default_rng(seed)
    hidden = moments.hidden[:, column]
    moments = moments.where(np.isfinite(hidden))
    hidden, lag = moments.hidden[:, column], moments.lag[:, column]
    rows = np.unique(moments.row)
    tested = rng.permutation(rows)[: round(TESTED * len(rows))]
    is_test = np.isin(moments.row, tested)
    fit_on = np.flatnonzero(~is_test & (lag >= 0))
    if len(rows) < FEWEST_EPISODES or not fit_on.size or np.unique(hidden[fit_on]).size < 2:
        return None
    fit_on = np.sort(rng.permutation(fit_on)[:MOST_SAMPLES])
    targets = _targets(hidden, secret)
    test = np.flatnonzero(is_test)
    groups = moments.row[fit_on]
    read, outputs = {}, {}
    for name, features in (
        ("memory", moments.state[:, units]),
        ("observation", moments.observation),
    ):
        x = features[fit_on].astype(np.float64)
        if secret.kind == "class":
            chosen = hidden[fit_on].astype(np.int64)
            read[name] = logistic(x, chosen, groups, len(secret.classes))
        else:
            read[name] = ridge(x, targets[fit_on], groups)
        outputs[name] = read[name](features[test].astype(np.float64))
    outputs["chance"] = np.broadcast_to(targets[fit_on].mean(axis=0), targets[test].shape)
    result = _Result(outputs, targets[test], lag[test], secret)
    needed = result.needed
    if not result.counts(needed):
        return None
    return Probe(
        secret=secret,
        overall=Scores(**result.scores(needed)),
        interval=result.interval(needed, moments.row[test], rng),
        by_lag=tuple(result.grouped()),
        before=result.at(-1, -1),
        error_deg=_errors(outputs, hidden[test], needed) if secret.kind == "angle" else None,
        episodes=(len(rows) - len(tested), len(tested)),
        penalty=read["memory"].penalty,
        read_out=read["memory"],
        units=units,
        column=column,
        span=(float(hidden.min()), float(hidden.max())),
    )


class _Result:
    """What read-outs said of the decisions that were held out.

    Args:
        outputs: of `memory`, `observation` and `chance` [samples, outputs].
        targets: what they should be.
        since: lags [samples].
        secret: which.
    """

    def __init__(
        self, outputs: dict[str, Floats], targets: Floats, since: NDArray[np.int64], secret: Secret
    ) -> None:
        self._since, self._apart = since, secret.shown is not None
        self._possible = _possible(outputs["chance"], targets, secret)
        self._worth = {n: _worth(o, targets, self._possible, secret) for n, o in outputs.items()}
        self.needed: Mask = since >= (1 if self._apart else 0)
        """Decisions for which it must be remembered."""

    def counts(self, mask: Mask) -> bool:
        """Whether there is enough for a score."""
        return bool(mask.sum() >= FEWEST_IN_GROUP and self._possible[mask].sum() > 0.0)

    def scores(self, mask: Mask) -> dict[str, float]:
        """Return the scores of some decisions, by what they are read from."""
        total = float(self._possible[mask].sum())
        return {name: float(good[mask].sum()) / total for name, good in self._worth.items()}

    def at(self, first: int, last: int) -> AtLag | None:
        """Return the scores of some lags; None where there are too few decisions."""
        mask = (self._since >= first) & (self._since <= last)
        if not self.counts(mask):
            return None
        reached = int(self._since[mask].max())
        return AtLag(first=first, last=reached, decisions=int(mask.sum()), **self.scores(mask))

    def grouped(self) -> Iterator[AtLag]:
        """Yield scores of growing lags, joining those that are too few; what is in sight stands apart."""
        first = 0
        for edge in (*EDGES[1:], int(self._since.max()) + 1):
            group = self.at(first, edge - 1) if edge > first else None
            if group is not None:
                yield group
            if group is not None or (self._apart and first == 0):
                first = max(edge, first)

    def interval(
        self, mask: Mask, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[float, float]:
        """Bootstrap interval of the memory's score over whole episodes (95 %, percentile)."""
        _, number = np.unique(rows[mask], return_inverse=True)
        worth = np.bincount(number, weights=self._worth["memory"][mask])
        possible = np.bincount(number, weights=self._possible[mask])
        draws = rng.integers(len(worth), size=(RESAMPLES, len(worth)))
        shares = worth[draws].sum(axis=1) / possible[draws].sum(axis=1)
        low, high = np.percentile(shares, (2.5, 97.5))
        return float(low), float(high)


def _targets(hidden: Floats, secret: Secret) -> Floats:
    """Return what is fitted [samples, outputs]."""
    if secret.kind == "class":
        return np.eye(len(secret.classes))[hidden.astype(np.int64)]
    if secret.kind == "angle":
        return np.stack([np.sin(hidden), np.cos(hidden)], axis=1)
    return hidden[:, None]


def _possible(chance: Floats, targets: Floats, secret: Secret) -> Floats:
    """Return what each decision adds to a score's denominator [samples]."""
    if secret.kind == "class":
        return np.ones(len(targets))
    return np.asarray(np.square(chance - targets).sum(axis=1))


def _worth(outputs: Floats, targets: Floats, possible: Floats, secret: Secret) -> Floats:
    """Return what each decision adds to a score's numerator [samples].

    Of classes 1 where it is right. Of numbers the squared error that chance makes and the read-out does
    not: the score is then 1 - squared error / squared error of the mean, R².
    """
    if secret.kind == "class":
        return np.asarray(outputs.argmax(axis=1) == targets.argmax(axis=1), dtype=np.float64)
    return np.asarray(possible - np.square(outputs - targets).sum(axis=1))


def _errors(
    outputs: dict[str, Floats], hidden: Floats, seen: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return the median error of angles that were read, degrees."""
    found = []
    for name in ("memory", "observation"):
        angle = np.arctan2(outputs[name][:, 0], outputs[name][:, 1])
        error = np.angle(np.exp(1j * (angle - hidden)))
        found.append(float(np.degrees(np.median(np.abs(error[seen])))))
    return found[0], found[1]
