"""Which sizes engines are built for, and which TensorRT builds them."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.tiny_bundle import Sizes, graph_spec, manifest_of
from support.tiny_explain import explain_spec

from mmsr.export.tensorrt.builder import load_cache, save_cache
from mmsr.export.tensorrt.flavour import Flavour, Gpu, TensorRTAbsentError, TensorRTError
from mmsr.export.tensorrt.flavour import find_flavour as find
from mmsr.export.tensorrt.profiles import Buckets, Range, batches, profiles_of, shape_of

GPU = Gpu(name="NVIDIA H200", sm="sm90")


def test_batch_buckets_cover_every_batch_once_and_none_ends_at_one() -> None:
    ranges = batches((1, 8, 32))
    assert [(r.least, r.typical, r.most) for r in ranges] == [(1, 1, 2), (2, 8, 8), (9, 32, 32)]


@pytest.mark.parametrize("sizes", [(), (0, 4), (8, 8), (8, 1)])
def test_buckets_that_do_not_ascend_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(TensorRTError, match="ascending"):
        Buckets(sequence=sizes)


def test_a_range_is_ordered() -> None:
    with pytest.raises(TensorRTError, match="least <= typical"):
        Range(least=2, typical=1, most=3)


def test_the_sequence_graph_is_built_for_the_bundles_own_tables() -> None:
    sizes = Sizes()
    (profile,) = profiles_of("sequence", manifest_of(sizes), Buckets(sequence=(8,)))
    spec = graph_spec()
    least, typical, most = shape_of(spec, "item_outputs", profile)
    assert least == (64, sizes.width)  # fewer rows are bound while items are not available
    assert (typical, most) == ((320, sizes.width), (sizes.capacity, sizes.width))
    assert set(shape_of(spec, "item_inputs", profile)) == {(sizes.capacity, sizes.width + 4)}
    assert shape_of(spec, "history", profile) == ((1, 1), (8, 12), (8, 12))


def test_no_more_results_are_asked_of_an_engine_than_there_are_items() -> None:
    profile = profiles_of("sequence", manifest_of(Sizes(items=7)), Buckets())[0]
    assert profile["k"] == Range(least=1, typical=7, most=7)


def test_the_explain_graph_takes_a_request_with_all_its_variants() -> None:
    sizes = Sizes()
    [profile] = profiles_of("explain", manifest_of(sizes), Buckets())
    spec = explain_spec()
    assert shape_of(spec, "switches", profile) == ((1, 3), (64, 3), (256, 3))
    assert shape_of(spec, "candidates", profile) == ((1, 1), (64, 20), (256, 1000))
    assert shape_of(spec, "item_inputs", profile)[0] == (sizes.capacity, sizes.width + 4)


def test_a_dimension_without_sizes_is_named() -> None:
    with pytest.raises(TensorRTError, match=r"'history' varies in 'B'"):
        shape_of(graph_spec(), "history", {"L": Range(least=1, typical=1, most=1)})
    with pytest.raises(TensorRTError, match="no sizes are known for the graph 'mood'"):
        profiles_of("mood", manifest_of(Sizes()), Buckets())


def test_without_a_gpu_full_tensorrt_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(TensorRTAbsentError, match="tensorrt needs a GPU to build"):
        find("tensorrt", None)


def test_absence_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(TensorRTAbsentError) as caught:
        find(None, GPU)
    message = str(caught.value)
    assert "\n" not in message
    assert "complete without one" in message
    assert "pip install 'mmsr[tensorrt-rtx]'" in message


def test_an_unknown_flavour_is_refused() -> None:
    with pytest.raises(TensorRTError, match="flavour 'openvino'; expected one of: tensorrt, ten"):
        find("openvino", None)


def test_with_a_gpu_full_tensorrt_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("tensorrt", "11.4.0"), ("tensorrt_rtx", "1.7.1")):
        module = ModuleType(name)
        module.__version__ = version  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    assert find(None, GPU).folder_name(GPU) == "tensorrt-11.4.0-sm90"
    assert find(None, None).folder_name(None) == "tensorrt-rtx-1.7.1-any"
    assert Flavour(name="tensorrt-rtx", module=None, version="1").folder_name(GPU).endswith("any")


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    """A builder's configuration that refuses caches of another version, as TensorRT does."""

    cache: Cache | None = None

    def create_timing_cache(self, content: bytes) -> Cache:
        return Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache.content.startswith(b"other version") and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


@pytest.mark.parametrize(
    ("there", "used"), [(None, b""), (b"known", b"known"), (b"other version", b"")]
)
def test_the_timing_cache_is_used_kept_and_begun_anew_when_it_does_not_fit(
    tmp_path: Path, there: bytes | None, used: bytes
) -> None:
    path, config = tmp_path / "cache", Config()
    if there is not None:
        path.write_bytes(there)
    load_cache(config, path)
    assert config.cache is not None
    assert config.cache.content == used
    config.cache.content += b" and more"
    save_cache(config, path)
    assert path.read_bytes() == used + b" and more"
