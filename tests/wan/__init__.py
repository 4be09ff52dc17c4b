"""Tests of the WAN proxy."""
