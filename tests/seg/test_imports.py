import json
import subprocess
import sys


def run_python(code: str) -> str:
    """What a fresh interpreter prints; it fails with what that says."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout


WALK = """
import sys
blocked = ["ray", "triton", "mlflow", "onnx", "openvino", "segmentation_models_pytorch"]
sys.modules.update(dict.fromkeys(blocked))
import importlib, json, pkgutil, seg
names = [found.name for found in pkgutil.walk_packages(seg.__path__, "seg.")]
for name in names:
    importlib.import_module(name)
print(json.dumps(names))
"""


def test_every_module_of_seg_imports_without_ray_and_extras() -> None:
    names = json.loads(run_python(WALK))
    assert {"seg.train.training", "seg.pack.pack", "seg.models.icnet", "seg.figures.plots"} <= set(names)


ABSENT = {  # in an order in which each may have loaded what the ones before it did
    "seg": ["torch", "numpy", "cv2", "tyro"],
    "seg.errors": ["torch", "numpy", "cv2", "tyro"],
    "seg.recipes": ["torch", "cv2", "matplotlib", "rich.progress"],  # --help answers in under 1 s
    "seg.model_file": ["matplotlib", "ray"],
    "seg.pack.training_data": ["matplotlib", "pandas"],
    "seg.train.training": ["matplotlib", "pandas"],
}
IN_TURN = f"""
import importlib, json, sys
loaded = {{}}
for module, absent in {ABSENT}.items():
    importlib.import_module(module)
    loaded[module] = [name for name in absent if name in sys.modules]
print(json.dumps(loaded))
"""


def test_a_module_loads_no_more_than_it_needs() -> None:
    assert json.loads(run_python(IN_TURN)) == {module: [] for module in ABSENT}
