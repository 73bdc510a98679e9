import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from scipy import ndimage

from seg.errors import RequestError
from seg.simulate.archive import Simulation, frame_paths, simulate_archive, write_frame
from seg.simulate.cells import KINDS, LARGEST_PX, MIN_THICKNESS_UM, SHARES, Cell
from seg.simulate.holograms import (
    DIFFICULTIES,
    Difficulty,
    Frame,
    Scene,
    make_background,
    make_rig,
    simulate_frame,
)
from seg.simulate.optics import NUMERICAL_APERTURE, PIXEL_UM, WAVELENGTH_UM

SMALL = Simulation(num_sequences=2, num_frames=2, size_px=192, difficulty="easy")


def make_scene(difficulty: str | Difficulty = "standard", **changes: Any) -> Scene:
    chosen = DIFFICULTIES[difficulty] if isinstance(difficulty, str) else difficulty
    return Scene(**{"seed": 5, "sequence": 0, "size_px": 384, "bits": 8, **changes}, difficulty=chosen)


def cells_of(scene: Scene, frame: int) -> tuple[Cell, ...]:
    return make_rig(scene).channel.cells(frame, scene.difficulty.cells_per_megapixel, scene.draw)


def read_tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def same(one: Frame, other: Frame) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in Frame.__slots__)


@pytest.fixture(scope="module")
def qpretrieve() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says on import which FFT libraries are absent
        return pytest.importorskip("qpretrieve")


@pytest.mark.parametrize("sequence", [0, 1, 2])
def test_somebody_elses_reconstruction_finds_the_true_phase(qpretrieve: ModuleType, sequence: int) -> None:
    in_focus = replace(DIFFICULTIES["easy"], defocus_um=(0, 0), depth_um=0)
    scene = make_scene(in_focus, size_px=768, bits=16, sequence=sequence)
    empty = make_scene(replace(in_focus, cells_per_megapixel=0), size_px=768, bits=16, sequence=sequence)
    truth = simulate_frame(scene, 0)
    settings = {
        "filter_size": NUMERICAL_APERTURE / WAVELENGTH_UM * PIXEL_UM,
        "filter_size_interpretation": "frequency",
        # it takes the sideband above the zero order: the conjugate one where the carrier points up
        "invert_phase": make_rig(scene).carrier[0] < 0,
    }
    hologram = qpretrieve.OffAxisHologram(truth.image)
    hologram.run_pipeline(**settings)  # finds the sideband, which the background then shares
    # a background frame of another moment, as in a laboratory: other noise, other place of the fringes
    background = qpretrieve.OffAxisHologram(simulate_frame(empty, 1).image)
    background.process_like(hologram)
    wave = np.exp(1j * (hologram.phase - background.phase)[0])
    clear = np.logical_not(ndimage.binary_dilation(truth.mask, iterations=20))
    error = np.angle(wave * np.exp(-1j * truth.phase) / wave[clear].mean())
    inside = ndimage.binary_erosion(truth.mask, iterations=8, border_value=1)
    assert inside.sum() > 5000
    # Noise and moving speckle (amplitude 0.02 in each of the two frames) leave 0.02 rad, as beside the cells.
    # At a cell's rim the phase falls faster than the aperture follows: its 8 px of resolution are left out,
    # the ringing further in brings the error to 0.03 rad. The cells' own phase is 1 to 2 rad on average.
    assert error[clear].std() < 0.04
    assert np.sqrt(np.square(error[inside]).mean()) < 0.06
    assert abs(error[inside].mean()) < 0.01


def test_a_frame_made_alone_is_the_frame_made_in_order() -> None:
    scene = make_scene()
    in_order = [simulate_frame(scene, frame) for frame in range(3)]
    make_background.cache_clear()
    assert same(simulate_frame(scene, 2), in_order[2])
    assert not np.array_equal(in_order[1].image, in_order[2].image)


@pytest.mark.parametrize("other", [{"seed": 6}, {"sequence": 1}], ids=["seed", "sequence"])
def test_another_seed_or_sequence_is_another_archive(other: dict[str, Any]) -> None:
    one, two = simulate_frame(make_scene(), 0), simulate_frame(make_scene(**other), 0)
    assert np.corrcoef(one.image.ravel(), two.image.ravel())[0, 1] < 0.5
    assert not np.array_equal(one.mask, two.mask)


