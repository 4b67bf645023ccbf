"""The built-in generator: documents about people who do not exist, so that a run needs no data files."""
