"""One agent against the service at OMNI_URL: `python -m tests.conformance.agents codex`."""

import os
import signal
import sys
import time

from tests.conformance.agents.agent import EDITED, NOTE, Run, Turn, packed, running
from tests.conformance.agents.known import AGENTS
from tests.conformance.agents.shim import ForcedFields
from tests.conformance.clients.checks import KEY, MODEL, URL, leaving, run

LEAVE_S = 20


class Checks:
    """The checks of one agent; they share its home folder, so that a session can go on."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.shim = run.shim

    def a_turn_is_answered(self) -> None:
        self.ask("Hello there!")

    def a_tool_runs_and_its_result_goes_back(self) -> None:
        assert self.run.agent.reading is not None
        self.shim.forced = self.run.agent.reading({"const": self.run.agent.named.format(note=self.run.place.note)})
        turn = self.ask("Read note.txt")
        assert self.shim.forced is None, "no request offered the tool"
        assert turn.sent(NOTE), "no request has the tool's result"

    def a_file_is_edited(self) -> None:
        self.shim.forced = self.run.agent.editing
        self.run.ask("Edit note.txt")
        assert self.shim.forced is None, "no request offered the tool"
        assert self.run.place.note.read_text().strip() == EDITED

    def a_session_goes_on(self) -> None:
        before = "Edit note.txt" if self.run.agent.editing else "Read note.txt"
        turn = self.ask("What is the capital of France?", resumes=True)
        assert turn.sent(before), "no request has the turn before"

    def ask(self, prompt: str, resumes: bool = False) -> Turn:
        """One turn, whose answer the agent must print."""
        turn = self.run.ask(prompt, resumes)
        assert turn.answer and packed(turn.answer) in packed(turn.printed), (turn.answer, turn.printed)
        return turn

    def ctrl_c_cancels_the_job(self) -> None:
        reading = self.run.agent.reading
        endless = reading({"type": "string", "minLength": 100_000}) if reading else ForcedFields({"ignore_eos": True})
        first = len(self.shim.exchanges)
        self.shim.forced = endless
        with leaving():
            process = self.run.start(*self.run.agent.turn, "Read note.txt")
            deadline = time.monotonic() + LEAVE_S
            while not any(b"data:" in one.answer for one in self.shim.exchanges[first:] if one.is_forced):
                assert time.monotonic() < deadline and process.poll() is None, "no answer began"
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=LEAVE_S)
        self.run.say(f"SIGINT: exit status {process.returncode}", out, err)


def main(name: str) -> None:
    agent = AGENTS[name]
    with running(agent, URL, KEY, MODEL) as its_run:
        checks = Checks(its_run)
        try:
            run(
                checks.a_turn_is_answered,
                *([checks.a_tool_runs_and_its_result_goes_back] if agent.reading else []),
                *([checks.a_file_is_edited] if agent.editing else []),
                checks.a_session_goes_on,
                checks.ctrl_c_cancels_the_job,
            )
        finally:
            its_run.say("hosts beside the service", *sorted(set(its_run.shim.foreign_hosts)))


if __name__ == "__main__":
    main(sys.argv[1])
