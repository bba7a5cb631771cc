"""What the policy sees of the models and their queues, and what it decides."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from common.wire import Tier


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in the queue of one model (common/redis/scripts/waits.lua)."""

    jobs: int = 0
    has_new: bool = True  # a job that is not flex waits whose answer has not begun
    keys: float = 0.0  # the API keys whose jobs wait or run, by weight
    tier: Tier | None = None  # of the head; None: nothing waits
    class_: int = 0  # of the head: the lower, the earlier
    oldest_s: float | None = None  # how long the oldest job that is not flex has waited; None: there is none
    oldest_flex_s: float | None = None
    deadline_s: float | None = None  # until the earliest deadline of a job that is not flex
    flex_deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """The answers that a loaded model computes."""

    answers: int = 0
    left_s: float = 0.0  # until the last of them is expected to end
    tier: Tier | None = None  # the earliest among them; None: nothing runs
    resuming: int = 0  # of these, paused answers that have no new token yet: theirs are being computed again


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model of the table. Times are seconds before now, or durations."""

    name: str  # of its queue
    bytes: int  # on the device: weights, and the least KV memory that it runs with
    swap_in_s: float  # from warm or cold, as it is now; of a loaded model, what bringing it back would take
    is_loaded: bool = False
    is_pinned: bool = False  # never leaves once it is loaded
    can_load: bool = True  # False for a while after loading it has failed
    work_s: float = 0.0  # since it was loaded, while it had something to do
    resume_s: float = (
        0.0  # of work_s, while answers were resuming; of a model that is not loaded, what it was last time
    )
    idle_s: float = 0.0  # of a loaded model: since it had something to do
    away_s: float = inf  # of a model that is not loaded: since it left
    waiting: Waiting = field(default_factory=Waiting)
    running: Running = field(default_factory=Running)
    ordered_s: float | None = None  # since somebody asked for it to be loaded; None: nobody waits for that


@dataclass(frozen=True, slots=True)
class ShelfView:
    """All models of the table, and the device's limits."""

    models: tuple[ModelView, ...]
    capacity: int  # bytes for models
    max_loaded: int
    max_swap_wait_s: float
    loading: str = ""  # the model that is being loaded now


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing changes now."""

    why: str  # one sentence without a full stop, for the board
    to: str = ""  # the model that comes next, if nothing else happens; "": none
    in_s: float = 0.0  # until its swap begins, at most


@dataclass(frozen=True, slots=True)
class Swap:
    """Load `to`, once the models `out` have left."""

    to: str
    out: tuple[str, ...]  # empty: it fits beside those that are loaded
    how: Literal["finish", "pause"]  # their running answers: end first, or go back into their queues
    why: str
    in_s: float  # until `to` is loaded: what the answers take that end first, and the swap itself


Decision = Stay | Swap
