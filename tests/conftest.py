"""Settings of the whole suite."""

import os

from hypothesis import settings

# `make test` judges a change by the same examples each time (--hypothesis-profile=ci); elsewhere
# hypothesis searches.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "search")
