"""The page on DeepSeek-V3.2 shows what the arithmetic gives."""

from transformers import DeepseekV32Config

from bench.deepseek import DOC, expert_numbers, filled, parts


def test_the_tables_of_the_page_are_those_of_the_arithmetic() -> None:
    page = DOC.read_text()
    assert filled(page) == page, "python -m bench.deepseek --write"
    assert filled(page.replace("| 1 | 3.1% |", "| 1 | 3.2% |")) == page


def test_the_parts_are_the_whole_model() -> None:
    """671.9 billion parameters are counted in its files; norms and biases are the rest."""
    config = DeepseekV32Config()
    total = sum(part.count for part in parts(config)) + expert_numbers(config)
    assert abs(total - 671.88e9) < 0.01e9
