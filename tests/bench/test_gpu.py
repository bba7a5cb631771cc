"""bench.gpu at the tiny shape on a CPU, each part; what it does with failures, budgets and fallbacks."""

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.gpu_bench import Bench
from bench.gpu_predictions import GOALS, PREDICTED, Goal, card_named
from bench.gpu_report import Report, read_lines
from bench.gpu_sections import SECTIONS, fitting, named, section_of
from bench.roofline import decoding
from worker.runners.probe import GPU_PROBE_LENGTH, MAX_DEVIATION, deviation_of

CPU = torch.device("cpu")
PARTS = tuple(dict.fromkeys(section.part for section in SECTIONS))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench("tiny", CPU, Report(tmp_path / "gpu.jsonl", "CPU"))


def lines_of(bench: Bench) -> list[dict[str, object]]:
    assert bench.report.out is not None
    return read_lines(bench.report.out)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Parts"]:
    folder = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "-m", "tests.bench.gpu_parts", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        yield Parts(folder, process)
        process.kill()


@dataclass(frozen=True)
class Parts:
    """A process that runs one part after the other."""

    folder: Path
    process: subprocess.Popen[str]

    def run(self, part: str) -> tuple[str, list[dict[str, object]]]:
        """What it printed, and its lines in the report."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(part, file=self.process.stdin, flush=True)
        printed = []
        for line in self.process.stdout:
            printed.append(line)
            if line.startswith(f"== {part}: "):
                break
        return "".join(printed), read_lines(self.folder / f"{part}.jsonl")


@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_on_a_cpu(part: str, parts: Parts) -> None:
    printed, lines = parts.run(part)
    assert printed.endswith(f"== {part}: 0\n"), printed
    assert {line["ended"]: line["failure"] for line in lines if "ended" in line} == dict.fromkeys(named([part]), "")
    assert any("number" in line or "check" in line for line in lines)


def test_the_random_model_is_no_test_of_rounding_and_notices_wrong_attention(bench: Bench) -> None:
    """At the 8B's depth; with weights of one size, attention in another order differs by 0.08 in bf16."""
    model = bench.model(32)
    tokens = torch.arange(GPU_PROBE_LENGTH)[None] * 7 % 511 + 1
    with torch.inference_mode():
        expected = model(input_ids=tokens, use_cache=False).logits[0, -1].float()
        model.set_attn_implementation("eager")
        found = model(input_ids=tokens, use_cache=False).logits[0, -1].float()
        without_half = model(input_ids=tokens[:, GPU_PROBE_LENGTH // 2 :], use_cache=False).logits[0, -1].float()
    assert deviation_of(found, expected) < MAX_DEVIATION[torch.bfloat16] / 2
    assert deviation_of(without_half, expected) > 2 * MAX_DEVIATION[torch.bfloat16]


def test_the_bandwidth_is_measured_once(bench: Bench) -> None:
    assert bench.read_bandwidth() > 0
    bench.report.number("bandwidth/read GB/s", 12.5)
    assert bench.read_bandwidth() == 12.5e9


def test_sections_that_did_not_fit_by_estimate_run_if_others_took_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quick(names: list[str], args: object, out: Path, until: float) -> None:
        """Each process runs one section, in no time."""
        report = Report(out, "CPU")
        report.line({"began": names[0]})
        report.line({"ended": names[0], "seconds": 0.1, "failure": ""})
        report.close()

    monkeypatch.setattr(gpu, "run_apart", quick)
    first, second = section_of("steps"), section_of("products")
    out, seconds = tmp_path / "gpu.jsonl", second.seconds + 1
    assert gpu.run_all([first.name, second.name], Namespace(shape="8b", device="cpu"), out, time.time() + seconds)
    assert [line["ended"] for line in read_lines(out) if "ended" in line] == ["steps", "products"]
    assert not [line for line in read_lines(out) if "skipped" in line]


@pytest.mark.filterwarnings("ignore")
def test_a_profile_without_kernels_passes_no_goal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.gpu_profile.kernels_of", lambda profiler, on_gpu: [])
    assert gpu.run_part(["profile"], bench, time.time() + 60) == 1
    assert not [line for line in lines_of(bench) if str(line.get("number", "")).startswith("kernels a layer")]


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
    assert named([]) == [section.name for section in SECTIONS if section.part not in ("variants", "ram")]


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


@pytest.mark.filterwarnings("ignore")
def test_sequences_decode_together_though_their_prompts_take_many_steps(bench: Bench) -> None:
    engine = bench.engine_of(bench.model(), max_num_seqs=4, max_step_tokens=8)  # 30 steps of prompts, 3 of decodes
    with decoding(engine, 4, 60, 3):
        assert sum(sequence.is_decoding for sequence in engine.scheduler.running) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--only", "frob"], "--only: unknown: frob; there are"), ([], "sees no GPU here; --shape tiny --device cpu")],
)
def test_what_cannot_run_is_refused_in_a_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(words)
    assert said in capsys.readouterr().err


def test_the_variants_are_a_part_of_their_own() -> None:
    assert set(named(["variants"])).isdisjoint(named([]))
