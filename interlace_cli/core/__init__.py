"""One module for each command, of the same name; they meet only in artifacts, and in `run`."""
