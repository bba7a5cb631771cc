"""The times of steps: what they cost, who they are charged to, and how long others wait for their first token."""

import time

from worker.engine.costs import StepCosts
from worker.engine.flex import FlexRule
from worker.engine.reading import Reading
from worker.engine.requests import Requests
from worker.engine.step import Step
from worker.state.sequence import RequestState


class Meter:
    """Measures steps when they are committed."""

    def __init__(self, requests: Requests[RequestState], reading: Reading) -> None:
        """`reading`: is told what it takes."""
        self.costs = StepCosts()
        self.flex = FlexRule(self.costs)
        self._requests = requests
        self._reading = reading
        self._committed_at = 0.0

    def committed(self, step: Step) -> None:
        """The step's events are known. Of two steps that overlap the later one begins where the earlier ends."""
        now = time.perf_counter()
        seconds = now - max(step.began, self._committed_at)
        self._committed_at = now
        self.costs.charge(step.load, step.works, seconds, self._requests.seconds)
        if step.works and step.failure is None:
            self.costs.note(step.load, seconds)
            self._reading.note(step.load.read, self.costs.of_reading(step.load, seconds))

    def answered(self, state: RequestState) -> None:
        """The request has a token."""
        if not state.is_answered:
            state.is_answered = True
            if not state.request.is_flex:
                self.flex.note_first(time.perf_counter() - state.added)
