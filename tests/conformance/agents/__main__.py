"""One agent against the service at OMNI_URL: `python -m tests.conformance.agents codex`."""

import os
import re
import signal
import sys
import time

from tests.conformance.agents.agent import NOTE, Run, packed, running
from tests.conformance.agents.known import AGENTS
from tests.conformance.agents.shim import ForcedCall, ForcedFields
from tests.conformance.clients.checks import KEY, MODEL, URL, leaving, run

EDITED = "The secret word is pineapple."
LEAVE_S = 20


class Checks:
    """The checks of one agent; they share its home folder, so that a session can go on."""

    def __init__(self, agent: Run) -> None:
        self.agent = agent

    def asked(self) -> str:
        """The body of the last request."""
        return self.agent.shim.exchanges[-1].body.decode()

    def a_turn_is_answered(self) -> None:
        printed = self.agent.ask("Hello there!")
        assert packed(self.agent.last_text()) in packed(printed), (self.agent.last_text(), printed)

    def a_tool_runs_and_its_result_goes_back(self) -> None:
        self.agent.shim.forced = self.call()
        printed = self.agent.ask("Read note.txt")
        assert self.agent.shim.forced is None, "no request offered the tool"
        if self.agent.agent.reading is None:
            assert self.agent.place.note.read_text().strip() == EDITED
            return
        assert NOTE in self.asked(), self.asked()[-1000:]
        assert packed(self.agent.last_text()) in packed(printed), (self.agent.last_text(), printed)

    def call(self) -> ForcedCall | ForcedFields:
        """A call that reads the note; of an agent without tools, an answer that edits it."""
        if self.agent.agent.reading is None:
            return ForcedFields({"structured_outputs": {"regex": re.escape(f"note.txt\n```\n{EDITED}\n```\n")}})
        return self.agent.agent.reading({"const": self.agent.agent.named.format(note=self.agent.place.note)})

    def endless(self) -> ForcedCall | ForcedFields:
        """A call, or an answer, that is not over before it is cancelled."""
        reading = self.agent.agent.reading
        return reading({"type": "string", "minLength": 100_000}) if reading else ForcedFields({"ignore_eos": True})

    def a_session_goes_on(self) -> None:
        printed = self.agent.ask("What is the capital of France?", resumes=True)
        assert "Read note.txt" in self.asked(), "the turn before is not in the request"
        assert packed(self.agent.last_text()) in packed(printed), (self.agent.last_text(), printed)

    def ctrl_c_cancels_the_job(self) -> None:
        first = len(self.agent.shim.exchanges)
        self.agent.shim.forced = self.endless()
        with leaving():
            process = self.agent.start(*self.agent.agent.turn, "Read note.txt")
            deadline = time.monotonic() + LEAVE_S
            while not any(b"data:" in one.answer for one in self.agent.shim.exchanges[first:] if one.is_forced):
                assert time.monotonic() < deadline and process.poll() is None, "no answer began"
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=LEAVE_S)
        self.agent.say(f"SIGINT: exit status {process.returncode}", out, err)


def main(name: str) -> None:
    with running(AGENTS[name], URL, KEY, MODEL) as agent:
        checks = Checks(agent)
        try:
            run(
                checks.a_turn_is_answered,
                checks.a_tool_runs_and_its_result_goes_back,
                checks.a_session_goes_on,
                checks.ctrl_c_cancels_the_job,
            )
        finally:
            sys.stderr.write(f"{name} also asked for {sorted(set(agent.shim.foreign_hosts))}\n")


if __name__ == "__main__":
    main(sys.argv[1])
