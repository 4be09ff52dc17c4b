"""Tests of the drill harness."""
