"""`python -m absynth.cli`."""

from absynth.cli import main

main()
