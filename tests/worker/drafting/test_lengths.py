"""The chosen lengths give the most tokens per second that the measured costs allow."""

import random
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from common.wire import SamplingParams
from worker.drafting.drafter import Drafter
from worker.drafting.lengths import MAX_ALLOWANCE_S, RISE, WEIGHT, Lengths, Measured, best_lengths
from worker.drafting.lookup import PromptLookup
from worker.state.sequence import Sequence


def rate(lengths: tuple[int, ...] | list[int], chances: list[float], step_s: list[float], guess_s: float) -> float:
    """Expected tokens per second."""
    tokens = sum(
        1 + sum(chance**ahead for ahead in range(1, num + 1)) for num, chance in zip(lengths, chances, strict=True)
    )
    return tokens / (step_s[sum(lengths)] + max(lengths) * guess_s)


@pytest.mark.parametrize("seed", range(60))
def test_no_other_lengths_are_better(seed: int) -> None:
    rng = random.Random(seed)
    num_seqs = rng.randint(1, 3)
    rooms = [rng.randint(0, 3) for _ in range(num_seqs)]
    budget = min(sum(rooms), rng.randint(1, 6))
    chances = [rng.choice((0.0, 0.3, 0.7, 0.95, 1.0, rng.random())) for _ in range(num_seqs)]
    step_s = np.cumsum([1.0, *(rng.choice((0.0, 0.05, 0.5)) for _ in range(budget))])
    guess_s = rng.choice((0.0, 0.05, 0.3))
    lengths = best_lengths(chances, rooms, step_s, guess_s)
    assert all(0 <= num <= room for num, room in zip(lengths, rooms, strict=True)) and sum(lengths) <= budget
    allowed = (each for each in product(*(range(room + 1) for room in rooms)) if sum(each) <= budget)
    best = max(rate(each, chances, step_s.tolist(), guess_s) for each in allowed)
    assert rate(lengths, chances, step_s.tolist(), guess_s) == pytest.approx(best)


def test_better_guesses_are_followed_further() -> None:
    step_s = 1 + 0.02 * np.arange(17)
    lengths = [best_lengths([chance], [16], step_s, 0.1)[0] for chance in (0.05, 0.5, 0.7, 0.9, 0.99)]
    assert lengths == sorted(lengths) and lengths[0] == 0 and lengths[-1] == 16


def test_where_a_token_costs_the_same_drafted_or_not_nothing_is_drafted() -> None:
    assert best_lengths([0.9] * 4, [5] * 4, 4.0 + np.arange(21), 0.0) == [0, 0, 0, 0]


def test_measurements_never_fall_with_the_size_and_move_together() -> None:
    measured = Measured()
    measured.note(2, 1.0)
    measured.note(8, 0.9)
    measured.note(16, 3.0)
    assert measured.seconds(np.array([1, 2, 8, 12, 16, 99])) == pytest.approx([1.0, 1.0, 1.0, 2.0, 3.0, 3.0])
    for _ in range(200):  # everything takes twice as long, but only one size is seen
        measured.note(16, 6.0)
    assert measured.seconds(np.array([16]))[0] == pytest.approx(6.0, rel=0.01)
    assert measured.seconds(np.array([2]))[0] > 1.1


def test_one_outlier_changes_little() -> None:
    measured = Measured()
    for seconds in (1.0, 1.0, 50.0):
        measured.note(4, seconds)
    assert measured.seconds(np.array([4]))[0] <= 1.5


@pytest.mark.parametrize("rise", [RISE, WEIGHT])
def test_noise_in_one_size_leaves_the_others_where_they_were(rise: float) -> None:
    measured, rng = Measured(rise), random.Random(0)
    measured.note(1, 1.0)
    measured.note(32, 2.0)
    for _ in range(20_000):
        measured.note(27, 1.5 * rng.uniform(0.8, 1.2))
    assert measured.seconds(np.array([1, 32])) == pytest.approx([1.0, 2.0], rel=0.1)


LOOKUP = 0.001  # of a step's time


class Machine:
    """Streams on a machine whose steps take `step_s(tokens)`, with a draft model that takes `share` of that.

    A guess is right with `chance`. With a share of LOOKUP or less no prompt is read before the first one.
    """

    def __init__(self, step_s: Callable[[int], float], share: float, chance: float, num_streams: int) -> None:
        self.step_s, self.share, self.chance = step_s, share, chance
        self.rng = random.Random(0)
        self.streams = [self.new_stream() for _ in range(num_streams)]
        self.lengths = Lengths(48, introduces=share > LOOKUP)
        self.num_behind = {stream: stream.num_tokens for stream in self.streams}
        self.wanted: set[Sequence] = set()
        self.max_tokens = 300

    def new_stream(self) -> Sequence:
        num = self.rng.randint(50, 300)
        sampling = SamplingParams(max_tokens=999, seed=0)
        return Sequence("r", 0, sampling, [1] * num, num, None, frozenset())  # type: ignore[arg-type]

    def speedup(self, num_steps: int = 1500) -> float:
        """Tokens per second over those without drafts."""
        seconds, num_tokens = 0.0, 0
        for _ in range(num_steps):
            lengths = self.lengths.choose(self.streams, [5] * len(self.streams))
            drafts = {stream: num for stream, num in zip(self.streams, lengths, strict=True) if num}
            seconds += self.guess(drafts)
            size = len(self.streams) + sum(drafts.values())
            step_s = self.step_s(size) * self.noise()
            for stream in list(self.streams):
                num_tokens += self.verify(stream, drafts.get(stream, 0))
            self.lengths.note_step(len(self.streams), size, step_s)
            seconds += step_s
        return num_tokens / len(self.streams) * self.step_s(len(self.streams)) * 1.05 / seconds

    def guess(self, drafts: dict[Sequence, int]) -> float:
        if not drafts:
            return 0.0
        behind = sum(max(0, self.num_behind[stream] - 1) for stream in drafts)
        ahead = max(drafts.values())
        read_s = self.step_s(behind) - self.step_s(0) if self.lengths.introduces else 0.0
        seconds = self.share * (ahead * self.step_s(len(drafts)) + read_s) * self.noise()
        self.num_behind.update(dict.fromkeys(drafts, 0))
        self.lengths.note_guess(len(drafts), ahead, seconds, is_usual=drafts.keys() <= self.wanted)
        self.wanted = set(drafts)
        return seconds

    def verify(self, stream: Sequence, num_drafted: int) -> int:
        num_right = 0
        while num_right < num_drafted and self.rng.random() < self.chance:
            num_right += 1
        if num_drafted:
            self.lengths.note_verified(stream, num_drafted, num_right)
        stream.token_ids += [1] * (num_right + 1)
        self.num_behind[stream] += num_right + 1
        if stream.num_completion_tokens > self.max_tokens:
            self.lengths.forget(stream)
            self.streams[self.streams.index(stream)] = new = self.new_stream()
            self.num_behind[new] = new.num_tokens
        return num_right + 1

    def noise(self) -> float:
        return 1 + 0.1 * self.rng.random()


