"""The simulation of many models shows what docs/benchmarks.md says of it."""

from bench.swaps import RIVALS, Result, measure, parsed, quantile

OPTIONS = parsed(["--jobs", "120", "--seed", "7"])


def results(num_models: int) -> dict[str, Result]:
    return {rival.name: measure(OPTIONS, num_models, rival) for rival in RIVALS}


def test_first_tokens_come_sooner_than_from_those_who_serve_in_the_order_of_arrival() -> None:
    found = {name: quantile(result.waits, 0.95) for name, result in results(4).items()}
    assert found["this policy"] < found["until nothing is left"]
    assert found["this policy"] < found["in the order of arrival"] / 3


def test_models_that_fit_together_are_loaded_once() -> None:
    options = parsed(["--jobs", "60", "--fit", "3"])
    assert measure(options, 3, RIVALS[0]).num_swaps == 3
