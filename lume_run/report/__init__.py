"""One run as tables, plots and files; many runs in `comparison`."""
