"""`samebits check-script`: finds why two runs of a script differ, and the smallest change that makes it repeat."""
