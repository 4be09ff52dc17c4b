"""The scripts of all drills, by what they break."""

BREAK, MEND = 0.35, 0.7  # shares of the load between which most faults last
SHORT_S = 20.0  # enough load for a fault that lasts seconds
