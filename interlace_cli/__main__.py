"""`python -m interlace_cli`."""

from interlace_cli.cli.app import main

if __name__ == "__main__":
    main()
