"""A device with several models, simulated: jobs arrive, a policy decides what is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from common.redis.keys import BASES
from common.wire import TIERS, Tier
from worker.shelf.view import Decision, ModelView, Running, ShelfView, Swap, Waiting

Policy = Callable[[ShelfView], Decision]


@dataclass
class Job:
    """A request, and what became of it. Times in seconds since the beginning; None: not yet."""

    arrival: float
    model: int
    key: int = 0
    tier: Tier = "default"
    prefill_s: float = 0.1  # of the device
    tokens: int = 100
    deadline: float = inf
    prefill_left: float = 0.0
    done: float = 0.0  # tokens
    first_token: float | None = None
    ended: float | None = None
    num_pauses: int = 0
    is_resuming: bool = False

    def __post_init__(self) -> None:
        self.prefill_left = self.prefill_s

    @property
    def order(self) -> tuple[int, bool, float]:
        """In its queue: by class, interrupted ones first."""
        return BASES[self.tier], self.done == 0, self.arrival


@dataclass(frozen=True, slots=True)
class Device:
    """`step_s`: of one answer alone; each answer beside it makes the step longer by `beside`."""

    capacity: int
    max_loaded: int = 100
    max_swap_wait_s: float = 30.0
    num_places: int = 16
    step_s: float = 0.02
    beside: float = 0.03
    in_arrival_order: bool = False  # across all models, as Ollama and llama-swap admit


@dataclass
class Model:
    name: str
    bytes: int
    swap_in_s: float
    is_pinned: bool = False
    is_loaded: bool = False
    work_s: float = 0.0
    resume_s: float = 0.0
    worked_at: float = 0.0
    left_at: float = -inf
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)

    @property
    def first_arrival(self) -> float | None:
        """Of the waiting jobs that are not flex."""
        return min((job.arrival for job in self.waiting if job.tier != "flex"), default=None)

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)


@dataclass(frozen=True, slots=True)
class Made:
    """A swap that was made: when it was decided, and what was known and had been computed by then."""

    at: float
    computed_s: float
    view: ShelfView
    decision: Swap


class Simulation:
    """Runs jobs, sorted by arrival, in steps of `tick_s`."""

    def __init__(
        self, device: Device, models: Sequence[Model], jobs: Sequence[Job], policy: Policy, tick_s: float = 0.05
    ) -> None:
        self.device = device
        self.models = list(models)
        self.jobs = list(jobs)
        self.policy = policy
        self.tick_s = tick_s
        self.now = 0.0
        self.swaps: list[Made] = []
        self.computed_s = 0.0
        self.longest_head_s = 0.0  # of a job that is not flex, for its model
        self.num_arrived = 0
        self.swap: Swap | None = None
        self.loaded_at: float | None = None  # when what is being loaded will be

    def run(self, until: float) -> None:
        """Until all jobs have ended, or the time has passed."""
        while self.now < until and any(job.ended is None for job in self.jobs):
            self.tick()

    def tick(self) -> None:
        while self.num_arrived < len(self.jobs) and self.jobs[self.num_arrived].arrival <= self.now:
            job = self.jobs[self.num_arrived]
            self.models[job.model].waiting.append(job)
            self.num_arrived += 1
        if self.swap is None:
            view = self.view()
            decision = self.policy(view)
            if isinstance(decision, Swap):
                self.swaps.append(Made(self.now, self.computed_s, view, decision))
                self.swap = decision
        self.go_on_with_swap()
        self.admit()
        self.compute()
        self.now += self.tick_s
        for model in self.models:
            if not model.is_loaded and (first := model.first_arrival) is not None:
                self.longest_head_s = max(self.longest_head_s, self.now - max(first, model.left_at))

    def go_on_with_swap(self) -> None:
        if self.swap is None:
            return
        to = next(model for model in self.models if model.name == self.swap.to)
        if self.loaded_at is None:
            out = [model for model in self.models if model.name in self.swap.out]
            if self.swap.how == "finish" and any(model.running for model in out):
                return
            for model in out:
                self.unload(model)
            self.loaded_at = self.now + to.swap_in_s
        if self.now >= self.loaded_at - 1e-9:
            to.is_loaded, to.work_s, to.resume_s, to.worked_at = True, 0.0, 0.0, self.now
            self.swap = self.loaded_at = None

    def unload(self, model: Model) -> None:
        for job in model.running:
            job.num_pauses += 1
            job.prefill_left = job.prefill_s  # computed again
            job.is_resuming = job.first_token is not None
        model.waiting = sorted([*model.running, *model.waiting], key=lambda job: job.order)
        model.running = []
        model.is_loaded, model.left_at = False, self.now

    def admit(self) -> None:
        """Jobs of loaded models that do not leave: in each class first the key with the fewest running."""
        leaving = self.swap.out if self.swap else ()
        for model in self.models:
            while model.waiting and model.is_loaded and model.name not in leaving:
                job = self.head_of(model)
                is_blocked = self.device.in_arrival_order and any(
                    other.arrival < job.arrival for each in self.models for other in each.waiting
                )
                if len(model.running) >= self.device.num_places or is_blocked:
                    break
                model.waiting.remove(job)
                model.running.append(job)

    def head_of(self, model: Model) -> Job:
        def order(job: Job) -> tuple[int, bool, int, float]:
            base, is_new, arrival = job.order
            return base, is_new, sum(other.key == job.key for other in model.running), arrival

        return min(model.waiting, key=(lambda job: job.arrival) if self.device.in_arrival_order else order)

    def compute(self) -> None:
        """The tick is divided among the models with answers; prompts are computed before tokens."""
        active = [model for model in self.models if model.running]
        for model in active:
            left = share = self.tick_s / len(active)
            for job in model.running:
                part = min(left, job.prefill_left)
                job.prefill_left -= part
                left -= part
                if job.prefill_left <= 1e-9 and job.first_token is None:
                    job.first_token = self.now + self.tick_s
            decoding = [job for job in model.running if job.prefill_left <= 1e-9]
            model.resume_s += self.tick_s * any(job.is_resuming for job in model.running)
            for job in decoding:
                job.is_resuming = False
                job.done += left / self.step_s(len(decoding))
                if job.done >= job.tokens:
                    job.ended = self.now + self.tick_s
            model.running = [job for job in model.running if job.ended is None]
            model.work_s += self.tick_s
            model.worked_at = self.now + self.tick_s
            self.computed_s += share

    def step_s(self, num_answers: int) -> float:
        return self.device.step_s * (1 + self.device.beside * (num_answers - 1))

    def view(self) -> ShelfView:
        device = self.device
        models = tuple(self.view_of(model) for model in self.models)
        return ShelfView(models, device.capacity, device.max_loaded, device.max_swap_wait_s)

    def view_of(self, model: Model) -> ModelView:
        view = ModelView(
            model.name,
            model.bytes,
            model.swap_in_s,
            is_loaded=model.is_loaded,
            is_pinned=model.is_pinned,
            work_s=model.work_s,
            resume_s=model.resume_s,
            idle_s=0.0 if model.has_work else self.now - model.worked_at,
            away_s=self.now - model.left_at,
        )
        if not model.has_work:
            return view
        return replace(view, waiting=self.waiting_of(model), running=self.running_of(model))

    def waiting_of(self, model: Model) -> Waiting:
        if not model.waiting:
            return Waiting()
        head = min(model.waiting, key=lambda job: job.order)
        flex = [job for job in model.waiting if job.tier == "flex"]
        others = [job for job in model.waiting if job.tier != "flex"]
        return Waiting(
            jobs=len(model.waiting),
            has_new=any(job.done == 0 for job in others),
            keys=len({job.key for job in (*model.waiting, *model.running)}),
            tier=head.tier,
            class_=BASES[head.tier],
            oldest_s=self.oldest_s(others),
            oldest_flex_s=self.oldest_s(flex),
            deadline_s=self.deadline_s(others),
            flex_deadline_s=self.deadline_s(flex),
        )

    def oldest_s(self, jobs: Sequence[Job]) -> float | None:
        return max((self.now - job.arrival for job in jobs), default=None)

    def deadline_s(self, jobs: Sequence[Job]) -> float | None:
        return min((job.deadline - self.now for job in jobs if job.deadline < inf), default=None)

    def running_of(self, model: Model) -> Running:
        if not model.running:
            return Running()
        step_s = self.step_s(len(model.running))
        left_s = max(job.prefill_left + (job.tokens - job.done) * step_s for job in model.running)
        return Running(
            len(model.running),
            left_s,
            min((job.tier for job in model.running), key=TIERS.index),
            sum(job.is_resuming for job in model.running),
        )
