"""`python -m lipcompile` is `lipcompile`."""

from lipcompile.cli.main import main

main()
