"""What is planned and what was recorded: typed configuration, identities, rows, the store. Loads no torch."""
