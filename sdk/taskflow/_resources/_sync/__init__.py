"""The sync faces of the resources, generated from `_async`."""
