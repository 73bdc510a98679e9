"""The optics of an off-axis digital holographic microscope: pupil, propagation, static background, camera.

Lengths in object space are micrometres, positions on the camera pixels. A field is sampled at PIXEL_UM on a
periodic grid; its phase is relative to a plane wave along the axis, its mean intensity about 1. Sources:
Goodman, Introduction to Fourier Optics, 3rd edition, sections 3.10 (angular spectrum) and 6.2 (coherent
transfer function); Goodman, Speckle Phenomena in Optics, chapter 3; Schnars & Jueptner, Digital Holography,
chapter 3; Cuche, Marquet & Depeursinge 2000, Applied Optics 39, 4070 (off-axis recording and its sidebands).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

WAVELENGTH_UM = 0.633
"""A helium-neon laser."""
PIXEL_UM = 0.07
"""Camera pixel over magnification: a red cell of 7.8 um is 111 px across, a frame of 3072 px 0.215 mm."""
NUMERICAL_APERTURE = 0.55
"""Passes 0.061 cycles/px: even the smallest carrier, 0.1, keeps the sideband off the zero order's centre."""
BLACK_LEVEL = 0.01
"""The camera's pedestal as a share of full scale, so that read noise in the dark is not cut off."""
PEAK_INTENSITY = 4.0
"""The brightest fringe of two coherent waves of intensity 1."""

