"""How much memory a stage takes on a device: the estimate, the launch mode that fits, what to change when none does."""
