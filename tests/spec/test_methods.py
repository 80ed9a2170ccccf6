"""Methods as tasks."""

from __future__ import annotations

import cloudpickle

from dask_fmware.spec.tracing import task, trace


class Shop:
    def __init__(self, city: str) -> None:
        self.city = city

    @task
    def find(self, article: str) -> str:
        return f"{article} in {self.city}"

    @task
    @staticmethod
    def upper(text: str) -> str:
        return text.upper()


def test_a_method_is_a_task_of_its_object():
    shop = Shop("Bern")
    assert shop.find("tea") == "tea in Bern"
    made = trace(lambda article: shop.upper(shop.find(article)), name="w")
    assert [node.name for node in made.block.nodes] == ["find", "upper"]
    assert made.functions["find"]("tea") == "tea in Bern"
    assert made.functions["upper"]("tea") == "TEA"
    travelled = cloudpickle.loads(cloudpickle.dumps(made.functions["find"]))
    assert travelled("tea") == "tea in Bern"


def test_a_method_without_its_object_is_a_function_of_it():
    assert Shop.find(Shop("Bern"), "tea") == "tea in Bern"
