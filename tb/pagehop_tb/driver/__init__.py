"""What a hypervisor does with the hardware: one API over all mechanisms, and the driver of each block."""
