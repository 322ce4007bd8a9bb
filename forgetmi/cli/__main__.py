"""``python -m forgetmi.cli``."""

from forgetmi.cli import main

main()
