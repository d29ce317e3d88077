"""The arrays of all shards as one are the shards' arrays one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vlq
from vlq.query.cache.joined import JoinedArrays

from ...synthetic import make_cache, make_run

pytestmark = pytest.mark.here("the arrays of a cache")

IMAGES = 10


@pytest.fixture(scope="module", params=[{}, {"grid": None, "patches": 12}], ids=["one grid", "grids of their own"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[JoinedArrays, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("cache")
    _, _, arrays = make_cache(folder, make_run(**request.param), images=IMAGES, failed=[3])
    return vlq.open(str(folder)).zarr, arrays


def test_names_shapes_and_values(made: tuple[JoinedArrays, dict[str, np.ndarray]]) -> None:
    joined, arrays = made
    assert set(joined) == set(arrays)
    assert len(joined) == len(arrays)
    for name, values in arrays.items():
        assert joined[name].shape == values.shape
        assert joined[name].dtype == values.dtype
        np.testing.assert_allclose(joined[name][...], values, rtol=1e-6)
    assert joined.images.tolist() == list(range(IMAGES))
    assert joined["patch/token"].dims == ("image", "layer", "patch", "k")
    with pytest.raises(KeyError, match="patch/tokens: there are patch/token"):
        joined["patch/tokens"]


places = st.none() | st.integers(-12, 12)
slices = st.builds(slice, places, places, st.sampled_from([None, 1, 2, 3, 7, -1, -2, -5]))


@settings(max_examples=150, deadline=None)
@given(image=slices | st.integers(-IMAGES, IMAGES - 1), layer=st.none() | st.integers(0, 4) | st.just(slice(1, 3)))
def test_slices_are_numpys(made: tuple[JoinedArrays, dict[str, np.ndarray]], image: Any, layer: Any) -> None:
    joined, arrays = made
    key = image if layer is None else (image, layer)
    np.testing.assert_array_equal(joined["patch/top1"][key], arrays["patch/top1"][key])
    np.testing.assert_array_equal(joined["patch/lse"][key], arrays["patch/lse"][key])


def test_ellipsis_and_bounds(made: tuple[JoinedArrays, dict[str, np.ndarray]]) -> None:
    joined, arrays = made
    np.testing.assert_array_equal(joined["patch/token"][..., 0], arrays["patch/token"][..., 0])
    np.testing.assert_array_equal(joined["patch/token"][4, ..., 0], arrays["patch/token"][4, ..., 0])
    np.testing.assert_array_equal(joined["patch/token"][()], arrays["patch/token"])
    with pytest.raises(IndexError):
        joined["patch/token"][IMAGES]
