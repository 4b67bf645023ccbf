"""How much memory a run needs, in which launch mode it fits, and what makes it smaller."""
