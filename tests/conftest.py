"""Fixtures shared by all of Evertalk's tests."""

from hypothesis import HealthCheck, settings

# Both measure the machine: another program's load must not turn a test red.
settings.register_profile("evertalk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("evertalk")
