"""`python -m passreid`, which is also what torchrun starts."""

from passreid.cli import main

main()
