"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("penstock", deadline=None)  # a busy machine makes any example slow; a hang has a timeout
settings.load_profile("penstock")
