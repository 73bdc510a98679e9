"""How much of a training's time the GPU works, by the GPU's own record of its kernels and copies."""

from math import inf

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from seg.train.training import StepReport, Training

FIRST_STEP, NUM_STEPS = 5, 40


def profile_steps(training: Training) -> tuple[float, float]:
    """Train an epoch; of 40 steps the ms in which the GPU worked, and those from first work to last."""
    profiler = profile(activities=[ProfilerActivity.CUDA])

    def listen(report: StepReport) -> None:
        if report.step == FIRST_STEP:
            profiler.start()
        if report.step == FIRST_STEP + NUM_STEPS:
            torch.cuda.synchronize()
            profiler.stop()

    next(training.epochs(listen))
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    whole = max(end for _, end in spans) - min(start for start, _ in spans)
    return covered(spans) / 1e3, whole / 1e3


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of what spans (start, end) cover together: kernels of several streams overlap."""
    total, reached = 0.0, -inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
