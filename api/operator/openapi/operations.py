"""All operations of /openapi.json: those that answer, from inference.py, and those about the service itself."""

from collections.abc import Mapping
from types import MappingProxyType

from api.models import schema as models
from api.models.schema import ModelOrder, NamedModelOrder
from api.operator.adapter_requests import LoadAdapterRequest, UnloadAdapterRequest
from api.operator.openapi.described import AFTER, LIMIT, PAGES, Described, Query
from api.operator.openapi.inference import OPENAIS, OTHERS
from api.schema import answers
from api.schema.batch import answers as batches
from api.schema.batch.create import BatchRequest
from api.schema.service import state
from api.webhooks import schema as webhooks

TEXT: Mapping[str, str] = MappingProxyType({"type": "string"})
DATE: Mapping[str, str] = MappingProxyType({"type": "string", "format": "date"})
BATCHED = "The bodies of its lines are those of the route that it names; they run when nothing else waits."
DAYS = (
    Query("start_date", "The first day, in UTC; 30 days before the last if it is left out", DATE),
    Query("end_date", "The last day, in UTC; today if it is left out", DATE),
    Query("group_by", "`key`, `model` and `tier`, one or several with commas between them", TEXT),
    Query("key", "Only of these keys, by name: an admin's key sees all", TEXT),
    Query("model", "Only of these models", TEXT),
    Query("format", "`csv` for a table", MappingProxyType({"enum": ("json", "csv"), "default": "json"})),
)
USED = Described("What the key used, by day", state.UsagePage, says="An admin's key sees all keys.", query=DAYS)
UNIX_TIME: Mapping[str, str] = MappingProxyType({"type": "integer"})
AUDITED = Described(
    "What operators changed, newest first",
    state.AuditPage,
    says="Changes by admin keys and by `omni` commands: models, adapters, keys, webhook endpoints, other keys' jobs "
    "and batches. Kept for 400 days.",
    query=(
        *PAGES,
        Query("event_types", "Only these types, with commas between them", TEXT),
        Query("actor_ids", "Only by these: names of keys, their ids, or user@host", TEXT),
        Query("resource_ids", "Only of these models, keys, jobs, ...", TEXT),
        Query("effective_at[gt]", "After this time", UNIX_TIME),
        Query("effective_at[gte]", "Not before this time", UNIX_TIME),
        Query("effective_at[lt]", "Before this time", UNIX_TIME),
        Query("effective_at[lte]", "Not after this time", UNIX_TIME),
    ),
    needs_admin=True,
)
HEALTH = Described(
    "Healthy, or still loading (503)", state.Health,
    says="`progress` says what it waits for. The same is at `/health` and `/readyz`.", is_open=True,
)  # fmt: skip


def ordered(what: str) -> Described:
    return Described(
        f"{what}; 202 while it is not done", models.Model, ModelOrder, has_optional_body=True, needs_admin=True
    )


def llama_cpps(what: str) -> Described:
    return Described(f"{what}, as llama.cpp has it", models.Ordered, NamedModelOrder, needs_admin=True)


