"""`python -m sdtune`: the same as the command `sdtune`."""

from sdtune.cli.main import main

if __name__ == "__main__":
    main()
