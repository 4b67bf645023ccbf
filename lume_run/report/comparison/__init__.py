"""Many runs as one: read run folders, summarise over seeds, and show who won at what cost (`lume-run-report`)."""
