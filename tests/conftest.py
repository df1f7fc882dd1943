"""Settings of the whole suite."""

import os

from hypothesis import settings

# Continuous integration judges a change by the same examples each time; elsewhere hypothesis searches.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "search")
