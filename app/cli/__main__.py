"""``python -m app.cli``: the command ``cytosynth`` without its script."""

from app.cli.commands import main

if __name__ == "__main__":
    main()
