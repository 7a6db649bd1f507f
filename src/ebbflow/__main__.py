"""`python -m ebbflow` is `ebbflow`."""

from ebbflow.cli import main

main()
