"""Which software and which processor made a trace."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = (
    "memrl-ctrl",
    "numpy",
    "scipy",
    "numba",
    "gymnasium",
    "pyzmq",
    "h5py",
    "onnxruntime",
    "msgspec",
    "google-crc32c",
    "cryptography",
    "blond",
    "torch",
)
"""Libraries whose versions a trace records where they are installed."""
COMPUTING = ("numpy", "onnxruntime")
"""Libraries whose versions decide whether a replay is identical to the bit."""
CPUINFO = Path("/proc/cpuinfo")


def library_versions(names: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Return the versions of the installed ones among `names`, and Python's; imports none."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment_fingerprint() -> dict[str, str]:
    """Return what must be equal for a policy's replay to be identical to the bit.

    Processor architecture, model and instruction set extensions (they choose onnxruntime's
    kernels), the C library, and the versions of what computes.
    """
    model, flags = _processor()
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu_model": model,
        "cpu_flags_sha256": hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()[:16],
        "libc": " ".join(platform.libc_ver()),
        "cpus": str(os.cpu_count() or 0),
        **library_versions(COMPUTING),
    }


def _processor() -> tuple[str, list[str]]:
    """Return the first processor's model name and its instruction set flags."""
    model = platform.processor()
    flags: list[str] = []
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return model, flags
    for line in lines:
        key, _, value = line.partition(":")
        match key.strip():
            case "model name":
                model = value.strip()
            case "flags" | "Features":
                flags = value.split()
            case "":
                break  # only the first processor
    return model, flags
