"""`lume-run-compare`: which method is best, all tuned alike and then run on fresh seeds.

`sweeper` tunes and runs, `standings` ranks what came out, `write` puts it into tables, a plot and a page.
"""
