"""Floor 0: typed errors, the seed tree, optional imports, atomic files, ranks and progress.

Nothing here imports anything else of the project, so every room may use it.
"""
