"""The drill: real faults on a real cluster, a recorded history, and a certificate that anyone can check."""
