"""Settings of Hypothesis for the core tests."""

from hypothesis import settings

# Examples that compute take as long as the machine is busy; pytest-timeout ends what hangs.
settings.register_profile("core", deadline=None)
settings.load_profile("core")
