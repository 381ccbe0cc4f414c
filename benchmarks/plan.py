"""How much is measured, and in which order."""

from dataclasses import dataclass, replace

# The order of a round. The jobs of `single` and `callers` have no worker: they join the backlog of the next drain.
ROUND = (
    "machine", "copy", "unary", "stream", "single", "callers", "bulk", "drain1", "drain2", "few", "short", "both",
    "strangers", "latency", "half", "runs", "idle", "up",
)  # fmt: skip
# After the rounds, once each: `held` and `deep` are long, compare with figures of their own, and leave much behind.
ONCE = ("rows", "held", "deep", "cancels")
SHAPES = ROUND + ONCE
CALLERS = 50
CONCURRENCY = 200
FEW = 20  # slots: what a worker has by default
SHORT = 0.01  # seconds that a short handler takes
SHORT_SLOTS = 100
RUN_STEPS = 5  # of a workflow, one after the other
HELD_RATE = 3_000  # jobs/s beside a held transaction
BATCH = 200_000  # jobs of one client that fills a queue


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Numbers of jobs, and seconds, of each shape."""

    rounds: int
    jobs: int  # of a backlog
    seconds: float  # of calls one by one
    paced: int  # jobs on an idle cluster
    steady: float  # seconds at half the peak
    idle: float  # seconds without work
    echo: float  # seconds of each bare gRPC measure
    waiting: int  # jobs of a deep backlog
    held: float  # seconds that a transaction is held open
    runs: int  # of a workflow
    shapes: tuple[str, ...] = SHAPES

    def scaled(self, factor: float) -> "Plan":
        """All sizes times `factor`, for a look whether it works at all."""
        return replace(
            self,
            jobs=max(100, int(self.jobs * factor)),
            seconds=self.seconds * factor,
            paced=max(10, int(self.paced * factor)),
            steady=max(0.1, self.steady * factor),
            idle=self.idle * factor,
            echo=self.echo * factor,
            waiting=max(200, int(self.waiting * factor)),
            held=max(0.5, self.held * factor),
            runs=max(2, int(self.runs * factor)),
        )

    @property
    def small(self) -> bool:
        """Whether it is less than what the targets mean."""
        return self.jobs < FULL.jobs or self.waiting < FULL.waiting or self.held < FULL.held

    @property
    def numbers(self) -> int:
        """The most jobs that one client of a shape numbers."""
        return max(self.jobs, min(self.waiting, BATCH), int(self.held * HELD_RATE) + 1, 200_000)


FULL = Plan(
    rounds=5, jobs=100_000, seconds=4.0, paced=300, steady=8.0, idle=5.0, echo=2.0, waiting=1_000_000, held=60.0,
    runs=1_000,
)  # fmt: skip
QUICK = Plan(
    rounds=2, jobs=12_000, seconds=1.0, paced=60, steady=1.5, idle=1.0, echo=0.4, waiting=50_000, held=5.0, runs=100
)  # fmt: skip
