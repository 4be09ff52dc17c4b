"""Tests of the adapters: contract suites that every backend passes, and each adapter's own."""
