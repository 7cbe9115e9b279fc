"""python -m latenight."""

from latenight.cli import main

main()
