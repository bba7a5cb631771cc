"""When each model that is not loaded will be, as the policy stands: for forecasts, and for deadlines."""

from dataclasses import dataclass, replace
from math import inf

from worker.shelf.policy import best_tier, claim_of, decide, in_order_of_wait, least_turn, loadable
from worker.shelf.view import ModelView, Running, ShelfView, Swap, Waiting

ADMITTED_S = 1.0  # a loaded model that has room admits a job sooner


@dataclass(frozen=True, slots=True)
class Eta:
    """Seconds from now until a model is loaded, for a job that comes now."""

    expected_s: float  # if nothing else comes
    soonest_s: float  # for a job whose deadline is as early as can be kept


def etas(view: ShelfView, coming: str = "", coming_s: float = 0.0, out: tuple[str, ...] = ()) -> dict[str, Eta]:
    """By queue, of each model that is not loaded and fits.

    While a swap is under way: `coming` is loaded in `coming_s`, in the place of the models `out`.
    """
    after = replace(view, models=tuple(admitted(swapped(model, coming, out)) for model in view.models), loading="")
    found = {
        model.name: Eta(coming_s + loaded_in(after, wanted(model)), coming_s + loaded_in(after, hurried(model)))
        for model in loadable(after)
    }
    return found | ({coming: Eta(coming_s, coming_s)} if coming else {})


def swapped(model: ModelView, coming: str, out: tuple[str, ...]) -> ModelView:
    if model.name == coming:
        return replace(model, is_loaded=True, work_s=0.0, resume_s=0.0)
    return replace(model, is_loaded=False, away_s=0.0) if model.name in out else model


def admitted(model: ModelView) -> ModelView:
    """A loaded model once its jobs run that have only just come, or for which it has only just been loaded."""
    waiting, running = model.waiting, model.running
    waits_s = max(waiting.oldest_s or 0.0, waiting.oldest_flex_s or 0.0)
    if not model.is_loaded or not waiting.jobs or min(model.work_s, waits_s) >= ADMITTED_S:
        return model
    return replace(model, waiting=Waiting(), running=Running(running.answers + waiting.jobs, inf, best_tier(model)))


def wanted(model: ModelView) -> ModelView:
    """With a job that comes now, if there is none but flex jobs."""
    if model.waiting.oldest_s is not None:
        return model
    waiting = replace(model.waiting, jobs=model.waiting.jobs + 1, oldest_s=0.0, tier="default", class_=0, has_new=True)
    return replace(model, waiting=waiting)


def hurried(model: ModelView) -> ModelView:
    """With a job whose deadline leaves time for the swap alone."""
    model = wanted(model)
    return replace(model, waiting=replace(model.waiting, deadline_s=model.swap_in_s, has_new=True))


def loaded_in(view: ShelfView, model: ModelView) -> float:
    """Until this model is loaded, if the models that are waited for take turns, each the least."""
    models = {other.name: other for other in view.models} | {model.name: model}
    view = replace(view, models=tuple(models.values()))
    decision = decide(view)
    in_s = decision.in_s if isinstance(decision, Swap) else decision.in_s + models[decision.to or model.name].swap_in_s
    if decision.to in ("", model.name):
        return in_s
    others = [claim for other in loadable(view) if (claim := claim_of(other)) is not None]
    line = [claim.model for claim in in_order_of_wait(others) if claim.model.name not in (decision.to, model.name)]
    ahead = [models[decision.to], *(other for other in line if is_before(other, model))]
    return in_s + sum(least_turn(other) for other in ahead) + sum(other.swap_in_s for other in (*ahead[1:], model))


def is_before(one: ModelView, other: ModelView) -> bool:
    return (one.waiting.class_, -(one.waiting.oldest_s or 0.0)) <= (
        other.waiting.class_,
        -(other.waiting.oldest_s or 0.0),
    )
