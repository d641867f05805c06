"""`python -m sdtune`: the command line where the script is not on the path."""

from __future__ import annotations

from sdtune.cli.main import main

if __name__ == "__main__":
    main()
