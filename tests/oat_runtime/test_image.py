"""Laws of the way from a camera frame to the network's input."""

import cv2
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_runtime.architecture import InputSpec
from oat_runtime.errors import InputError
from oat_runtime.image import MAX_SIDE_PX, fit_frame, fit_matrices, network_input, unit_planes

CIFAR = InputSpec(height=32, width=32)
MODES = ("stretch", "center_crop", "letterbox")


def _frame(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("interpolation", ["area", "linear"])
def test_a_frame_of_the_declared_size_passes_to_the_bit(resize: str, interpolation: str) -> None:
    spec = InputSpec(height=24, width=40, resize=resize, interpolation=interpolation)
    frame = _frame(24, 40)
    x = network_input(frame, spec)
    assert np.array_equal(x, (frame.astype(np.float32) / np.float32(255)).transpose(2, 0, 1))


def test_a_batch_is_scaled_as_its_frames_are() -> None:
    frames = np.stack([_frame(32, 32, seed=seed) for seed in range(3)])
    x_NCHW = unit_planes(frames)
    assert x_NCHW.flags.c_contiguous and x_NCHW.dtype == np.float32
    assert np.array_equal(x_NCHW, np.stack([network_input(frame, CIFAR) for frame in frames]))


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("interpolation", ["area", "linear"])
@pytest.mark.parametrize("shape", [(24, 40), (61, 83), (12, 90), (90, 12), (7, 9), (1, 1)])
def test_fitting_is_a_product_with_two_matrices_but_for_rounding(resize, interpolation, shape) -> None:
    """An attack that follows other weights than the deployed resampling's would be weaker than it says."""
    spec = InputSpec(height=24, width=40, resize=resize, interpolation=interpolation)
    frame_HWC = _frame(*shape)
    rows_Hh, columns_Ww = fit_matrices(*shape, spec)
    fitted = np.stack([rows_Hh @ frame_HWC[..., c].astype(np.float32) @ columns_Ww.T for c in range(3)], axis=-1)
    # OpenCV interpolates bytes with weights of 11 bits.
    assert np.abs(fitted - fit_frame(frame_HWC, spec)).max() <= 1.0


@settings(max_examples=60)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    resize=st.sampled_from(MODES),
    interpolation=st.sampled_from(["area", "linear"]),
)
def test_any_frame_becomes_one_float32_input_of_the_declared_size(
    height: int, width: int, resize: str, interpolation: str
) -> None:
    frame = _frame(height, width)
    frame.flags.writeable = False  # writing to the caller's frame would raise
    x = network_input(frame, InputSpec(height=20, width=32, resize=resize, interpolation=interpolation))
    assert x.shape == (3, 20, 32)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert x.min() >= 0.0
    assert x.max() <= 1.0


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("shape", [(32, 32), (48, 64)])
def test_strides_do_not_matter(resize: str, shape: tuple[int, int]) -> None:
    spec = InputSpec(resize=resize)
    frame = _frame(2 * shape[0], 2 * shape[1])
    for view in (
        frame[::2, ::2],
        frame[: shape[0], 5 : 5 + shape[1]],
        frame[: shape[0], : shape[1]][::-1, ::-1],
        frame[: shape[0], : shape[1], ::-1],
        np.asfortranarray(frame[: shape[0], : shape[1]]),
    ):
        assert np.array_equal(network_input(view, spec), network_input(view.copy(order="C"), spec))


@pytest.mark.parametrize("resize", ["stretch", "center_crop"])
@pytest.mark.parametrize("shape", [(480, 640), (7, 5), (200, 16)])
def test_colours_keep_their_order_and_value(resize: str, shape: tuple[int, int]) -> None:
    frame = np.broadcast_to(np.array([10, 120, 250], np.uint8), (*shape, 3))
    x = network_input(frame, InputSpec(resize=resize))
    for channel, value in enumerate((10, 120, 250)):
        assert np.all(x[channel] == np.float32(value) / np.float32(255))


