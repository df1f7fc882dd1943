"""`python -m memrl_ctrl` is `memrl-ctrl`."""

import sys

from memrl_ctrl.cli import main

sys.exit(main())