def bound_by_memory(num_tokens: int) -> float:
    return 10e-3 + 1e-5 * num_tokens


def bound_by_arithmetic(num_tokens: int) -> float:
    return 2e-3 + 8e-3 * num_tokens


@pytest.mark.parametrize(
    ("step_s", "share", "chance", "num_streams", "least"),
    [
        (bound_by_memory, 0.1, 0.95, 1, 2.4),
        (bound_by_memory, 0.1, 0.8, 1, 1.8),
        (bound_by_memory, 0.3, 0.8, 1, 1.2),
        (bound_by_memory, 0.1, 0.8, 16, 1.5),
        (bound_by_memory, 0.3, 0.05, 1, 0.95),
        (bound_by_memory, 0.3, 0.3, 16, 0.95),
        (bound_by_arithmetic, 0.1, 0.05, 1, 0.95),
        (bound_by_arithmetic, 0.3, 0.8, 4, 0.95),
        (bound_by_arithmetic, 0.1, 0.95, 16, 0.94),  # what the first steps cost to learn
    ],
)
def test_drafts_pay_where_they_can_and_cost_little_where_they_cannot(
    step_s: Callable[[int], float], share: float, chance: float, num_streams: int, least: float
) -> None:
    assert Machine(step_s, share, chance, num_streams).speedup() >= least


def test_short_answers_of_many_streams_get_prompt_lookup_from_their_first_step_on() -> None:
    machine = Machine(bound_by_memory, LOOKUP, 0.8, 8)
    machine.max_tokens = 20
    machine.speedup(300)
    assert machine.speedup(1000) >= 3
    assert not Drafter(PromptLookup(), 4).lengths.introduces


@pytest.mark.parametrize("num_streams", [4, 16])
def test_drafts_that_pay_pay_for_good(num_streams: int) -> None:
    machine = Machine(bound_by_memory, 0.1, 0.8, num_streams)
    first = machine.speedup(1000)
    machine.speedup(4000)
    assert machine.speedup(1000) >= 0.97 * first > 1.5


def test_guesses_that_become_good_are_found_out() -> None:
    machine = Machine(bound_by_memory, 0.1, 0.05, 1)
    machine.speedup(400)
    machine.chance = 0.95
    machine.speedup(600)
    assert machine.speedup(400) >= 2


def test_a_sequence_without_guesses_does_not_keep_others_from_being_tried() -> None:
    """The shortest would be tried forever."""
    machine = Machine(bound_by_memory, 0.1, 0.9, 2)
    lengths, (short, other) = machine.lengths, machine.streams
    short.token_ids = [1]
    tried = set()
    for _ in range(300):
        chosen = lengths.choose([short, other], [5, 5])
        tried.update(stream for stream, num in zip((short, other), chosen, strict=True) if num)
        lengths.note_step(2, 2, 10e-3)
    assert tried == {short, other}


@pytest.mark.parametrize("max_tokens", [2, 4, 300])
def test_answers_of_any_length_leave_drafts_to_those_after_them(max_tokens: int) -> None:
    """An answer that ends after its first guess has shown nothing of what guesses cost."""
    machine = Machine(bound_by_memory, 0.1, 0.9, 1)
    assert machine.speedup(200) > 1.5
    machine.max_tokens = max_tokens
    machine.speedup(20)
    machine.max_tokens = 300
    assert machine.speedup(200) > 1.5


def test_when_the_newcomer_ends_after_one_guess_the_next_one_is_drafted_for() -> None:
    machine = Machine(bound_by_memory, 0.1, 0.9, 1)
    machine.speedup(200)
    for _ in range(20):
        (stream,) = machine.streams
        machine.lengths.forget(stream)
        new = machine.new_stream()
        machine.streams, machine.num_behind[new] = [new], new.num_tokens
        (num,) = machine.lengths.choose([new], [5])
        assert num > 0
        machine.guess({new: num})
        machine.verify(new, num)
        machine.lengths.note_step(1, 1 + num, bound_by_memory(1 + num))


def test_a_size_that_was_measured_is_known() -> None:
    for size in range(1, 300):
        measured = Measured()
        measured.note(size, 1.0)
        assert measured.knows(size), size


def test_an_hour_without_probes_is_not_followed_by_a_burst_of_them() -> None:
    lengths = Lengths(48)
    for _ in range(180_000):
        lengths.note_step(1, 1, 0.02)
    assert lengths._probe.allowance_s <= MAX_ALLOWANCE_S
