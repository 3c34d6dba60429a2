"""Settings of the whole test suite. Fixtures live beside the tests that use them; shared helpers in tests/support."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadlines: the machines that run this are shared, and a time is no property.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    derandomize=True,  # a red run is a change's fault, never the dice's
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # says how fast the machine is, not whether the code is right
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