def test_mask_boxes_and_phase_are_those_of_the_cells_drawn_one_by_one() -> None:
    scene = make_scene(size_px=1100)
    frame, pixels = simulate_frame(scene, 3), np.arange(1100.0)
    mask, phase, boxes = np.zeros((1100, 1100), bool), np.zeros((1100, 1100)), []
    for cell in cells_of(scene, 3):
        thickness = cell.thickness_um(pixels, pixels)
        mask |= thickness > MIN_THICKNESS_UM
        phase += 2 * np.pi * cell.index_difference * thickness / WAVELENGTH_UM
        places = np.argwhere(thickness > MIN_THICKNESS_UM)
        if len(places):
            boxes.append([*places.min(0), *(places.max(0) + 1)])
    assert len(boxes) > 3
    assert scene.difficulty.index_contrast == 1
    np.testing.assert_array_equal(frame.mask, mask)
    np.testing.assert_allclose(frame.phase, phase, atol=1e-3)  # the frame is drawn in single precision
    x, y, width, height = frame.boxes[:, 1:].T * 1100
    corners = np.round(np.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], 1), 6)
    assert sorted(corners.tolist()) == sorted(boxes)
    assert (frame.boxes[:, 0] == 0).all()


def test_a_red_cell_has_the_thickness_that_was_measured() -> None:
    radius_px = 3.91 / PIXEL_UM
    cell = Cell(
        kind="biconcave",
        row=0,
        col=0,
        long_px=radius_px,
        short_px=radius_px,
        angle_rad=0,
        index_difference=0.05,
        plane=0,
    )
    across = cell.thickness_um(np.zeros(1), np.linspace(0, 1.2 * radius_px, 1000))[0]
    assert across[0] == pytest.approx(0.81, abs=0.01)  # Evans & Fung 1972, table 1, at 300 mOsm
    assert across.max() == pytest.approx(2.57, abs=0.02)
    assert (across[-100:] == 0).all()


def test_every_kind_of_cell_stays_within_its_reach() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    for kind in KINDS.values():
        assert kind.radius_px[1] * np.sqrt(kind.elongation[1]) < LARGEST_PX


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_carrier_is_the_instruments_and_moves_as_far_as_the_difficulty_says(difficulty: str) -> None:
    chosen = DIFFICULTIES[difficulty]
    carriers = np.array(
        [
            [make_rig(make_scene(difficulty, seed=seed, sequence=number)).carrier for number in range(20)]
            for seed in range(20)
        ]
    )
    lengths = np.hypot(carriers[..., 0], carriers[..., 1])
    assert 0.1 <= lengths.min() < 0.12
    assert 0.23 < lengths.max() <= 0.25
    assert (np.ptp(lengths, axis=1) > 0).all()
    assert np.ptp(lengths, axis=1).max() <= chosen.realignment * 0.15


@pytest.mark.parametrize("carrier", [0.1, 0.17, 0.25])
def test_a_realigned_instrument_has_the_fringes_asked_for_and_all_else_as_it_was(carrier: float) -> None:
    usual, realigned = make_scene("easy"), make_scene("easy", carrier=carrier)
    before, after = make_rig(usual), make_rig(realigned)
    tolerance = 0.15 * DIFFICULTIES["easy"].realignment  # how far a sequence is from its instrument
    assert np.hypot(*after.carrier) == pytest.approx(carrier, abs=tolerance)
    assert np.arctan2(*after.carrier) == pytest.approx(np.arctan2(*before.carrier))
    assert replace(after, carrier=before.carrier) == before
    one, other = simulate_frame(usual, 0), simulate_frame(realigned, 0)
    np.testing.assert_array_equal(one.mask, other.mask)
    window = np.outer(np.hanning(384), np.hanning(384))
    spectrum = np.abs(np.fft.fft2((other.image - other.image.mean()) * window))
    cycles = np.hypot(*np.meshgrid(np.fft.fftfreq(384), np.fft.fftfreq(384)))
    spectrum[cycles < 0.07] = 0  # the zero order's centre
    # a windowed line is two frequencies wide
    assert cycles.flat[spectrum.argmax()] == pytest.approx(carrier, abs=tolerance + 2 / 384)


def test_a_carrier_is_kept_with_its_archive_and_none_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    small = replace(SMALL, num_sequences=1, num_frames=1, size_px=64)
    simulate_archive(tmp_path / "usual", small)
    simulate_archive(tmp_path / "realigned", replace(small, carrier=0.2))
    records = [
        json.loads((tmp_path / name / "simulation.json").read_text()) for name in ("usual", "realigned")
    ]
    assert "carrier" not in records[0]
    assert records[1] == {**records[0], "carrier": 0.2}
    usual, realigned = (frame_paths(tmp_path / name, 0, 0)[2] for name in ("usual", "realigned"))
    assert usual.read_bytes() != realigned.read_bytes()
    assert simulate_archive(tmp_path / "usual", small) == 0
    with pytest.raises(RequestError, match=r"simulated with `carrier=0.2`, not None"):
        simulate_archive(tmp_path / "realigned", small)
    with pytest.raises(RequestError, match=r"simulated with `carrier=None`, not 0.2"):
        simulate_archive(tmp_path / "usual", replace(small, carrier=0.2))


