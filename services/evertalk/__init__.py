"""Evertalk: gRPC chat nodes in several regions, replicated through Redis Streams."""

__version__ = "0.1.0"
