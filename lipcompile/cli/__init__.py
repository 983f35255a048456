"""The command line: one small module per command, over one library call each."""
