import pytest

from fleet.domain import approvals
from fleet.domain.approvals import Actor, Waiting
from fleet.domain.errors import ConflictError, ForbiddenError, InvalidInputError


def waiting(*given: str, required: int = 2) -> Waiting:
    return Waiting(who("user:anna"), required, tuple(who(name) for name in given))


def who(name: str) -> Actor:
    return Actor(name, f"identity of {name}")


@pytest.mark.parametrize(("policy", "namespace", "expected"), [(0, 0, 0), (2, 0, 2), (0, 3, 3), (1, 3, 3), (3, 1, 3)])
def test_required__policy_and_namespace__the_stricter_one(policy: int, namespace: int, expected: int) -> None:
    assert approvals.required(policy, namespace) == expected


def test_approve__one_of_two__waits_for_the_other() -> None:
    found = approvals.approve(waiting(), by=who("user:bo"), reason="read it", is_emergency=False)
    assert (found.given, found.missing) == (1, 1)
    assert found.sentence == "approved by 1 of 2; waits for 1 more"


def test_approve__second_of_two__enough() -> None:
    found = approvals.approve(waiting("user:bo"), by=who("user:cy"), reason="read it", is_emergency=False)
    assert (found.missing, found.sentence) == (0, "approved by 2 of 2")


def test_approve__by_the_starter__refused() -> None:
    with pytest.raises(ForbiddenError, match="somebody else than user:anna"):
        approvals.approve(waiting(), by=who("user:anna"), reason="mine", is_emergency=False)


def test_approve__twice_by_the_same__refused() -> None:
    with pytest.raises(ConflictError, match="user:bo"):
        approvals.approve(waiting("user:bo"), by=who("user:bo"), reason="again", is_emergency=False)


@pytest.mark.parametrize("reason", ["", "   ", "x" * 501])
def test_approve__without_a_reason__refused_in_an_emergency_too(reason: str) -> None:
    for is_emergency in (False, True):
        with pytest.raises(InvalidInputError, match="a reason of 1 to 500"):
            approvals.approve(waiting(), by=who("user:bo"), reason=reason, is_emergency=is_emergency)


@pytest.mark.parametrize("actor", ["user:anna", "user:bo", "user:dan"])
def test_approve__emergency__enough_by_anybody_and_called_so(actor: str) -> None:
    found = approvals.approve(waiting("user:bo"), by=who(actor), reason="fire", is_emergency=True)
    assert found.missing == 0
    assert found.sentence.startswith("an emergency: approved with ")


def test_approve__starter_in_an_emergency__never_counts_as_one_of_the_others() -> None:
    found = approvals.approve(waiting(), by=who("user:anna"), reason="fire", is_emergency=True)
    assert (found.given, found.sentence) == (0, "an emergency: approved with 0 of 2 approvals")


@pytest.mark.parametrize("name", ["user:anna", "token:annas/1", "token:annas/2"])
def test_approve__starter_under_another_name__refused(name: str) -> None:
    asked = Waiting(Actor("token:annas/1", "user#1"), 1)
    with pytest.raises(ForbiddenError, match=f"somebody else than {name}"):
        approvals.approve(asked, by=Actor(name, "user#1"), reason="mine", is_emergency=False)


def test_approve__one_person_with_two_tokens__counts_once() -> None:
    asked = Waiting(who("user:anna"), 2, (Actor("token:bo/1", "user#2"),))
    with pytest.raises(ConflictError, match="token:bo/2"):
        approvals.approve(asked, by=Actor("token:bo/2", "user#2"), reason="again", is_emergency=False)
    assert approvals.approve(asked, by=Actor("token:bo/2", "user#2"), reason="fire", is_emergency=True).given == 1


def test_approve__token_of_nobody__refused_except_in_an_emergency() -> None:
    with pytest.raises(ForbiddenError, match="expected a person, got token:ci/1"):
        approvals.approve(waiting(), by=Actor("token:ci/1"), reason="read it", is_emergency=False)
    assert approvals.approve(waiting(), by=Actor("token:ci/1"), reason="fire", is_emergency=True).missing == 0


def test_actor__nobody_said_whose_they_are__two_tokens_are_not_taken_for_one() -> None:
    assert not Actor("token:a/1").is_same_as(Actor("token:b/2"))
    assert Actor("token:a/1").is_same_as(Actor("token:a/1"))
