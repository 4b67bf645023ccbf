"""What other programs and people take: CSV, JSON and LaTeX of many runs, and the files that leaderboards ask for."""
