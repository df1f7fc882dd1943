"""Classical controllers of phi_2, called like a policy; see `docs/controllers.md`."""

from memrl_ctrl.controllers.catalogue import available, drive, make
from memrl_ctrl.controllers.core import Controller, Driven

__all__ = ["Controller", "Driven", "available", "drive", "make"]
