from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import dask
import pytest

from dask_fmware.compile.profiles import open_store
from dask_fmware.errors import SpecError
from dask_fmware.profile.fit import Fit, PhaseFit
from dask_fmware.profile.law import Curve, StepLaw
from dask_fmware.profile.points import StepPoint
from dask_fmware.profile.progress import EngineFacts, PartialProfile, TraceRecord
from dask_fmware.profile.record import LawRecord, LiveProfile, Profile, ProfileKey, Provenance
from dask_fmware.profile.store import ProfileStore, entry_name

LAW = StepLaw(0.01, Curve((1e-3, 2e-3), (8.0,)), Curve((1e-6,)), 0.002, Curve((1e-4,)), Curve((0.01,)), 1e-9)
KEY = ProfileKey(model="qwen-7b", accelerator="L4", engine="vLLM", engine_version="0.24.0")
PHASE = PhaseFit("plain", 12, 0.01, 0.02, 0.03, 0.04)


def profile(key: ProfileKey = KEY) -> Profile:
    fit = Fit(LAW, PHASE, None, (0, 512), (1, 8), (10, 4000))
    points = (StepPoint(0.012, batch=2, context_tokens=100), StepPoint(0.05, 512, 1))
    return Profile.of(
        key, fit, Provenance(kind="measured", source="profiled here"), points, load_s=12.5, weight_bytes=15_000_000_000,
        kv_bytes_per_token=57344.0, largest_batch=64,
    )  # fmt: skip


@pytest.fixture(params=["directory", "fsspec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ProfileStore:
    if request.param == "directory":
        return ProfileStore(tmp_path / "profiles")
    pytest.importorskip("fsspec")
    return ProfileStore(f"file://{tmp_path}/profiles")


def entry(tmp_path: Path, key: ProfileKey = KEY) -> Path:
    return tmp_path / "profiles" / entry_name(key)


def test_a_profile_survives_the_store_unchanged(store: ProfileStore) -> None:
    store.put(profile())
    found, problem = store.get(KEY)
    assert problem is None
    assert found == profile()
    assert found is not None
    assert found.step_law == LAW
    assert found.step_points == (StepPoint(0.012, batch=2, context_tokens=100), StepPoint(0.05, 512, 1))


def test_a_store_at_home_is_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with dask.config.set({"fmware.profiles": "~/profiles"}):
        made = open_store()
    made.put(profile())
    assert made.location == str(tmp_path / "profiles")
    assert entry(tmp_path).exists()


def test_profiles_of_other_arguments_lie_side_by_side(store: ProfileStore) -> None:
    keys = [KEY.model_copy(update={"arguments": digest}) for digest in ("", "0a", "0b")]
    for key in keys:
        store.put(profile(key))
        store.put_part(PartialProfile(key=key, facts=EngineFacts(slots=1, context_tokens=64)))
    assert [store.get(key) for key in keys] == [(profile(key), None) for key in keys]
    assert [part.key for key in keys if (part := store.get_part(key))] == keys
    found, problems = store.scan()
    assert (len(found), problems) == (3, [])


def test_an_entry_of_an_earlier_version_is_found_where_it_lay() -> None:
    assert entry_name(KEY) == "qwen-7b--L4--vLLM--0.24.0--888f1549f3.json"


def test_an_empty_store_has_nothing_and_no_problem(store: ProfileStore) -> None:
    assert store.get(KEY) == (None, None)
    assert store.scan() == ([], [])


@pytest.mark.parametrize(
    ("before", "after"), [('"knots":[8.0]', '"knots":[NaN]'), ('"batch":[1.0,8.0]', '"batch":[1.0,Infinity]')]
)
def test_an_entry_with_a_figure_that_is_none_is_absent(store: ProfileStore, before: str, after: str) -> None:
    path = Path(store.put(profile()).removeprefix("file://"))
    path.write_text(profile().model_dump_json().replace(before, after))
    found, problem = store.get(KEY)
    assert found is None
    assert "finite number" in str(problem)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('"fixed_s":0.01,', '"fixed_s":9400.0,', "give seconds"),  # microseconds
        ('"weight_bytes":15000000000', '"weight_bytes":15000', "give bytes"),  # megabytes
        ('"kv_bytes_per_token":57344.0', '"kv_bytes_per_token":0.0573', "give bytes"),
    ],
)
def test_an_entry_in_other_units_is_absent(store: ProfileStore, before: str, after: str, told: str) -> None:
    path = Path(store.put(profile()).removeprefix("file://"))
    path.write_text(profile().model_dump_json().replace(before, after))
    found, problem = store.get(KEY)
    assert found is None
    assert told in str(problem)


def test_writing_leaves_no_part_behind(store: ProfileStore, tmp_path: Path) -> None:
    where = store.put(profile())
    store.put(profile())
    assert [path.name for path in (tmp_path / "profiles").iterdir()] == [entry_name(KEY)]
    assert where.endswith(entry_name(KEY))


