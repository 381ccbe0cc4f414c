"""Programs of the Makefile: they make and verify derived files. No part of what is shipped."""
