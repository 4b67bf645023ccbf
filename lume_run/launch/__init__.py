"""How a stage becomes processes: one process, several on a node, or several nodes of a SLURM allocation."""
