"""Fixtures shared by all of Evertalk's tests."""
