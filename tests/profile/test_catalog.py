from __future__ import annotations

import pytest

from dask_fmware.errors import SpecError
from dask_fmware.profile.catalog import catalog, find, look_up, names
from dask_fmware.spec.deployment import Deployment


def test_the_catalog_covers_ten_cards_and_says_where_each_figure_is_from() -> None:
    cards = {profile.key.accelerator.split(" x")[0] for profile in catalog()}
    assert cards >= {"T4", "A10", "A100", "H100", "H200", "B200", "L40S", "MI300X", "V100", "GH200"}
    for profile in catalog():
        assert profile.provenance.from_catalog
        assert profile.provenance.licence
        assert profile.provenance.source
        assert profile.decode is not None
        assert profile.decode.cv_median_error < 0.1


def test_keys_of_the_catalog_are_unique() -> None:
    assert len({profile.key for profile in catalog()}) == len(catalog())


def test_a_newer_card_is_faster_than_an_older_one() -> None:
    old, new = find("Llama-3.1-8B", "A100").step_law, find("Llama-3.1-8B", "H200").step_law
    assert new.step_s(0, 16, 16_000) < old.step_s(0, 16, 16_000)
    assert new.step_s(4096, 0, 0) < old.step_s(4096, 0, 0)


def test_case_of_a_name_does_not_matter_nor_do_blanks_and_hyphens_of_a_card() -> None:
    assert find("llama-3.1-8b", "h100") is find("Llama-3.1-8B", "H100")
    for name in ("H100 x2", "h100-x2", "H100_x2", "H100x2"):
        assert find("Llama-3.1-8B", name).key.accelerator == "H100 x2"
    with pytest.raises(SpecError, match="H100-x2"):
        find("Llama-3.1-8B", "H100-x3")


def test_each_accelerator_has_a_name_that_a_deployment_may_give_it() -> None:
    for profile in catalog():
        written = profile.key.accelerator.replace(" ", "-")
        Deployment.model_validate({"accelerators": {written: {"cards": 1}}, "models": {"m": {"on": {written: {}}}}})
        assert find(profile.key.model, written).key.accelerator == profile.key.accelerator


def test_a_model_that_is_there_on_other_cards_alone_is_not_found_and_not_refused() -> None:
    assert look_up("Llama-3.1-8B", "L4") is None
    with pytest.raises(SpecError, match="no figures for model"):
        look_up("Llama-3.1-8C", "L4")


def test_timed_steps_are_preferred_to_added_up_kernels() -> None:
    both = [find("Llama-2-70B", "H100 x8"), find("Llama-3.1-70B", "H100 x8")]
    alike = [profile.model_copy(update={"key": both[0].key}) for profile in reversed(both)]
    assert find("Llama-2-70B", "H100 x8", alike).provenance.kind == "measured"


def test_an_unknown_card_lists_the_cards_of_the_model() -> None:
    with pytest.raises(SpecError, match="L40S"):
        find("Llama-3.1-8B", "L40")


def test_an_unknown_model_lists_near_names() -> None:
    with pytest.raises(SpecError, match=r"Llama-3\.1-8B"):
        find("Meta-Llama-3.1-8B", "H100")


def test_a_name_like_no_other_lists_what_there_is() -> None:
    with pytest.raises(SpecError, match="BLOOM"):
        find("zzz", "H100")


def test_names_are_sorted() -> None:
    models, cards = names()
    assert models == sorted(models)
    assert "T4" in cards


def test_a_longer_prompt_takes_longer_beyond_what_was_measured() -> None:
    assert [str(profile.key) for profile in catalog() if profile.step_law.prefill.slopes_s[-1] <= 0] == []
