"""The replicator: pulls peers' logs into this region's mirrors, and keeps logs, mirrors and records in bounds."""
