"""What users need to test their workflows without a model: an engine that follows a script, and a cluster
in the test's own process.

A deployment names the engine ``scripted``; its arguments are those of `ScriptedEngine`.

Examples
--------
>>> async def test_the_answer_is_polite():  # doctest: +SKIP
...     async with InProcessCluster(deployment("small", "large", text="At your service.")) as cluster:
...         future = cluster.client.compute(rag(question="Are you there?"))
...         assert "service" in (await future).text
"""

from dask_fmware.testing.cluster import InProcessCluster, deployment
from dask_fmware.testing.scripted import Rule, ScriptedEngine

__all__ = ["InProcessCluster", "Rule", "ScriptedEngine", "deployment"]
