"""What several tests share, and scripts that tests start: no test stands here."""
