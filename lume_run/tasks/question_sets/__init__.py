"""Tasks of questions with answers, in named sets of rows: TOFU, closer-look's real people, and their kin."""
