"""Tasks: raw files, or a built-in generator, to `records.TaskData`; one file per benchmark."""
