"""Load tests: what a cluster costs per message and how long messages take, measured from outside."""
