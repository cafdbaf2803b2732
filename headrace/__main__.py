"""`python -m headrace`: the command line, for where the `headrace` script is not on the path."""

from headrace.compiler.cli.app import main

if __name__ == "__main__":
    main()
