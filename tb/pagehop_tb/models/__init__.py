"""Models of what surrounds the hardware: hosts and devices."""
