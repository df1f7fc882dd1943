"""What a policy has to reach in shadow before it may write: declared in a file, before the run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from memrl_ctrl import __version__
from memrl_ctrl.config.checks import require
from memrl_ctrl.config.reading import checked, read_yaml

SHIPPED = "thresholds.yaml"
"""The file beside this one: the values below with their reasons (a test keeps the two equal)."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of the figures. The reasons for the defaults stand in `thresholds.yaml` beside this file."""

    min_cycles: int = 3000
    """Fewest cycles in which the policy was asked; 3,000 are an hour."""
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
    max_unanswered_rate: float = 0.0005
    """Largest share of usable points for which the policy gave no finite answer."""
    max_out_of_distribution_rate: float = 0.02
    """Largest share of points whose reading was unlike those of the training."""
    max_late_rate: float = 0.001
    """Largest share of cycles decided after the deadline."""
    max_decision_p99_ms: float = 50.0
    """Largest 99th percentile of the time from reading to decision, ms."""
    min_gain: float = -1.0
    """Least counterfactual gain in mean |asymmetry|; below 0 a gain is not asked for."""

    def __post_init__(self) -> None:
        """Refuse limits that no figure can keep."""
        require(self.min_cycles >= 1, f"min_cycles must be at least 1, not {self.min_cycles}")
        require(
            0.0 < self.tolerance_deg <= 180.0,
            f"tolerance_deg must be above 0 and at most 180, not {self.tolerance_deg}",
        )
        for name in (
            "min_agreement",
            "min_sign_agreement",
            "max_refused_rate",
            "max_altered_rate",
            "max_unanswered_rate",
            "max_out_of_distribution_rate",
            "max_late_rate",
        ):
            value = getattr(self, name)
            require(0.0 <= value <= 1.0, f"{name} is a share: 0 to 1, not {value}")


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

    def doubt(self, started_utc: str, recorded_with: str) -> str:
        """Return why these may not have been declared before a run; empty if they were.

        Args:
            started_utc: start of the run.
            recorded_with: release that recorded it: whoever ran it had that release's thresholds.
        """
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

    @property
    def words(self) -> str:
        """Where they come from, for people."""
        digest = f"SHA-256 {self.sha256[:16]}…"
        if self.release:
            return f"the defaults of memrl-ctrl {self.release} ({SHIPPED}, {digest}), for want of others"
        return f"{self.path}, written {self.written_utc}, {digest}"


def load_thresholds(path: str | Path | None) -> Declared:
    """Read thresholds from a YAML file; None reads those that come with this release.

    Raises:
        FileError: the file cannot be read, or is no mapping.
        UsageError: an unknown key, or a value that cannot be.
    """
    file = Path(str(files(__package__) / SHIPPED)) if path is None else Path(path)
    found = checked(read_yaml(file, "thresholds"), Thresholds, f"{file}")
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
