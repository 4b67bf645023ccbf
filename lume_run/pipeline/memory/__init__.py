"""What stages take, estimated: memory, the launch mode that fits, what to change when none does; tokens, operations."""