def test_shrinking_averages_areas_so_fine_stripes_turn_grey() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.all(network_input(stripes, CIFAR) == np.float32(100) / np.float32(255))


def test_enlarging_is_linear() -> None:
    frame = _frame(8, 8)
    for interpolation in ("area", "linear"):
        x = network_input(frame, InputSpec(interpolation=interpolation))
        expected = cv2.resize(frame, (32, 32), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(x, (expected.astype(np.float32) / np.float32(255)).transpose(2, 0, 1))


def test_center_crop_sees_the_middle_and_stretch_sees_all() -> None:
    frame = np.zeros((64, 128, 3), np.uint8)
    frame[:, 32:96] = 255
    assert network_input(frame, InputSpec(resize="center_crop")).min() == 1.0
    stretched = network_input(frame, InputSpec(resize="stretch"))
    assert stretched[:, :, :8].max() == 0.0
    assert stretched[:, :, 8:24].min() == 1.0


@pytest.mark.parametrize(("shape", "axis"), [((64, 128), 1), ((128, 64), 2)])
def test_letterbox_keeps_the_aspect_ratio_and_pads_with_black(shape: tuple[int, int], axis: int) -> None:
    x = network_input(np.full((*shape, 3), 255, np.uint8), InputSpec(resize="letterbox"))
    bars, middle = np.split(x, [8, 24], axis=axis)[::2], np.split(x, [8, 24], axis=axis)[1]
    assert middle.min() == 1.0
    assert max(bar.max() for bar in bars) == 0.0


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (np.zeros((32, 32, 3), np.float32), r"must be uint8 in 0\.\.255, got float32 of shape 32x32x3: scale it"),
        (np.zeros((32, 32, 3), np.uint16), "must be uint8"),
        (np.zeros((32, 32, 3), bool), "must be uint8"),
        (np.zeros((480, 640), np.uint8), r"got uint8 of shape 480x640: this is a grey image.*COLOR_GRAY2RGB"),
        (np.zeros((32, 32, 1), np.uint8), "grey image"),
        (np.zeros((32, 32, 4), np.uint8), r"shape HxWx3, got uint8 of shape 32x32x4: drop an alpha"),
        (np.zeros((3, 32, 32), np.uint8), "leading channel axis"),
        (np.zeros((2, 32, 32, 3), np.uint8), "one at a time"),
        (np.zeros((0, 32, 3), np.uint8), "at least one pixel"),
        (np.zeros((), np.uint8), "HxWx3"),
        (
            np.broadcast_to(np.uint8(0), (2**16, 2**16, 3)),
            "at most 16384 pixels a side, got uint8 of shape 65536x65536x3",
        ),
        (np.broadcast_to(np.uint8(0), (2**15, 2**15, 3)), "at most 16384 pixels a side"),
        (np.broadcast_to(np.uint8(0), (1, 2**14 + 1, 3)), "at most 16384 pixels a side"),
        (None, "must be a NumPy array.*got NoneType"),
        ([[0, 0, 0]], "got list"),
    ],
)
def test_what_is_not_a_frame_is_refused_with_a_remedy(frame: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says):
        network_input(frame, CIFAR)


@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("shape", [(1, MAX_SIDE_PX), (MAX_SIDE_PX, 1)])
def test_a_frame_of_the_longest_side_is_fitted(resize: str, shape: tuple[int, int]) -> None:
    x = network_input(np.full((*shape, 3), 255, np.uint8), InputSpec(resize=resize))
    assert x.shape == (3, 32, 32) and x.max() == 1.0


@pytest.mark.parametrize(
    "fields", [{"height": 0}, {"width": -1}, {"color_order": "bgr"}, {"resize": "tile"}, {"mean": 0.5}]
)
def test_an_impossible_spec_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        InputSpec.model_validate(fields)