def test_cells_drift_smoothly_and_only_downstream() -> None:
    scene = make_scene(size_px=1024)
    channel = make_rig(scene).channel
    places = np.array([[(cell.row, cell.col) for cell in cells_of(scene, frame)] for frame in range(30)])
    steps = np.diff(places[..., 1], axis=0) * np.sign(channel.flow_px)
    jumps = np.abs(np.diff(places, axis=0)).max(2) > 2 * abs(channel.flow_px)
    assert (steps[~jumps] > 0).all()
    assert (steps[~jumps] <= abs(channel.flow_px) + 6).all()  # the sway, seen along a tilted channel
    entered, left = places[1:][jumps], places[:-1][jumps]
    assert len(entered) > 0
    for col in (*entered[:, 1], *left[:, 1]):  # a lane changes its cell out of sight
        assert not -LARGEST_PX < col < 1024 + LARGEST_PX


def test_sixteen_bits_are_the_same_light_in_finer_steps() -> None:
    eight = simulate_frame(make_scene(), 0).image
    sixteen = simulate_frame(make_scene(bits=16), 0).image
    assert (eight.dtype, sixteen.dtype) == (np.uint8, np.uint16)
    assert sixteen.max() > 40_000
    assert len(np.unique(sixteen)) > 10_000
    assert np.abs(sixteen / 257 - eight).max() <= 0.503  # half a step of each, from rounding


@pytest.mark.parametrize("bits", [8, 16])
def test_too_long_an_exposure_saturates(bits: int) -> None:
    standard = DIFFICULTIES["standard"]
    glaring = replace(standard, camera=replace(standard.camera, exposure=3.0))
    images = [simulate_frame(make_scene(chosen, bits=bits), 0).image for chosen in (standard, glaring)]
    right, wrong = ((image == 2**bits - 1).mean() for image in images)
    assert right < 0.001
    assert wrong > 0.1


def test_harder_scenes_have_fainter_fringes_fainter_cells_and_more_noise() -> None:
    fringes, cells, noises = [], [], []
    for name in ("easy", "standard", "hard"):
        scene = make_scene(name)
        frame = simulate_frame(scene, 0)
        image = frame.image / 255.0 - 0.01
        down, across = make_rig(scene).carrier
        rows, cols = np.indices(image.shape)
        sideband = image * np.exp(2j * np.pi * (down * rows + across * cols))
        blur = [ndimage.gaussian_filter(part, 12) for part in (sideband.real, sideband.imag, image)]
        fringes.append(np.median(2 * np.hypot(*blur[:2]) / blur[2]))
        cells.append(frame.phase[frame.mask > 0].mean())
        spectrum = np.abs(np.fft.fft2(image * np.outer(np.hanning(384), np.hanning(384)))) / image.mean()
        noises.append(np.median(spectrum[150:234, 150:234]))  # near Nyquist only the camera speaks
    assert fringes[0] > 1.15 * fringes[1] > 1.15**2 * fringes[2]
    assert cells[0] > cells[1] > cells[2]
    assert noises[0] < noises[1] < noises[2]


def test_the_archive_is_laid_out_as_the_contract_says(tmp_path: Path) -> None:
    advanced = []
    assert simulate_archive(tmp_path, SMALL, advance=lambda: advanced.append(1)) == len(advanced) == 4
    names = [f"seq-00{sequence}/frame-000{frame}" for sequence in range(2) for frame in range(2)]
    files = [
        f"{kind}/{name}.{end}"
        for kind, end in (("images", "png"), ("masks", "png"), ("boxes", "txt"))
        for name in names
    ]
    assert sorted(read_tree(tmp_path)) == sorted([*files, "classes.txt", "simulation.json"])
    assert (tmp_path / "classes.txt").read_text() == "background\ncell\n"
    for sequence, frame in np.ndindex(2, 2):
        made, paths = simulate_frame(SMALL.scene(sequence), frame), frame_paths(tmp_path, sequence, frame)
        boxes = [[float(word) for word in line.split(" ")] for line in paths[0].read_text().splitlines()]
        mask, image = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths[1:])
        np.testing.assert_array_equal(image, made.image)
        np.testing.assert_array_equal(mask, made.mask)
        np.testing.assert_allclose(
            np.reshape(boxes, (-1, 5)), made.boxes, atol=1e-7
        )  # seven digits are written