MODELS: Mapping[str, Described] = MappingProxyType(
    {
        "GET /v1/models": Described(
            "The served models, and where they are", models.ModelList,
            says="`root` is the weights that really run; `status` says whether they are loaded.",
        ),
        "GET /models": Described("The same, as llama.cpp has it", models.ModelList),
        "GET /v1/models/{name}": Described("One model", models.Model),
        "POST /v1/models/{name}/load": ordered("Load a model"),
        "POST /v1/models/{name}/unload": ordered("Unload a model"),
        "POST /v1/models/{name}/pin": ordered("Keep a model loaded"),
        "POST /v1/models/{name}/unpin": ordered("Let a model go when its place is needed"),
        "POST /models/load": llama_cpps("Load a model"),
        "POST /models/unload": llama_cpps("Unload a model"),
        "POST /v1/load_lora_adapter": Described(
            "Load an adapter", body=LoadAdapterRequest, media_type="text/plain", needs_admin=True
        ),
        "POST /v1/unload_lora_adapter": Described(
            "Unload an adapter", body=UnloadAdapterRequest, media_type="text/plain", needs_admin=True
        ),
    }
)  # fmt: skip
BATCHES: Mapping[str, Described] = MappingProxyType(
    {
        "POST /v1/files": Described(
            "Upload a file", batches.FileAnswer, batches.UploadForm, body_type="multipart/form-data", stores=True
        ),
        "GET /v1/files": Described("The key's files", batches.ListedFiles, query=PAGES),
        "GET /v1/files/{file_id}": Described("One file", batches.FileAnswer),
        "GET /v1/files/{file_id}/content": Described(
            "The bytes of a file, or a range of them", media_type="application/octet-stream"
        ),
        "DELETE /v1/files/{file_id}": Described("Delete a file", answers.Deleted),
        "POST /v1/batches": Described("Create a batch", batches.BatchAnswer, BatchRequest, BATCHED),
        "GET /v1/batches": Described("The key's batches", batches.ListedBatches, query=PAGES),
        "GET /v1/batches/{batch_id}": Described("One batch", batches.BatchAnswer),
        "POST /v1/batches/{batch_id}/cancel": Described("Cancel a batch", batches.BatchAnswer),
        "DELETE /v1/batches/{batch_id}": Described("Delete a batch that has ended, with its results", answers.Deleted),
        "POST /v1/messages/batches": Described(
            "Create a message batch", batches.MessageBatchAnswer, batches.MessageBatchBody, stores=True,
            error=answers.MessagesError,
        ),
        "GET /v1/messages/batches": Described(
            "The key's message batches", batches.ListedMessageBatches, query=(LIMIT,), error=answers.MessagesError
        ),
        "GET /v1/messages/batches/{batch_id}": Described(
            "One message batch", batches.MessageBatchAnswer, error=answers.MessagesError
        ),
        "GET /v1/messages/batches/{batch_id}/results": Described(
            "The results, as lines of JSON", media_type="application/x-jsonl", error=answers.MessagesError
        ),
        "POST /v1/messages/batches/{batch_id}/cancel": Described(
            "Cancel a message batch", batches.MessageBatchAnswer, error=answers.MessagesError
        ),
        "DELETE /v1/messages/batches/{batch_id}": Described(
            "Delete a message batch that has ended", batches.DeletedMessageBatch, error=answers.MessagesError
        ),
    }
)  # fmt: skip
WEBHOOKS: Mapping[str, Described] = MappingProxyType(
    {
        "GET /v1/webhook_event_types": Described("The types of events", webhooks.WebhookEventTypeList),
        "POST /v1/webhook_endpoints": Described(
            "Create a webhook endpoint", webhooks.WebhookSecretAnswer, webhooks.CreateWebhookRequest,
            "The answer has the secret that signs its events; it is not shown again.",
        ),
        "GET /v1/webhook_endpoints": Described(
            "The key's webhook endpoints", webhooks.WebhookEndpointList, query=PAGES
        ),
        "GET /v1/webhook_endpoints/{endpoint_id}": Described("One webhook endpoint", webhooks.WebhookEndpointAnswer),
        "POST /v1/webhook_endpoints/{endpoint_id}": Described(
            "Change a webhook endpoint", webhooks.WebhookEndpointAnswer, webhooks.UpdateWebhookRequest
        ),
        "DELETE /v1/webhook_endpoints/{endpoint_id}": Described("Delete a webhook endpoint", answers.Deleted),
        "POST /v1/webhook_endpoints/{endpoint_id}/rotate_secret": Described(
            "A new signing secret", webhooks.WebhookSecretAnswer, webhooks.RotateSecretRequest
        ),
        "POST /v1/webhook_endpoints/{endpoint_id}/test": Described(
            "Send a sample event now", webhooks.WebhookTestAnswer, webhooks.TestWebhookRequest
        ),
        "GET /v1/webhook_endpoints/{endpoint_id}/deliveries": Described(
            "Deliveries to an endpoint, newest first", webhooks.WebhookDeliveryList, query=PAGES
        ),
        "POST /v1/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/redeliver": Described(
            "Deliver again", webhooks.WebhookDelivery
        ),
    }
)  # fmt: skip
SERVICE: Mapping[str, Described] = MappingProxyType(
    {
        "GET /v1/jobs": Described("The key's own jobs", state.JobList, query=(LIMIT, AFTER)),
        "GET /v1/jobs/{job_id}": Described("One job: its state and place in the queue", state.Job),
        "DELETE /v1/jobs/{job_id}": Described(
            "Cancel a job", state.CancelledJob, says="And all prompts of the answer that has this id. An admin's key "
            "cancels any job.",
        ),
        "GET /v1/usage": USED,
        "GET /v1/organization/usage/completions": USED,
        "GET /v1/audit_logs": AUDITED,
        "GET /v1/organization/audit_logs": AUDITED,
        "GET /health": HEALTH,
        "GET /readyz": HEALTH,
        "GET /livez": Described("The process answers", state.Alive, is_open=True),
        "GET /openapi.json": Described("This document", is_open=True),
        "GET /metrics": Described("Metrics for Prometheus", media_type="text/plain", needs_admin=True),
        "GET /admin/board": Described(
            "The board: a snapshot a second", media_type="text/event-stream", needs_admin=True
        ),
    }
)  # fmt: skip
DESCRIBED: Mapping[str, Described] = MappingProxyType({**OPENAIS, **OTHERS, **MODELS, **BATCHES, **WEBHOOKS, **SERVICE})
