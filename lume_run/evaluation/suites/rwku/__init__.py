"""RWKU: what is asked about targets and neighbors, and the table of the paper."""
