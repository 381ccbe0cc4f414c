"""The async faces of the resources. `make faces` derives the sync ones from them."""
