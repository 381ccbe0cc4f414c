"""What the Makefile calls: derived things made and verified. No part of what is shipped."""
