"""The command `headrace`. Each module holds one group of verbs; typer and rich are imported here only."""
