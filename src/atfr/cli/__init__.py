"""The command line: one module a command, imported only when the command is run. Nothing imports this room."""
