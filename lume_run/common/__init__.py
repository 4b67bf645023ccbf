"""What every package uses: errors, records, files, the console."""
