"""Formulas are read without eval, and right means what autograd says."""

import pytest
import torch

from sto_lite.formulas import check_formula, read_formula
from sto_lite.losses import kd_loss

PROBABILITIES = {"p": (0.05, 0.95), "q": (0.05, 0.95), "T": (1, 8), "N": (1, 9)}


def by_autograd(p, q, T, N):
    """Gradient of the distillation loss by a student's first logit, in a batch of N, of which others agree."""
    images = 4
    student = T * torch.tensor([[q, 1 - q]] * images, dtype=torch.float64).log()
    teacher = T * torch.tensor([[p, 1 - p]] * images, dtype=torch.float64).log()
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(kd_loss(student, teacher, T), student)
    return gradient[0, 0].item() * images / N


@pytest.mark.parametrize(
    "right", ["T*(q-p)/N", "-(p - q)*T/N", "T^2*(q/T - p/T)/N", "exp(log(T))*(q-p)/sqrt(N**2)"]
)
def test_every_form_of_the_right_answer_is_right(right):
    assert check_formula(right, by_autograd, PROBABILITIES, seed=0) == ""


WRONG = {
    "T*(p-q)/N": "sign",
    "T*(q-p)/(2*N)": "constant factor",
    "3*T*(q-p)/N": "constant factor",
    "(q-p)/N": "depend on T",
    "T*(q-p)": "depend on N",
    "T*q/N": "depend on p",
    "-T*p/N": "depend on q",
    "T*q*(1-q)/N": "depend on p",
    "1": "depend on anything",
    "log(-T)": "no real value",
    "1/(T-T)": "no real value",
    **dict.fromkeys(
        (
            *("T**2*(q-p)/N", "(q-p)/(T*N)", "T*(q+p)/N", "T*(q-p)**2/N", "T*(q-p)/N**2"),
            *("T*(exp(q)-exp(p))/N", "T*log(q/p)/N", "T*(q-p)/N + 1/1000", "T*(q-p)*q/N", "sqrt(T)*(q-p)/N"),
            *("T*(q-2*p)/N", "T*(q-p)/(N+1)"),
        ),
        "another function",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_refused_with_a_hint_that_does_not_give_it_away(wrong):
    hint = check_formula(wrong, by_autograd, PROBABILITIES, seed=0)
    assert WRONG[wrong] in hint
    assert "q - p" not in hint and "q-p" not in hint


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ("__import__('os').system('true')", "no part of a formula"),
        ("(lambda: 1)()", "no part of a formula"),
        ("p.real", "no part of a formula"),
        ("[p for p in q]", "no part of a formula"),
        ("eval('p')", "no part of a formula"),
        ("'p' * 3", "no part of a formula"),
        ("True", "no part of a formula"),
        ("x + p", "no symbol x; there are p, q"),
        ("2**1000000000", "an exponent is between"),
        ("2**2**2**2**2", "an exponent is between"),
        ("p**(0/0)", "an exponent is between"),
        ("2**exp(exp(exp(50)))", "an exponent is between"),
        ("T(q - p)", "no part of a formula"),
        ("T*(q-p", "is a bracket or a * missing"),
        ("", "an answer is text"),
        ("p+" * 400 + "p", "at most 500 characters"),
    ],
)
def test_what_is_no_formula_is_told_and_never_run(odd, said):
    with pytest.raises(ValueError, match=said.replace("*", r"\*")):
        read_formula(odd, PROBABILITIES)


def test_a_huge_number_costs_no_time():
    assert read_formula("1" * 400 + "**99", PROBABILITIES).is_Float
