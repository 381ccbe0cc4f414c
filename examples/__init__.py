"""Example applications, as a user of TaskFlow would write them: they import `taskflow` and nothing of `services`.

`demo` is none of them: it starts a cluster for the shop.
"""