Complex = NDArray[np.complexfloating[Any, Any]]
Real = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Pupil:
    """The circle of spatial frequencies that an objective passes, on a grid of size_px x size_px.

    Only what lies in the circle's bounding square is computed, at the default aperture 12 % of each axis:
    that halves the cost of a transform there and back. A spectrum here is therefore [K, K], in FFT order.
    """

    size_px: int
    numerical_aperture: float = NUMERICAL_APERTURE
    """In (0, 1]: waves beyond 1 are evanescent and do not reach a camera."""

    @property
    def bins(self) -> NDArray[np.intp]:
        """The K bins of one FFT axis inside the aperture, int [K]."""
        cutoff = self.numerical_aperture / WAVELENGTH_UM
        return np.flatnonzero(np.abs(fft.fftfreq(self.size_px, PIXEL_UM)) <= cutoff)

    def radial_square(self) -> NDArray[np.float64]:
        """Squared spatial frequency, (cycles/um)^2, float64 [K, K]."""
        square = fft.fftfreq(self.size_px, PIXEL_UM)[self.bins] ** 2
        return square[:, None] + square

    def gather(self, field: Complex) -> Complex:
        """The spectrum [K, K] of a field [size_px, size_px], in the field's precision."""
        rows = np.asarray(fft.fft(field, axis=1))[:, self.bins]
        return np.asarray(fft.fft(rows, axis=0, overwrite_x=True))[self.bins]

    def scatter(self, spectrum: Complex, window: slice = slice(None)) -> Complex:
        """The field of a spectrum [K, K]: its rows and columns in `window`, the rest is not computed."""
        columns = np.zeros((self.size_px, len(self.bins)), spectrum.dtype)
        columns[self.bins] = spectrum
        columns = np.asarray(fft.ifft(columns, axis=0, overwrite_x=True))[window]
        field = np.zeros((len(columns), self.size_px), spectrum.dtype)
        field[:, self.bins] = columns
        return np.asarray(fft.ifft(field, axis=1, overwrite_x=True))[:, window]

    def transfer(self, distance_um: float) -> NDArray[np.complex128]:
        """Free space's transfer function in the pupil, 0 outside it, complex128 [K, K] (Goodman 3.10.2).

        The phase along the axis, 2 pi z / wavelength, is left out: a plane wave keeps phase 0. Always in
        double precision: the phase reaches hundreds of radians.
        """
        square = self.radial_square()
        axial = np.sqrt(np.maximum(WAVELENGTH_UM**-2 - square, 0)) - 1 / WAVELENGTH_UM
        passed = square <= (self.numerical_aperture / WAVELENGTH_UM) ** 2
        return np.exp(2j * np.pi * distance_um * axial) * passed

    def speckle(self, rng: np.random.Generator) -> NDArray[np.complex64]:
        """Spectrum [K, K] of developed speckle: circular Gaussian, mean intensity 1, grain 1 / (2 cutoff)."""
        passed = self.radial_square() <= (self.numerical_aperture / WAVELENGTH_UM) ** 2
        draws = rng.standard_normal((*passed.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
        scale = self.size_px**2 / np.sqrt(2 * passed.sum())  # Parseval: the mean of |ifft2|^2 becomes 1
        return draws * (passed * scale).astype(np.float32)


def propagate(field: Complex, distance_um: float, numerical_aperture: float = NUMERICAL_APERTURE) -> Complex:
    """The field [N, N] after `distance_um` of free space (negative: before), cut off by the aperture.

    The grid is periodic: light that leaves one side enters at the other.
    """
    pupil = Pupil(len(field), numerical_aperture)
    return pupil.scatter(pupil.gather(field) * pupil.transfer(distance_um).astype(field.dtype))


def plane_wave(size_px: int, cycles_per_px: tuple[float, float]) -> NDArray[np.complex64]:
    """exp(2 pi i f x) of a tilted wave with frequency (rows, columns), complex64 [size_px, size_px]."""
    down, across = (np.exp(2j * np.pi * f * np.arange(size_px)) for f in cycles_per_px)
    return np.multiply.outer(down, across).astype(np.complex64)


def unit_axis(size_px: int) -> NDArray[np.float32]:
    """Pixel centres from -1 to 1 across the frame, float32 [size_px]."""
    return np.linspace(-1, 1, size_px, dtype=np.float32)


def draw_aberration(rng: np.random.Generator, size_px: int, strength_rad: float) -> NDArray[np.float32]:
    """Phase of the low Zernike terms over the frame's inscribed disc, radians, float32 [size_px, size_px].

    Defocus, two of astigmatism, two of coma, spherical (Noll 1976); piston and tilt belong to the carrier.
    """
    y, x = unit_axis(size_px)[:, None], unit_axis(size_px)
    rho2 = x**2 + y**2
    terms = (
        2 * rho2 - 1,
        x**2 - y**2,
        2 * x * y,
        (3 * rho2 - 2) * x,
        (3 * rho2 - 2) * y,
        (6 * rho2 - 6) * rho2 + 1,
    )
    weights = strength_rad * rng.normal(0, (1, 0.5, 0.5, 0.25, 0.25, 0.1)).astype(np.float32)
    total = np.zeros((size_px, size_px), np.float32)
    for weight, term in zip(weights, terms, strict=True):
        total += weight * term
    return total


def draw_beam(rng: np.random.Generator, size_px: int) -> NDArray[np.float32]:
    """Intensity of a Gaussian beam somewhat off centre, its peak 1, float32 [size_px, size_px]."""
    width = rng.uniform(1.6, 2.4)
    down, across = (np.exp(-2 * ((unit_axis(size_px) - c) / width) ** 2) for c in rng.uniform(-0.2, 0.2, 2))
    return np.multiply.outer(down, across)


def draw_dust(rng: np.random.Generator, size_px: int, num_discs: int) -> NDArray[np.complex64]:
    """A plane wave behind dust out of focus: opaque discs with their diffraction rings, complex64 [N, N].

    The discs lie on four surfaces, 15-300 um from the sample on either side; the surfaces' waves multiply.
    """
    surfaces_um = rng.uniform(15, 300, 4) * rng.choice((-1, 1), 4)
    wave = np.ones((size_px, size_px), np.complex64)
    for distance_um, discs in zip(surfaces_um, np.array_split(np.arange(num_discs), 4), strict=True):
        opaque = np.zeros((size_px, size_px), np.complex64)
        for row, col, draw in rng.uniform(size=(len(discs), 3)):
            radius = round((0.5 + 2.5 * draw**2) / PIXEL_UM)  # most are small, as dust is
            offsets = np.arange(-radius, radius + 1)
            rows, cols = (offsets + int(start * size_px) for start in (row, col))
            inside = offsets[:, None] ** 2 + offsets**2 <= radius**2
            opaque[np.ix_(rows % size_px, cols % size_px)] += inside
        np.minimum(opaque.real, 1, out=opaque.real)
        if len(discs):
            wave *= 1 - propagate(opaque, distance_um)
    return wave


def draw_speckle(rng: np.random.Generator, size_px: int, contrast: float) -> NDArray[np.complex64]:
    """A plane wave behind a weak diffuser: 1 + partly developed speckle of that amplitude, complex64 [N, N].

    The diffuser is seen under a fifth of the aperture: its grains are five times the resolution, about 40 px.
    """
    pupil = Pupil(size_px, NUMERICAL_APERTURE / 5)
    return 1 + np.float32(contrast) * pupil.scatter(pupil.speckle(rng))


def draw_ghost(rng: np.random.Generator, size_px: int, contrast: float) -> NDArray[np.complex64]:
    """1 + two weak reflections between cover glasses: broad fringes across the frame, complex64 [N, N]."""
    wave = np.ones((size_px, size_px), np.complex64)
    for angle, cycles in rng.uniform((0, 0.003), (2 * np.pi, 0.012), (2, 2)):
        tilt = (cycles * np.sin(angle), cycles * np.cos(angle))
        wave += np.float32(contrast) * plane_wave(size_px, tilt)
    return wave


def interfere(
    wave: NDArray[np.complex64], reference: NDArray[np.complex64], coherence: float
) -> NDArray[np.float32]:
    """Intensity where the object wave meets a reference wave of intensity 1, float32 [H, W] (Cuche 2000, 2).

    |O|^2 + 1 + 2 coherence Re(O R*): zero order and both sidebands; O R* lies at minus the carrier.
    """
    intensity = wave.real * reference.real
    intensity += wave.imag * reference.imag
    intensity *= np.float32(2 * coherence)
    intensity += np.square(wave.real)
    intensity += np.square(wave.imag)
    intensity += 1
    return intensity


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """What turns light into numbers."""

    full_well_e: float
    """Electrons at full scale; light beyond them saturates."""
    read_noise_e: float
    """Standard deviation in the dark, electrons."""
    exposure: float
    """Share of full scale that PEAK_INTENSITY reaches; bright speckle goes beyond."""

    def expose(
        self, intensity: NDArray[np.float32], bits: int, rng: np.random.Generator
    ) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """A frame [H, W] with shot and read noise, from intensity float32 [H, W], which is overwritten.

        Shot noise is drawn as Gaussian with the Poisson variance: a fringe holds hundreds of electrons,
        where the skewness, 1 / sqrt(electrons), is lost in the read noise.
        """
        levels = np.float32(2**bits - 1)
        intensity *= np.float32(self.exposure * self.full_well_e / PEAK_INTENSITY)
        noise = rng.standard_normal(intensity.shape, dtype=np.float32)
        noise *= np.sqrt(intensity + np.float32(self.read_noise_e**2))
        intensity += noise
        intensity *= levels * np.float32((1 - BLACK_LEVEL) / self.full_well_e)
        intensity += levels * np.float32(BLACK_LEVEL) + np.float32(0.5)  # the cast rounds down
        np.clip(intensity, 0, levels, out=intensity)
        return intensity.astype(np.uint8) if bits == 8 else intensity.astype(np.uint16)
