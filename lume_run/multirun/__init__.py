"""Many runs from one command: sweeps over a grid, searches with Optuna, arrays of SLURM jobs."""
