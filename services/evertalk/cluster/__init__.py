"""A cluster on this machine: real processes, their places, and the verbs that break them."""
