"""The world: Redis, SQLite, gRPC, clocks. Nothing else imports those libraries."""
