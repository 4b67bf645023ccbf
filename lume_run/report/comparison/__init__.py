"""The comparison of many runs (`lume-run-report`, in `main.py`).

`run_folders` reads runs, `columns` and `configs` say what can be compared, `summary` groups over seeds and finds the
best, `fronts` and `published` add Pareto fronts and the numbers of others; `terminal`, `export`, `plots` and `page`
write the result.
"""
