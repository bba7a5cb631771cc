"""Which model is loaded next, and which leave for it: a pure function, without clock and without I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from common.wire import TIERS, Tier
from worker.shelf.view import Decision, ModelView, ShelfView, Stay, Swap

FLEX_TURN = 10.0  # swaps that flex work must be worth before other flex work takes its place


@dataclass(frozen=True, slots=True)
class ModelClaim:
    """A model that is not loaded, and who waits for it."""

    model: ModelView
    rank: float  # class of the head: the lower, the earlier
    wait_s: float  # how long its head has waited for the model
    deadline_s: float = inf  # by when its swap must begin for a deadline to be kept; inf: none that can be kept

    @property
    def tier(self) -> Tier:
        """Of the first job that is not flex; an order counts as a job of the default tier."""
        return "priority" if self.model.waiting.tier == "priority" else "default"

    @property
    def least_s(self) -> float:
        """Its swap and the least turn that follows."""
        return self.model.swap_in_s + least_turn(self.model)


def decide(view: ShelfView) -> Decision:
    """Whether a model is to be loaded now, and which leave.

    A model that is not loaded *claims* the device when jobs wait for it. A head's wait is counted from when it came or,
    if that is later, from when its model left: it waits here for its model, not for its place in the queue.

    1. Claims of flex jobs count only while no other job waits anywhere else, and only answers of flex jobs make way.
    2. Of the other claims the lowest class is first, then the earliest deadline that must be hurried for, then those of
       jobs that have not begun, then the longest wait; but only as far as every other claim can still be served within
       `max_swap_wait_s`, the longest wait first, with a swap and a least turn for each. If not, the longest wait is
       first. So the bound holds whatever classes, deadlines and new jobs there are.
    3. Models leave only as far as the first claim needs their place: never a pinned one; those without work first (the
       longest idle), then those with flex work only, then those that have had their least turn, then the cheapest to
       bring back.
    4. A model without work leaves at once. One with work first computes for as long as its own loading took: the least
       turn, so that no more than half of the time is lost to swaps, whatever comes. After that it leaves when
       - all of its jobs are of a later tier than the claim's head, or
       - none of its own jobs wait, and somebody waits for the other model whose answer has not begun, or
       - it has had its turn: of a round of `max_swap_wait_s`, less the swaps in it, the part of the keys that wait for
         it among the keys that wait for any of these models; or
       - a claim would otherwise wait longer than `max_swap_wait_s`, or miss a deadline that it can keep.
    5. Its running answers end first if that takes less than the swap, none is of a later tier than the head, and no
       claim is late for it. Otherwise they pause.

    The bound: no head that is not flex waits for its model longer than `max_swap_wait_s` and one swap, if a swap and a
    least turn of each model that jobs wait for take no longer than `max_swap_wait_s`; if they do, no longer than these.
    """
    if view.loading:
        return Stay(f"{view.loading} is being loaded")
    claims = [claim for model in loadable(view) if (claim := claim_of(model)) is not None]
    if claims:
        return serve(view, first_of(claims, view), claims)
    flex = [claim for model in loadable(view) if (claim := flex_claim_of(model)) is not None]
    if flex:
        return serve_flex(view, min(flex, key=lambda claim: (claim.deadline_s, -claim.wait_s, claim.model.name)))
    pinned = [model for model in loadable(view) if model.is_pinned]
    if pinned and not any(has_work(model) for model in leaving(view, pinned[0])):
        return swap(pinned[0], leaving(view, pinned[0]), "pause", "it is pinned")
    unfit = sorted((model for model in view.models if not model.is_loaded and model.waiting.jobs), key=lambda m: m.name)
    if not unfit:
        return Stay("nothing waits for another model")
    why = why_held(holders(view, unfit[0])) or "no room, or no way, to load it now"
    return Stay(f"{unfit[0].name} waits: {why}")


def serve(view: ShelfView, first: ModelClaim, claims: Sequence[ModelClaim]) -> Decision:
    """Whether the first claim gets its model now. A job that is not flex, or an order, waits for it."""
    to, out = first.model, leaving(view, first.model)
    busy = [model for model in out if has_work(model)]
    if not busy:
        return swap(to, out, "pause", "nothing else needs its place" if out else "it fits beside the others")
    hurry_s = min(slack(claims, view), first.deadline_s)
    least_s = max(least_turn(model) - model.work_s for model in busy)
    wish_s, why = max(hold(model, first, claims, view) for model in busy)
    if hurry_s < wish_s:
        wish_s, why = hurry_s, f"{why}, until others would wait too long"
    left_s = max(model.running.left_s for model in busy)
    if max(wish_s, least_s) > 0:
        why = why if wish_s >= least_s else "what was loaded last has not yet paid for it"
        ends_s = inf if any(model.waiting.jobs for model in busy) else left_s
        return Stay(why, to.name, min(max(wish_s, least_s), ends_s))
    goes_first = all(TIERS.index(first.tier) < TIERS.index(best_tier(model)) for model in busy)
    may_finish = left_s < to.swap_in_s and left_s <= hurry_s and not goes_first
    return swap(to, out, "finish" if may_finish else "pause", f"a caller has waited {first.wait_s:.1f} s for it")


def serve_flex(view: ShelfView, first: ModelClaim) -> Decision:
    """Whether flex jobs get their model now: never at the cost of others."""
    to, out = first.model, leaving(view, first.model)
    others = [model for model in view.models if model.name != to.name]
    if any(model.waiting.oldest_s is not None for model in others):
        return Stay("flex jobs wait until no other jobs do", to.name)
    busy = [model for model in out if has_work(model)]
    if any(best_tier(model) != "flex" for model in busy):
        return Stay("flex jobs wait until the running answers have ended", to.name)
    if not all(model in busy for model in out):
        # Callers come back: what nobody has used for as long as two swaps take is no longer expected to be used soon.
        rest_s = max(model.swap_in_s + to.swap_in_s - model.idle_s for model in out if model not in busy)
        if rest_s > 0:
            return Stay("callers of what is loaded may come back", to.name, rest_s)
    turns_s = [max(least_turn(model), FLEX_TURN * cost(model)) - model.work_s for model in busy]
    if first.deadline_s < max(turns_s, default=0.0):
        turns_s = [least_turn(model) - model.work_s for model in busy]
    in_s = max(turns_s, default=0.0)
    if in_s > 0:
        return Stay("other flex jobs have their turn", to.name, in_s)
    left_s = max((model.running.left_s for model in busy), default=0.0)
    return swap(to, out, "finish" if left_s < to.swap_in_s else "pause", "flex jobs wait, and nothing else does")


def hold(model: ModelView, first: ModelClaim, claims: Sequence[ModelClaim], view: ShelfView) -> tuple[float, str]:
    """How long the jobs of a model that is to leave keep it, as long as nobody is late; and why."""
    own, other = TIERS.index(best_tier(model)), TIERS.index(first.tier)
    if own != other:
        return (inf, "jobs of an earlier tier are served") if own < other else (0.0, "")
    if model.waiting.oldest_s is None and first.model.waiting.has_new:
        return 0.0, ""
    return turn(model, claims, view) - model.work_s, "the jobs of what is loaded have their turn"


def turn(model: ModelView, claims: Sequence[ModelClaim], view: ShelfView) -> float:
    """Seconds of work that a loaded model gets while jobs of its own and of others wait."""
    own = max(1.0, model.waiting.keys)
    all_keys = own + sum(max(1.0, claim.model.waiting.keys) for claim in claims)
    swaps_s = cost(model) + sum(cost(claim.model) for claim in claims)
    return max(least_turn(model), (view.max_swap_wait_s - swaps_s) * own / all_keys)


def first_of(claims: Sequence[ModelClaim], view: ShelfView) -> ModelClaim:
    """The claim that is served next, whenever that is."""
    all_s = sum(claim.least_s for claim in claims)  # a deadline after that is kept anyway

    def order(claim: ModelClaim) -> tuple[float, float, bool, float, str]:
        hurried_s = claim.deadline_s if claim.deadline_s < all_s else inf
        return claim.rank, hurried_s, not claim.model.waiting.has_new, -claim.wait_s, claim.model.name

    wished = min(claims, key=order)
    others = [claim for claim in claims if claim is not wished]
    return wished if slack(others, view, wished.least_s) >= 0 else in_order_of_wait(claims)[0]


def slack(claims: Sequence[ModelClaim], view: ShelfView, begin_s: float = 0.0) -> float:
    """How much later than in `begin_s` the first swap may begin, if each claim is to have its own begin in time."""
    least = inf
    for claim in in_order_of_wait(claims):
        least = min(least, view.max_swap_wait_s - claim.wait_s - begin_s)
        begin_s += claim.least_s
    return least


def in_order_of_wait(claims: Sequence[ModelClaim]) -> list[ModelClaim]:
    return sorted(claims, key=lambda claim: (-claim.wait_s, claim.model.name))


def loadable(view: ShelfView) -> list[ModelView]:
    """The models that are not loaded and fit, if all that are not pinned leave."""
    pinned = [model for model in view.models if model.is_loaded and model.is_pinned]
    found = [model for model in view.models if not model.is_loaded and model.can_load and fits(view, pinned, model)]
    return sorted(found, key=lambda model: model.name)


def holders(view: ShelfView, to: ModelView) -> tuple[str, ...]:
    """The pinned models that keep another one from being loaded, whatever else leaves."""
    pinned = [model for model in view.models if model.is_loaded and model.is_pinned]
    if to.is_loaded or fits(view, pinned, to):
        return ()
    return tuple(sorted(model.name for model in pinned))


def why_held(pinned: Sequence[str]) -> str:
    return f"its place is held by pinned models: {', '.join(pinned)}" if pinned else ""


def fits(view: ShelfView, stay: Sequence[ModelView], to: ModelView) -> bool:
    num_bytes = to.bytes + sum(model.bytes for model in stay)
    return num_bytes <= view.capacity and len(stay) < view.max_loaded


def claim_of(model: ModelView) -> ModelClaim | None:
    """What jobs that are not flex, or an order, claim for this model."""
    waiting = model.waiting
    waits = [wait_s for wait_s in (waiting.oldest_s, model.ordered_s) if wait_s is not None]
    if not waits:
        return None
    rank = waiting.class_ if waiting.oldest_s is not None and waiting.tier != "flex" else 0
    begin_s = inf if waiting.deadline_s is None else waiting.deadline_s - model.swap_in_s
    return ModelClaim(model, rank, min(max(waits), model.away_s), begin_s if begin_s >= 0 else inf)


def flex_claim_of(model: ModelView) -> ModelClaim | None:
    waiting = model.waiting
    if waiting.oldest_flex_s is None:
        return None
    begin_s = inf if waiting.flex_deadline_s is None else waiting.flex_deadline_s - model.swap_in_s
    return ModelClaim(model, waiting.class_, min(waiting.oldest_flex_s, model.away_s), begin_s if begin_s >= 0 else inf)


def leaving(view: ShelfView, to: ModelView) -> tuple[ModelView, ...]:
    """The models that make way for another: the least needed first, and no more than it needs."""
    stay = [model for model in view.models if model.is_loaded]
    out: list[ModelView] = []
    for model in sorted((model for model in stay if not model.is_pinned), key=need):
        if fits(view, stay, to):
            break
        stay.remove(model)
        out.append(model)
    for model in list(out):  # a larger one that left later may have made it unnecessary
        if fits(view, [*stay, model], to):
            stay.append(model)
            out.remove(model)
    return tuple(out)


def need(model: ModelView) -> tuple[bool, int, bool, float, float, str]:
    """The order in which models leave."""
    is_in_turn = has_work(model) and model.work_s < least_turn(model)
    return has_work(model), -TIERS.index(best_tier(model)), is_in_turn, -model.idle_s, model.swap_in_s, model.name


def cost(model: ModelView) -> float:
    """Seconds in which bringing a model back makes no new token: loading it, and computing its paused answers again."""
    return model.swap_in_s + model.resume_s


def least_turn(model: ModelView) -> float:
    """Seconds of work that a loaded model gets whoever waits: for its paused answers, then as long as it has cost."""
    return model.resume_s + cost(model)


def has_work(model: ModelView) -> bool:
    return model.waiting.jobs > 0 or model.running.answers > 0


def best_tier(model: ModelView) -> Tier:
    """The earliest tier among the jobs of a model; flex where there are none."""
    waiting = model.waiting
    first: Tier | None = "default" if waiting.tier == "flex" and waiting.oldest_s is not None else waiting.tier
    return min((tier for tier in (first, model.running.tier) if tier), key=TIERS.index, default="flex")


def swap(to: ModelView, out: Sequence[ModelView], how: Literal["finish", "pause"], why: str) -> Swap:
    left_s = max((model.running.left_s for model in out), default=0.0) if how == "finish" else 0.0
    return Swap(to.name, tuple(model.name for model in out), how, why, left_s + to.swap_in_s)
