"""Which software and which processor made a trace."""

from __future__ import annotations

import hashlib
import os
import platform

from memrl_ctrl.installed import DISTRIBUTION, library_versions, processor, requirements

COMPUTING = ("numpy", "onnxruntime")
"""Libraries whose versions decide whether a replay is identical to the bit."""
OPTIONAL = ("blond", "torch")
"""Optional libraries whose versions a trace records beside those of the base install."""


def recorded_versions() -> dict[str, str]:
    """Return the versions that a trace records: Python's, ours, and of what is installed."""
    return library_versions((DISTRIBUTION, *requirements()[""], *OPTIONAL))


def environment_fingerprint() -> dict[str, str]:
    """Return what must be equal for a policy's replay to be identical to the bit.

    Processor architecture, model and instruction set extensions (they choose onnxruntime's
    kernels), the C library, and the versions of what computes.
    """
    model, flags = processor()
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu_model": model,
        "cpu_flags_sha256": hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()[:16],
        "libc": " ".join(platform.libc_ver()),
        "cpus": str(os.cpu_count() or 0),
        **library_versions(COMPUTING),
    }
