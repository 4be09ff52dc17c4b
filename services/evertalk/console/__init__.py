"""What operators look at; needs nothing of a region that is gone (P10)."""
