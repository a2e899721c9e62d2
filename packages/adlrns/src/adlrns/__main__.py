"""`python -m adlrns`."""

from adlrns._cli import main

if __name__ == "__main__":
    main()
