"""The demo: two workflows on a small cluster of this machine, under load, measured.

`session` is the whole of it from start to end. What it runs is in `rag` and `shopping`, on the cluster
of ``deployment.yaml``; what it submits is decided in `schedule` (pure) and done by `drive`; `summary`
(pure) and `record` say what came out.
"""
