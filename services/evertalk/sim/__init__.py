"""Deterministic simulation: the real node, replicator and client on virtual time, from one integer seed."""
