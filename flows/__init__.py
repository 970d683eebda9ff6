"""The Prefect side of prefect-tune: the experiment flow, its trial task, and what they run on.

The only package that imports Prefect, prefect-ray and Ray. Import its modules directly:
`flows.experiment.experiment` is the flow. This file stays empty of imports, since Prefect's
server loads it too.
"""
