"""Where a scoring's images are worked at: workers of Ray, or this process."""

from dataclasses import dataclass

from cluster.requests import ScoreRequest
from cluster.scoring.image_reader import ScorerSettings
from cluster.scoring.rehearsal import Power
from cluster.scoring.scorer_pool import Limits
from cluster.scoring.scorer_workers import Crew, LocalCrew, RayCrew
from cluster.session import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """What a scoring runs on."""

    workers: int
    """0: this process."""
    gpus: float
    """Of each worker; of this process, 1 where it has any."""
    limits: Limits
    """When workers are ended; of this process, which cannot be, when an image is named."""
    session: Session
    threads: int

    def open_crew(self, settings: ScorerSettings) -> Crew:
        """Its workers, none of which is started. Starts Ray where it is needed and does not run."""
        if not self.workers:
            return LocalCrew(settings)
        self.session.start()
        return RayCrew(settings, self.gpus)

    @property
    def power(self) -> Power:
        """What an estimate goes by."""
        return Power(
            workers=max(1, self.workers),
            threads=self.threads,
            cpus=self.session.cpus,
            on_gpu=self.gpus > 0,
        )


def choose_workplace(request: ScoreRequest, session: Session) -> Workplace:
    """What a request asks for, or what there is. RequestError: there is no such room."""
    if request.workers == 0:
        return Workplace(
            workers=0,
            gpus=float(session.gpus > 0),
            limits=Limits(image_limit_s(request)),
            session=session,
            threads=request.threads,
        )
    workers = session.choose_workers(request.workers, threads=request.threads, gpus=request.gpus_per_worker)
    return Workplace(
        workers=workers,
        gpus=session.gpus_of_worker(request.gpus_per_worker),
        limits=Limits(image_limit_s(request), 60 * request.stall_minutes),
        session=session,
        threads=request.threads,
    )


def image_limit_s(request: ScoreRequest) -> float | None:
    """How long an image may be worked at; None: for ever.

    By default as long as nothing may move: were it longer, one image that hangs, alone at last, would end the
    job as stalled where it is to be set aside.
    """
    if request.image_timeout_s is None:
        return 60 * request.stall_minutes
    return request.image_timeout_s or None
