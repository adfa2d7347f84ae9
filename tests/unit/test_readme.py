"""The README's answer is that of the frozen study."""

from pathlib import Path

from mufree.cli import main

ROOT = Path(__file__).parents[2]


def test_the_answer_is_that_of_the_frozen_study(tmp_path: Path) -> None:
    """`mufree answer`, after `snakemake paper`, leaves the README as it is."""
    frozen, verdicts = ROOT / "paper/data", str(tmp_path / "verdicts.csv")
    estimates, hypotheses = str(frozen / "tables/estimates.csv"), str(frozen / "hypotheses.yaml")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    numbers = ["numbers", "--frozen", str(frozen), "--follow-ups", str(ROOT / "paper/follow_ups")]
    for arguments in (
        ["verdicts", "--estimates", estimates, "--hypotheses", hypotheses, "--out", verdicts],
        [*numbers, "--verdicts", verdicts, "--out", str(tmp_path)],
        ["answer", "--numbers", str(tmp_path / "numbers.json"), "--answer", str(ROOT / "paper/answer.md"), str(readme)],
    ):
        assert main(arguments) == 0
    assert readme.read_text(encoding="utf-8") == text