def test_sixteen_bit_frames_keep_their_bits_on_disk(tmp_path: Path) -> None:
    scene = make_scene(size_px=128, bits=16)
    write_frame(tmp_path, scene, 0)
    image = np.asarray(cv2.imread(str(frame_paths(tmp_path, 0, 0)[2]), cv2.IMREAD_UNCHANGED))
    np.testing.assert_array_equal(image, simulate_frame(scene, 0).image)
    assert image.dtype == np.uint16


def test_a_sequence_made_alone_by_other_processes_is_the_same(tmp_path: Path) -> None:
    simulate_archive(tmp_path / "all", SMALL)
    second = replace(SMALL, num_sequences=1, first_sequence=1)
    simulate_archive(tmp_path / "second", second, workers=2)
    everything = read_tree(tmp_path / "all")
    for name, content in read_tree(tmp_path / "second").items():
        assert name == "simulation.json" or everything[name] == content


def test_an_interrupted_simulation_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    simulate_archive(tmp_path / "whole", SMALL)
    folder, frames = tmp_path / "cut", []

    def interrupt() -> None:
        frames.append(1)
        if len(frames) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_archive(folder, SMALL, advance=interrupt)
    frame_paths(folder, 0, 1)[2].unlink()  # as if killed between a frame's mask and its image
    kept = frame_paths(folder, 0, 0)[2].stat().st_mtime_ns
    assert simulate_archive(folder, SMALL) == 2
    assert frame_paths(folder, 0, 0)[2].stat().st_mtime_ns == kept
    assert read_tree(folder) == read_tree(tmp_path / "whole")
    assert simulate_archive(folder, SMALL) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 256}, "`size_px=192`, not 256"),
        ({"difficulty": "hard"}, "`difficulty=easy`, not hard"),
        ({"num_sequences": 3}, "`num_sequences=2`, not 3"),
        ({"first_sequence": 1}, "`first_sequence=0`, not 1"),
        ({"bits": 16}, "`bits=8`, not 16"),
    ],
)
def test_a_folder_simulated_otherwise_is_refused_by_name_of_the_difference(
    tmp_path: Path, change: dict, message: str
) -> None:
    (tmp_path / "simulation.json").write_text(
        json.dumps({"simulator": 1, **{name: getattr(SMALL, name) for name in Simulation.__slots__}})
    )
    before = read_tree(tmp_path)
    with pytest.raises(RequestError) as caught:
        simulate_archive(tmp_path, replace(SMALL, **change))
    assert str(caught.value) == f"{tmp_path} was simulated with {message}; choose another folder"
    assert read_tree(tmp_path) == before


@pytest.mark.parametrize("record", [None, "{", "[]"], ids=["without", "cut short", "of another kind"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, record: str | None) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    if record:
        (tmp_path / "simulation.json").write_text(record)
    before = read_tree(tmp_path)
    with pytest.raises(RequestError, match="holds something other than a simulated archive"):
        simulate_archive(tmp_path, SMALL)
    assert read_tree(tmp_path) == before


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RequestError, match=r"out cannot be used: .*; choose another folder"):
        simulate_archive(tmp_path / "out", SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 63}, "`size_px` is 63 px; give 64 to 8192 (a cell is 90 to 220 px across)"),
        ({"size_px": 10_000}, "`size_px` is 10000 px; give 64 to 8192 (a cell is 90 to 220 px across)"),
        ({"num_sequences": 0}, "`num_sequences` is 0; give 1 or more"),
        ({"num_frames": -1}, "`num_frames` is -1; give 1 or more"),
        ({"seed": -1}, "`seed` is -1; give 0 or more"),
        ({"first_sequence": -1}, "`first_sequence` is -1; give 0 or more"),
        ({"bits": 12}, "`bits` is 12; give 8 or 16"),
        ({"difficulty": "brutal"}, "`difficulty` is brutal; give one of easy, standard, hard"),
        ({"carrier": 0.3}, "`carrier` is 0.3 cycles a pixel; give 0.1 to 0.25"),
        ({"carrier": float("nan")}, "`carrier` is nan cycles a pixel; give 0.1 to 0.25"),
        (
            {"carrier": 0.2, "difficulty": "hard"},
            "`carrier` is 0.2, but `difficulty=hard` sets the instrument up anew for each sequence; "
            "leave one of them out",
        ),
    ],
)
def test_nonsense_is_refused_by_option_and_remedy(change: dict, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        replace(SMALL, **change)
    assert str(caught.value) == message
