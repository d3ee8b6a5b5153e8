"""``python -m gnn_mtl`` is ``gnn-mtl``."""

import sys

from gnn_mtl.cli import main

if __name__ == "__main__":
    sys.exit(main())
