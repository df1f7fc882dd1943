"""What a policy has to reach in shadow before it may write: declared in a file, before the run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from memrl_ctrl import __version__
from memrl_ctrl.config.checks import ConfigError, require
from memrl_ctrl.config.reading import checked, read_yaml

SHIPPED = "thresholds.yaml"
"""The file beside this one: the values below with their reasons (a test keeps the two equal)."""


RATES = (
    "max_unseen_rate",
    "max_refused_rate",
    "max_altered_rate",
    "max_unanswered_rate",
    "max_out_of_distribution_rate",
    "max_late_rate",
)
"""Limits of how often something may happen."""
DECLARED_KEY = "thresholds"
"""Name in a run's configuration under which its trace holds them."""
NO_GAIN = -1.0
"""Value of `min_gain` that asks for no gain."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of the figures. The reasons for the defaults stand in `thresholds.yaml` beside this file."""

    min_cycles: int = 3000
    """Fewest cycles in which the policy was asked; 3,000 are an hour."""
    max_unseen_rate: float = 0.02
    """Largest share of cycles between the first and the last that the run did not see."""
    min_compared_rate: float = 0.5
    """Least share of the cycles in which there was a recommendation to compare, at the control point with
    the fewest."""
    tolerance_deg: float = 5.0
    """A recommendation so near to the operators' setting agrees with it, degrees."""
    min_agreement: float = 0.8
    """Least share of points within the tolerance."""
    max_p95_difference_deg: float = 30.0
    """Largest 95th percentile of the difference, degrees."""
    min_sign_agreement: float = 0.7
    """Least share of the operators' moves in the direction that was recommended before them."""
    max_asymmetry_excess: float = 0.0
    """Largest excess of the measured |asymmetry| while the operators were near the recommendation, over
    that while they were not."""
    max_refused_rate: float = 0.001
    """Largest share of cycles in which the guard would have refused the whole function."""
    max_altered_rate: float = 0.1
    """Largest share of points that the guard would have brought within a limit."""
    max_unanswered_rate: float = 0.001
    """Largest share of usable points for which the policy gave no finite answer."""
    max_out_of_distribution_rate: float = 0.02
    """Largest share of points whose reading was unlike those of the training."""
    max_late_rate: float = 0.001
    """Largest share of decisions that took longer than the machine's period."""
    max_decision_p99_ms: float = 50.0
    """Largest 99th percentile of the time from the reading until its record is on the disk, ms."""
    min_gain: float = -1.0
    """Least counterfactual gain in mean |asymmetry|; -1 asks for none."""

    def __post_init__(self) -> None:
        """Refuse limits that no figure can keep."""
        require(self.min_cycles >= 1, f"min_cycles must be at least 1, not {self.min_cycles}")
        for name, most in (("tolerance_deg", 180.0), ("max_p95_difference_deg", 180.0)):
            value = getattr(self, name)
            require(
                0.0 < value <= most, f"{name} must be above 0 and at most {most:g}, not {value}"
            )
        value = self.max_decision_p99_ms
        require(
            0.0 < value < math.inf,
            f"max_decision_p99_ms must be above 0 and finite, not {value}",
        )
        for name in ("max_asymmetry_excess", "min_gain"):
            value = getattr(self, name)
            require(math.isfinite(value), f"{name} must be a finite number, not {value}")
        require(
            self.min_gain >= NO_GAIN,
            f"min_gain must be above {NO_GAIN:g}, or {NO_GAIN:g} to ask for none, not {self.min_gain}",
        )
        # A rate's limit of 95 % is never 0 and, of what is asked for at least, never 1.
        for name in RATES:
            value = getattr(self, name)
            require(
                0.0 < value <= 1.0,
                f"{name} is a share, above 0 (which no number of cycles can show) and at most 1, "
                f"not {value}",
            )
        for name in ("min_agreement", "min_compared_rate", "min_sign_agreement"):
            value = getattr(self, name)
            require(
                0.0 <= value < 1.0,
                f"{name} is a share, 0 or more and below 1 (which no number of cycles can show), "
                f"not {value}",
            )


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Thresholds, and where they come from."""

    thresholds: Thresholds
    path: str
    sha256: str
    written_utc: str = ""
    """When the file was last written; empty for those that come with a release."""
    release: str = ""
    """The release that they come with; empty for a user's file."""

    @property
    def recorded(self) -> dict[str, str]:
        """What a run's trace holds of them, by which a report knows them again."""
        return {"path": self.path, "sha256": self.sha256}

    def doubt(
        self, started_utc: str, recorded_with: str, in_trace: Mapping[str, str] | None = None
    ) -> str:
        """Return why these may not have been declared before a run; empty if they were.

        Args:
            started_utc: start of the run.
            recorded_with: release that recorded it: whoever ran it had that release's thresholds.
            in_trace: what the run's trace holds of thresholds that it was begun with; None: it holds none.
        """
        if in_trace is not None:
            if in_trace.get("sha256") == self.sha256:
                return ""
            return (
                f"the run was begun with other thresholds: {in_trace.get('path')}, SHA-256 "
                f"{str(in_trace.get('sha256'))[:16]}…; give that file with --thresholds"
            )
        if self.release:
            if self.release == recorded_with:
                return ""
            return (
                f"the run was recorded with memrl-ctrl {recorded_with or '(unknown)'} and the thresholds "
                f"are those of {self.release}: whether they stood beforehand is not known; give "
                "--thresholds FILE"
            )
        try:
            before = datetime.fromisoformat(self.written_utc) <= datetime.fromisoformat(started_utc)
        except (ValueError, TypeError):  # no date, or one without a zone
            before = False
        if before:
            return ""
        return (
            f"the thresholds were written ({self.written_utc}) after the run began ({started_utc}): "
            "they were not declared beforehand"
        )

    def words(self, in_trace: Mapping[str, str] | None = None) -> str:
        """Say where they come from, and how sure it is that they stood before the run.

        Args:
            in_trace: as for `doubt`.
        """
        digest = f"SHA-256 {self.sha256[:16]}…"
        if self.release:
            return f"the defaults of memrl-ctrl {self.release} ({SHIPPED}, {digest}), for want of others"
        if in_trace is not None and in_trace.get("sha256") == self.sha256:
            return f"{self.path}, {digest}, declared when the run began: the trace holds the digest"
        return (
            f"{self.path}, {digest}, written {self.written_utc} by the file's own date, which anybody can "
            "set; `memrl-ctrl shadow --thresholds FILE` puts the digest into the trace"
        )


def recorded_in(configuration: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the thresholds that a run was begun with, from its recorded configuration; None without any."""
    found = configuration.get(DECLARED_KEY)
    return found if isinstance(found, dict) and "sha256" in found else None


def load_thresholds(path: str | Path | None) -> Declared:
    """Read thresholds from a YAML file; None reads those that come with this release.

    Raises:
        FileError: the file cannot be read, or is no mapping.
        UsageError: an unknown key, or a value that cannot be.
    """
    file = Path(str(files(__package__) / SHIPPED)) if path is None else Path(path)
    try:
        found = checked(read_yaml(file, "thresholds"), Thresholds, "thresholds")
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if path is None:
        return Declared(thresholds=found, path=str(file), sha256=digest, release=__version__)
    written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    return Declared(
        thresholds=found,
        path=str(file),
        sha256=digest,
        written_utc=written.isoformat(timespec="seconds"),
    )
