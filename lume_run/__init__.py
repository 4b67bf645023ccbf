"""lume-run: train, unlearn and evaluate language models from one command line.

A Hydra group and its package have one name: `task` is `tasks`, `model` is `models`, `method` is `methods`, `trainer` is
`training`, `evaluator` is `evaluation`, `launch` is `launch`, `logger` is `tracking`. `pipeline` runs them as cached
artifacts, `sweeps` runs many pipelines, and `report` writes and compares results. Imports run only downward: `cli`,
`sweeps`, `pipeline`, `tracking`, `report`, `evaluation` and `training`, `models`, `methods` and `tasks`, `launch`,
`config`, `common`.
"""

__version__ = "0.1.0"
