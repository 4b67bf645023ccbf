"""How a stage becomes processes: one, several on a node, several nodes under SLURM."""