@pytest.mark.parametrize("kind", ["directory", "fsspec"])
def test_containers_with_equal_process_numbers_write_one_entry(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "profiles", profile().model_copy(update={"load_s": 99.0})
    if kind == "directory":
        store, system, written = ProfileStore(here), os, "fsync"
    else:
        fsspec = pytest.importorskip("fsspec")
        store, system, written = ProfileStore(f"file://{here}"), fsspec.filesystem("file"), "pipe_file"
    whole = getattr(system, written)

    def write_and_let_the_other_in(*arguments: object) -> None:
        whole(*arguments)
        monkeypatch.setattr(system, written, whole)
        ProfileStore(store.location).put(there)
        assert store.get(KEY)[0] == there

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(system, written, write_and_let_the_other_in)
    store.put(profile())
    assert store.get(KEY) == (profile(), None)
    assert [path.name for path in here.iterdir()] == [entry_name(KEY)]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"\xff\xfe", b'{"format": 2}', b'{"format": 1}'],
    ids=["empty", "half", "null", "binary", "later format", "fields missing"],
)
def test_a_damaged_entry_is_told_and_counts_as_absent(store: ProfileStore, tmp_path: Path, content: bytes) -> None:
    store.put(profile())
    entry(tmp_path).write_bytes(content)
    found, problem = store.get(KEY)
    assert found is None
    assert problem is not None
    assert entry_name(KEY) in str(problem)
    assert "measured again" in problem.reason
    assert store.scan() == ([], [problem])


def test_a_law_with_a_negative_cost_counts_as_damage(store: ProfileStore, tmp_path: Path) -> None:
    store.put(profile())
    document = json.loads(entry(tmp_path).read_text())
    document["law"]["decode"] = {"slopes_s": [0.1, 0.2], "knots": [-4.0]}
    entry(tmp_path).write_text(json.dumps(document))
    found, problem = store.get(KEY)
    assert found is None
    assert problem is not None


def test_a_profile_under_the_name_of_another_is_never_returned(store: ProfileStore, tmp_path: Path) -> None:
    newer = KEY.model_copy(update={"engine_version": "0.25.0"})
    store.put(profile())
    entry(tmp_path).rename(entry(tmp_path, newer))
    found, problem = store.get(newer)
    assert found is None
    assert problem is not None
    assert "0.24.0" in problem.reason
    profiles, problems = store.scan()
    assert profiles == []
    assert len(problems) == 1


@pytest.mark.parametrize("part", ["model", "accelerator", "engine", "engine_version"])
def test_a_profile_of_something_else_is_not_found(store: ProfileStore, part: str) -> None:
    store.put(profile())
    assert store.get(KEY.model_copy(update={part: "other"})) == (None, None)


def test_a_damaged_entry_hides_no_sound_one(store: ProfileStore, tmp_path: Path) -> None:
    other = KEY.model_copy(update={"model": "llama/8b"})
    store.put(profile())
    store.put(profile(other))
    entry(tmp_path).write_bytes(b"{")
    profiles, problems = store.scan()
    assert [p.key for p in profiles] == [other]
    assert len(problems) == 1


def test_a_store_that_cannot_be_listed_is_a_problem_not_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def denied(_path: Path) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "iterdir", denied)
    profiles, problems = ProfileStore(tmp_path).scan()
    assert profiles == []
    assert "cannot be listed" in problems[0].reason


def test_an_entry_that_cannot_be_read_is_a_problem_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "profiles" / entry_name(KEY)).mkdir(parents=True)
    found, problem = ProfileStore(tmp_path / "profiles").get(KEY)
    assert found is None
    assert problem is not None
    assert "cannot be read" in problem.reason


def test_names_that_read_alike_are_distinct_entries() -> None:
    assert entry_name(KEY) != entry_name(KEY.model_copy(update={"model": "qwen 7b"}))


def test_a_url_without_fsspec_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SpecError, match="pip install fsspec"):
        ProfileStore("s3://bucket/profiles")


def test_a_url_whose_library_is_missing_is_refused_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")

    def missing(_url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(SpecError, match=r"s3://bucket/profiles.*Install s3fs to access S3.*or name another place"):
        ProfileStore("s3://bucket/profiles")


def test_errors_of_a_clouds_library_are_problems_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = pytest.importorskip("fsspec").filesystem("file")
    (tmp_path / "profiles").mkdir()
    store = ProfileStore(f"file://{tmp_path}/profiles")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("no credentials")

    for call in ("cat_file", "ls", "pipe_file"):
        monkeypatch.setattr(system, call, refuse)
    found, problem = store.get(KEY)
    assert found is None
    assert "cannot be read: RuntimeError: no credentials" in str(problem)
    assert "cannot be listed: RuntimeError: no credentials" in str(store.scan()[1][0])
    assert store.is_empty()
    assert store.get_part(KEY) is None
    with pytest.raises(SpecError, match=r"cannot be written \(RuntimeError: no credentials\)"):
        store.require_writable()


def test_a_law_survives_its_record() -> None:
    assert LawRecord.of(LAW).law() == LAW


def test_what_an_interrupted_measurement_had_survives_until_it_is_dropped(store: ProfileStore, tmp_path: Path) -> None:
    trace = TraceRecord(submitted_s=0.0, prompt_tokens=10, arrivals=((0.1, 1), (0.2, 1)))
    part = PartialProfile(key=KEY, facts=EngineFacts(slots=2, context_tokens=64), traces={"prefill 16 #0": (trace,)})
    store.put_part(part)
    assert store.get_part(KEY) == part
    assert store.scan() == ([], [])
    store.drop_part(KEY)
    store.drop_part(KEY)
    assert store.get_part(KEY) is None


def test_a_damaged_part_counts_as_absent(store: ProfileStore, tmp_path: Path) -> None:
    store.put_part(PartialProfile(key=KEY, facts=EngineFacts(slots=2, context_tokens=64)))
    (part,) = (tmp_path / "profiles").iterdir()
    part.write_text("{")
    assert store.get_part(KEY) is None


def test_what_a_replica_announces_survives_the_wire() -> None:
    said = LiveProfile.of(profile())
    assert LiveProfile.from_wire(said.to_wire()) == said
    assert said.law.law() == LAW
    assert said.error == PHASE.cv_median_error
