"""``python -m featstore`` is the ``featstore`` command."""

from featstore.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
