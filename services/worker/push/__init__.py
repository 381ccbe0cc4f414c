"""Push workers: jobs that run as jobs of another system, such as AWS Batch (S1.8).

A pusher takes jobs as an executor, without a session: an external job outlives the process that submitted it. It
keeps nothing: what an external job is for stands in its name and its labels at the destination, and what is under way
in TaskFlow. So a pusher that starts looks at both sides, adopts the external jobs of attempts that are current, ends
those of attempts that are over, and submits what never was.
"""
