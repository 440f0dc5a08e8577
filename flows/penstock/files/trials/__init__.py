"""Tests of flows in virtual time: what a test says, how it is played by the real engine, and how it is judged."""

from penstock.files.trials.case import Case
from penstock.files.trials.cases import cases_of
from penstock.files.trials.form import CASES
from penstock.files.trials.judge import Verdict, judge
from penstock.files.trials.play import Played, play

__all__ = ["CASES", "Case", "Played", "Verdict", "cases_of", "judge", "play"]
