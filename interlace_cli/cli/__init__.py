"""The command line: it parses, calls one core function, and shows what came back. Importing it loads nothing heavy."""
