"""The tests. A package of its own: some wheels put another `tests` into site-packages."""
