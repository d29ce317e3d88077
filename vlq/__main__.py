"""`python -m vlq` is `vlq`, for where the command is not on the path."""

from vlq.query.cli import main

if __name__ == "__main__":
    main()
