"""The command line: `samebits`, with a sub-command for everything that a user types."""
