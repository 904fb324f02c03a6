"""`python -m streams` is `demur`."""

from streams.cli import main

if __name__ == "__main__":
    main()
