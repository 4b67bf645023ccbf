"""Bad inputs for the real command: every one is refused with what is wrong, where, and what to do.

`python tests/hostile/main.py` (or `make hostile`) runs them all; `test_hostile.py` a share of them.
"""
