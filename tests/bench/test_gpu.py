"""bench.gpu at the tiny shape on a CPU, each part; what it does with failures, budgets and fallbacks."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu_bench import Bench
from bench.gpu_predictions import GOALS, PREDICTED, Goal, card_named, predictions_table
from bench.gpu_report import Report, read_lines
from bench.gpu_sections import SECTIONS, fitting, named, section_of
from bench.roofline import decoding

CPU = torch.device("cpu")
PARTS = tuple(dict.fromkeys(section.part for section in SECTIONS))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench("tiny", CPU, Report(tmp_path / "gpu.jsonl", "CPU"))


def lines_of(bench: Bench) -> list[dict[str, object]]:
    assert bench.report.out is not None
    return read_lines(bench.report.out)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_on_a_cpu(part: str, bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    names = named([part])
    assert gpu.run_part(names, bench, time.time() + 600) == 0, capfd.readouterr().out
    ended = {line["ended"]: line["failure"] for line in lines_of(bench) if "ended" in line}
    assert ended == dict.fromkeys(names, "")
    assert any("number" in line or "check" in line for line in lines_of(bench))


def failing(bench: Bench) -> None:
    raise TypeError("no such argument")


def with_run(monkeypatch: pytest.MonkeyPatch, name: str, run: Callable[[Bench], None]) -> None:
    changed = tuple(replace(section, run=run) if section.name == name else section for section in SECTIONS)
    monkeypatch.setattr("bench.gpu_sections.SECTIONS", changed)


def test_a_section_that_fails_costs_itself_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with_run(monkeypatch, "bandwidth", failing)
    assert gpu.run_part(["bandwidth", "elementwise times"], bench, time.time() + 60) == 1
    assert bench.report.out is not None
    assert gpu.failed(bench.report.out) == ["bandwidth"]
    assert [line["ended"] for line in lines_of(bench) if "ended" in line] == ["bandwidth", "elementwise times"]


def test_the_clock_that_ends_a_hanging_section_stops_with_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(gpu.faulthandler, "dump_traceback_later", lambda *_, **__: calls.append("started"))
    monkeypatch.setattr(gpu.faulthandler, "cancel_dump_traceback_later", lambda: calls.append("stopped"))
    with_run(monkeypatch, "bandwidth", failing)
    gpu.run_part(["bandwidth", "elementwise times"], bench, time.time() + 60)
    assert calls == ["started", "stopped"] * 2


@pytest.mark.filterwarnings("ignore")
def test_titles_say_that_it_is_a_fallback(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    gpu.run_part(["first token"], bench, time.time() + 60)
    assert "## FALLBACK (NativeDecoderRunner): Time to the first token" in capfd.readouterr().out
    assert all(line["fallback"] == "NativeDecoderRunner" for line in lines_of(bench) if "number" in line)


def test_a_small_budget_keeps_the_most_valuable_sections() -> None:
    names = [section.name for section in SECTIONS]
    kept = fitting(names, section_of("start").seconds + section_of("steps").seconds)
    assert kept == ["start", "steps"]
    assert fitting(names, 10_000) == names
    assert fitting(names, 0) == []


def test_what_does_not_fit_is_named(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    gpu.run_part(["bandwidth"], bench, time.time() - 1)
    assert "skipped, no time left: Memory bandwidth" in capfd.readouterr().out
    assert bench.report.out is not None
    assert gpu.failed(bench.report.out) == []


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown: stepz"):
        named(["stepz"])


def test_names_of_parts_and_sections_are_taken_in_the_order_of_a_run() -> None:
    assert named(["float32", "bandwidth"]) == ["bandwidth", "float32"]
    assert named([]) == [section.name for section in SECTIONS if section.part != "variants"]


def test_a_killed_process_leaves_half_a_line_that_is_not_read(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    out.write_text(json.dumps({"number": "a", "value": 1}) + '\n{"number": "b", "va')
    assert read_lines(out) == [{"number": "a", "value": 1}]


def test_a_goal_is_judged_by_its_card() -> None:
    goal = Goal("step/1x1024/p50 ms", (6.3, 4.7))
    assert goal.judged(5.0, card_named("NVIDIA H100 80GB HBM3"))[-1] == "pass"
    assert goal.judged(5.0, card_named("NVIDIA H200"))[-1] == "MISS"
    assert goal.judged(5.0, "CPU")[-1] == "another device"
    assert goal.judged(None, "H100")[-1] == "not measured"


def test_each_goal_has_a_prediction_or_is_one_of_exactness() -> None:
    assert all(goal.key in PREDICTED or goal.key.startswith("tokens/") for goal in GOALS)


def test_the_document_has_the_predictions() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()
    assert predictions_table() in text


@pytest.mark.filterwarnings("ignore")
def test_sequences_decode_together_though_their_prompts_take_many_steps(bench: Bench) -> None:
    engine = bench.engine_of(bench.model(), max_num_seqs=4, max_step_tokens=8)  # 30 steps of prompts, 3 of decodes
    with decoding(engine, 4, 60, 3):
        assert sum(sequence.is_decoding for sequence in engine.scheduler.running) == 4
