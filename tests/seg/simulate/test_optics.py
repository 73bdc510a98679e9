import numpy as np
import pytest

from seg.simulate.optics import BLACK_LEVEL, PIXEL_UM, WAVELENGTH_UM, Camera, Pupil, propagate


def make_field(size_px: int, numerical_aperture: float, dtype: type = np.complex128) -> np.ndarray:
    """A random field that holds only frequencies inside the aperture."""
    pupil = Pupil(size_px, numerical_aperture)
    return pupil.scatter(pupil.speckle(np.random.default_rng(3)).astype(dtype))


@pytest.mark.parametrize(("size_px", "numerical_aperture"), [(128, 0.55), (135, 0.3), (96, 1.0)])
@pytest.mark.parametrize("distance_um", [-30.0, 0.0, 7.0])
def test_propagation_is_the_sum_of_tilted_plane_waves(
    size_px: int, numerical_aperture: float, distance_um: float
) -> None:
    draws = np.random.default_rng(0).standard_normal((2, size_px, size_px))
    spectrum = np.fft.fft2(draws[0] + 1j * draws[1])
    axis = np.fft.fftfreq(size_px, PIXEL_UM)
    cosine2 = 1 - WAVELENGTH_UM**2 * (axis[:, None] ** 2 + axis**2)  # of the wave's angle to the axis
    passed = np.clip(cosine2, 0, None) >= 1 - numerical_aperture**2
    wavenumber = 2 * np.pi / WAVELENGTH_UM
    lag = wavenumber * distance_um * (np.sqrt(np.clip(cosine2, 0, None)) - 1)
    expected = np.fft.ifft2(spectrum * np.where(passed & (cosine2 >= 0), np.exp(1j * lag), 0))
    found = propagate(draws[0] + 1j * draws[1], distance_um, numerical_aperture)
    np.testing.assert_allclose(found, expected, atol=1e-12)  # both in double precision


def test_a_gaussian_beam_widens_and_lags_as_its_closed_form_says() -> None:
    waist_um, distance_um, size_px = 3.0, 60.0, 512
    axis = (np.arange(size_px) - size_px // 2) * PIXEL_UM
    square = axis[:, None] ** 2 + axis**2
    rayleigh_um = np.pi * waist_um**2 / WAVELENGTH_UM
    beam = propagate(np.exp(-square / waist_um**2).astype(complex), distance_um)
    intensity = np.abs(beam) ** 2
    width_um = 2 * np.sqrt((intensity * axis**2).sum() / intensity.sum())
    # the closed form is paraxial: beyond it come terms of the divergence squared, (0.067)^2 = 0.5 %
    assert width_um == pytest.approx(waist_um * np.hypot(1, distance_um / rayleigh_um), rel=0.005)
    on_axis = 1 / (1 + 1j * distance_um / rayleigh_um)  # amplitude and Gouy phase
    assert beam[size_px // 2, size_px // 2] == pytest.approx(on_axis, rel=0.005)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.complex128, 1e-12), (np.complex64, 1e-5)])
def test_propagation_keeps_the_energy_and_can_be_undone(dtype: type, tolerance: float) -> None:
    field = make_field(200, 0.55, dtype)
    away = propagate(field, 25.0)
    assert away.dtype == dtype
    assert np.abs(away - field).max() > 0.1  # it did go somewhere
    assert np.square(np.abs(away)).sum() == pytest.approx(np.square(np.abs(field)).sum(), rel=tolerance)
    np.testing.assert_allclose(propagate(away, -25.0), field, atol=10 * tolerance)


def test_a_plane_wave_keeps_its_phase() -> None:
    np.testing.assert_allclose(propagate(np.ones((64, 64), complex), 123.0), 1, atol=1e-12)


def test_a_window_of_the_field_is_the_field_there() -> None:
    pupil = Pupil(150)
    spectrum = pupil.speckle(np.random.default_rng(0))
    window = slice(17, 101)
    np.testing.assert_array_equal(pupil.scatter(spectrum, window), pupil.scatter(spectrum)[window, window])


def test_speckle_is_fully_developed() -> None:
    intensity = np.abs(make_field(1024, 0.55)) ** 2
    # 12 000 grains: the mean is known to 1 %, the contrast to 2 %; both are 1 (Goodman, Speckle, 3.2)
    assert intensity.mean() == pytest.approx(1, abs=0.03)
    assert intensity.std() / intensity.mean() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_cameras_noise_is_shot_noise_and_read_noise(bits: int) -> None:
    camera = Camera(full_well_e=4000, read_noise_e=20, exposure=1.0)
    per_electron = (2**bits - 1) * (1 - BLACK_LEVEL) / 4000
    for intensity in (0.5, 2.0):
        light = np.full((400, 400), intensity, np.float32)
        frame = camera.expose(light, bits, np.random.default_rng(0)).astype(float)
        electrons = 4000 * intensity / 4
        levels = electrons * per_electron + (2**bits - 1) * BLACK_LEVEL
        variance = (electrons + 20**2) * per_electron**2 + 1 / 12  # the last is rounding's
        assert frame.mean() == pytest.approx(levels, rel=0.002)
        assert frame.var() == pytest.approx(variance, rel=0.02)  # 160 000 pixels: 0.35 %; five times that


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_light_beyond_the_full_well_saturates_and_darkness_is_not_cut_off(bits: int, dtype: type) -> None:
    camera = Camera(full_well_e=10_000, read_noise_e=10, exposure=1.0)
    light = np.zeros((2, 100, 100), np.float32)
    light[1] = 50
    dark, bright = (camera.expose(half, bits, np.random.default_rng(0)) for half in light)
    assert dark.dtype == bright.dtype == dtype
    assert (bright == 2**bits - 1).all()
    assert dark.mean() == pytest.approx(BLACK_LEVEL * (2**bits - 1), rel=0.05)
    assert (dark > 0).all()
