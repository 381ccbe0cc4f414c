"""The async handles of jobs. `make faces` derives the sync ones from them."""
