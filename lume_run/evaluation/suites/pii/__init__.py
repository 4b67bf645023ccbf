"""Private facts that a model still discloses: what is asked, and what the answers give away."""
