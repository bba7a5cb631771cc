"""Scores of pairs by an embedder: the cosine between the vectors of two texts."""

from collections import defaultdict
from collections.abc import Container, Sequence

import torch
from torch.nn.functional import cosine_similarity


class PairScores:
    """The scores of one request, each given out as soon as both vectors are there."""

    def __init__(self, pairs: Sequence[tuple[int, int]], logged: Container[int]) -> None:
        """Leaves out the pairs whose scores are logged already."""
        self._pairs = pairs
        self._pairs_of = defaultdict[int, list[int]](list)  # input -> numbers of pairs
        self._vectors: dict[int, torch.Tensor] = {}
        for number, pair in enumerate(pairs):
            for index in {*pair} if number not in logged else ():
                self._pairs_of[index].append(number)

    def needs(self, index: int) -> bool:
        return index in self._pairs_of

    def add(self, index: int, vector: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """(number of the pair, score [1]) for each pair that this input's vector completes."""
        self._vectors[index] = vector
        complete = [number for number in self._pairs_of[index] if self._vectors.keys() >= {*self._pairs[number]}]
        return [(number, self._score(*self._pairs[number])) for number in complete]

    def _score(self, first: int, second: int) -> torch.Tensor:
        return cosine_similarity(self._vectors[first], self._vectors[second], dim=0)[None].clamp(-1, 1)
