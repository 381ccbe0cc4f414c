"""`python -m taskflow._cli`, where the script is not on the path."""

from taskflow._cli import main

main()
