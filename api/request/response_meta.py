"""Metadata of an answer, stored with each of its jobs, so that any process can build the answer from its log."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from api.reading.choice import ParseOptions, parse_options, stored_options
from common.wire import job_id_of


@dataclass(frozen=True, slots=True)
class ResponseMeta:
    """Base of the endpoints' own; one instance describes one answer."""

    id: str  # of the answer and of its first job
    model: str
    created: int  # unix seconds

    @staticmethod
    def num_jobs(form: Mapping[str, Any]) -> int:
        """The number of jobs of an answer, from the stored form of the first one."""
        return 1

    def forms(self) -> list[dict[str, Any]]:
        """The JSON object that is stored with each job."""
        return [asdict(self)]

    @classmethod
    def from_forms(cls, forms: Sequence[Mapping[str, Any]]) -> Self:
        """The reverse of forms()."""
        return cls(**forms[0])


@dataclass(frozen=True, slots=True)
class ParsedMeta(ResponseMeta):
    """Base for endpoints that parse an answer's text."""

    reading: ParseOptions = field(default_factory=ParseOptions, kw_only=True)

    def forms(self) -> list[dict[str, Any]]:
        return [asdict(self) | {"reading": stored_options(self.reading)}]

    @classmethod
    def from_forms(cls, forms: Sequence[Mapping[str, Any]]) -> Self:
        return cls(**{**forms[0], "reading": parse_options(forms[0]["reading"])})


def job_ids(answer_id: str, num_jobs: int) -> list[str]:
    """The jobs of one answer, in order; the first one has the answer's id."""
    return [job_id_of(answer_id, number) for number in range(num_jobs)]
