"""The page of many runs: one HTML file that needs no server."""
