"""Lightning wiring and the train command. Only the CLI imports this."""
