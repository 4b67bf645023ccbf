"""One Hydra job, and many runs from one command: grids, searches with Optuna, arrays of SLURM jobs."""

from omegaconf import OmegaConf

from lume_run.sweeps.names import name_for_hydra

OmegaConf.register_new_resolver("lume_run_name", name_for_hydra, replace=True)  # in every process that has jobs
