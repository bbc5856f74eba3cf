"""``python -m vision VERB RUN``: evaluate, predict, sample, export or describe a run."""

import sys

from vision.launch.verbs import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
