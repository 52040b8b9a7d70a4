"""What requests cost, and a budget that what is in flight cannot exceed."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.synthesis.models.base import Account, Budget, BudgetSpent, Prices
from contextcir.synthesis.models.chat import ChatModel
from tests.helpers.asking import GOOD, ask, endpoint, requests
from tests.helpers.model_faults import Reply, broken, cut, slow
from tests.helpers.model_server import ModelServer

PRICED = ChatModel("m", max_tokens=100, prices=Prices(input=2.0, output=10.0, currency="EUR"))


def until_spent(model, asked):
    """All answers until the budget is spent, and the message."""
    told = []

    async def collect():
        async for answer in model.answer(asked):
            told.append(answer)

    with pytest.raises(BudgetSpent) as caught:
        asyncio.run(collect())
    return told, str(caught.value)


def test_an_answer_costs_what_its_tokens_cost():
    pytest.importorskip("openai")
    with ModelServer(lambda body: GOOD) as server:
        model = endpoint(server.url, chat=PRICED)
        answers = ask(model, requests(3))
    for answer in answers.values():
        usage = answer.usage
        assert usage["input_tokens"] > 0 and usage["output_tokens"] > 0
        assert usage["cost"] == pytest.approx((usage["input_tokens"] * 2 + usage["output_tokens"] * 10) / 1e6)
    total = sum(answer.usage["cost"] for answer in answers.values())
    assert model.account.spent["cost"] == pytest.approx(total)


@pytest.mark.parametrize("budget", [Budget(cost=0.006), Budget(tokens=3000), Budget(requests=7)])
def test_a_budget_stops_the_run_before_it_is_exceeded_with_all_that_was_paid_told(budget):
    pytest.importorskip("openai")
    with ModelServer(lambda body: GOOD, lambda number, body: slow(0.01)) as server:
        model = endpoint(server.url, chat=PRICED, concurrency=8, budget=budget)
        told, message = until_spent(model, requests(500))
        assert 0 < len(told) == len(server.asked) < 500
    assert budget.exceeded(model.account.spent) is None
    assert "budget." in message and "raise the budget" in message
    assert model.account.in_flight == 0


def test_a_larger_budget_goes_on_and_what_was_spent_earlier_counts():
    pytest.importorskip("openai")
    with ModelServer(lambda body: GOOD) as server:
        first = endpoint(server.url, budget=Budget(requests=3))
        told, _ = until_spent(first, requests(5))
        again = endpoint(server.url, budget=Budget(requests=5))
        again.count_earlier(answer.usage for answer in told)
        again.count_earlier(answer.usage for answer in told)  # the same usages before the next stage
        rest = ask(again, [one for one in requests(5) if one.key not in {answer.key for answer in told}])
        assert len(told) + len(rest) == len(server.asked) == 5
        assert server.paid_twice() == []
        until_spent(again, requests(1))


def test_what_a_server_does_not_tell_counts_as_the_most_that_it_may_be():
    pytest.importorskip("openai")
    with ModelServer(lambda body: GOOD, [Reply(usage=False), cut(), None, broken()]) as server:
        model = endpoint(server.url, chat=PRICED, concurrency=1)
        answers = ask(model, requests(3))
    assert answers["0"].usage["output_tokens"] == 100
    assert answers["1"].usage["requests"] == 2 and 100 < answers["1"].usage["output_tokens"] < 200
    assert answers["2"].usage["requests"] == 2 and answers["2"].usage["output_tokens"] < 100


@given(
    st.lists(st.tuples(st.floats(1, 50), st.floats(0, 1), st.booleans()), max_size=40),
    st.floats(10, 200),
)
@settings(max_examples=100, deadline=None)
def test_no_order_of_beginnings_and_ends_exceeds_a_budget(steps, limit):
    account, flying = Account(Budget(tokens=limit)), []
    for tokens, share, ends in steps:
        most = Prices().usage(tokens, 0)
        if account.reserve(most):
            flying.append((most, Prices().usage(tokens * share, 0)))
        else:
            assert account.spent["input_tokens"] + sum(one["input_tokens"] for one, _ in flying) + tokens > limit
        if ends and flying:
            account.settle(*flying.pop(0))
        assert account.spent["input_tokens"] + account.reserved["input_tokens"] <= limit * (1 + 1e-9)
    assert account.in_flight == len(flying)


@pytest.mark.parametrize("wrong", [{"cost": 0}, {"tokens": -1}, {"requests": float("nan")}])
def test_a_budget_of_nothing_is_an_error(wrong):
    with pytest.raises(ValueError, match="budget"):
        Budget(**wrong)


def test_a_budget_of_money_needs_prices():
    with pytest.raises(ValueError, match="needs prices"):
        endpoint("http://localhost:1/v1", budget=Budget(cost=1))
