"""How much is measured, and in which order."""

from dataclasses import dataclass, replace

# The order of a round. What `single` and `callers` make has no worker: it joins the backlog of the next drain.
SHAPES = (
    "machine", "copy", "unary", "stream", "single", "callers", "bulk", "drain1", "drain2", "both", "strangers",
    "latency", "half", "idle",
)  # fmt: skip
CALLERS = 50
CONCURRENCY = 200


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
        )


FULL = Plan(rounds=5, jobs=100_000, seconds=4.0, paced=300, steady=8.0, idle=5.0, echo=2.0)
QUICK = Plan(rounds=2, jobs=12_000, seconds=1.0, paced=60, steady=1.5, idle=1.0, echo=0.4)
