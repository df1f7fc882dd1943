"""Memory-based reinforcement learning control of the PS Booster's second-harmonic RF phase.

Importing this package pulls neither torch nor BLonD.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("memrl-ctrl")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
