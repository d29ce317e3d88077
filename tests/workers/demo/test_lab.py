"""Single images of the demo's cache in the lab: what is said of them, by Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vlq
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadArgument, NotFound, QueryError, UnknownToken
from vlq.workers.intervene.changes import Block, Change
from vlq.workers.intervene.lab import Lab
from vlq.workers.intervene.prompted import Prompted, Target

from ..runs import Vlq


@pytest.fixture(scope="module")
def lab(demo_cache: Path) -> Lab:
    corpus = vlq.open(str(demo_cache))
    assert isinstance(corpus, LocalCorpus)
    return Lab(corpus)


def prompted_of(lab: Lab, number: int) -> Prompted:
    return lab._image(number, None)[1]


def test_knockout(lab: Lab) -> None:
    number = lab.corpus.locate("dog", layer=7).rows[0]["image_id"]
    name = lab.corpus.locate("dog", layer=7).rows[0]["image"]
    patches = lab.corpus.locate("dog", layer=7).rows[0]["patches"]
    found = lab.knockout(name, "locate('dog', layer=7)", "dog", window=3)
    assert found.summary["patches"] == patches
    assert [row["layers"] for row in found.rows] == ["1-3", "2-4", "3-5", "4-6", "5-7", "6-8"]
    prompted = prompted_of(lab, number)
    ids = tuple(token["id"] for token in found.tokens)
    keys = tuple(prompted.patches[patches].tolist())
    for first, row in enumerate(found.rows, 1):
        change = Change(blocked=(Block((prompted.length - 1,), keys, (first, first + 1, first + 2)),))
        (wanted,) = prompted.outcomes([change], [Target(ids)])
        assert row["after"] == pytest.approx(wanted.logprob[0], abs=1e-4)
        assert row["effect"] == row["before"] - row["after"]
        assert row["rank"] == wanted.rank[0]
    assert max(row["effect"] for row in found.rows) > 0.5
    assert found.summary["answer_before"] == lab.corpus.images(vlq.col("image_id") == number).rows[0]["answer"]
    by_number = lab.knockout(number, patches, "dog", window=3)
    assert by_number.rows == found.rows
    rest = lab.knockout(number, patches, "dog", others=True)
    assert [row["layers"] for row in rest.rows] == ["1-8"]
    late = lab.knockout(number, patches, "dog", layers=(8, 8))
    assert rest.rows[0]["effect"] < 0 < late.rows[0]["effect"]
    assert rest.headline.endswith(f"dog gains most in layers 1-8: {-rest.rows[0]['effect']:.3f} nats")
    assert late.headline.endswith(f"dog loses most in layer 8: {late.rows[0]['effect']:.3f} nats")


def test_states_of_another_image(lab: Lab) -> None:
    answers = {row["image_id"]: row["answer"] for row in lab.corpus.images().rows}
    one = next(iter(answers))
    other = next(number for number, answer in answers.items() if answer != answers[one])
    found = lab.patch(one, other, answers[other])
    assert [row["layer"] for row in found.rows] == [*range(9)]
    assert found.rows[0]["share"] == pytest.approx(0, abs=1e-3)  # the same token in both
    assert found.rows[-1]["share"] == pytest.approx(1, abs=1e-3)
    assert found.rows[-1]["answer"] == answers[other] == found.summary["answer_source"]
    patches = lab.patch(one, other, answers[other], at="patches", layers=[0, 8])
    assert patches.rows[0]["answer"] == answers[other]  # all that the model sees of the image
    assert patches.rows[1]["share"] == pytest.approx(0, abs=1e-3)  # too late for the last token
    some = lab.patch(one, other, answers[other], at=[0, 1, 2], layers=[0])
    assert -0.5 < some.rows[0]["share"] < 1.5


def test_steering(lab: Lab) -> None:
    found = lab.steer(0, "rock", strengths=[0, 1])
    assert found.rows[0]["after"] == pytest.approx(found.rows[0]["before"], abs=1e-4)
    assert found.rows[1]["rank"] == 1
    assert "rock" in found.rows[1]["answer"].lower()
    away = lab.steer(0, found.summary["answer_before"], strengths=[-2], layers=[7])
    assert away.rows[0]["after"] < away.rows[0]["before"]


def test_attribution(lab: Lab) -> None:
    answer = lab.corpus.images(vlq.col("image_id") == 0).rows[0]["answer"]
    found = lab.attribute(0, answer)
    prompted = prompted_of(lab, 0)
    with torch.no_grad():
        logits = lab.model.lm_head(lab.model.final_norm(prompted.states([8])[8][-1]))
    assert found.summary["token"] == int(logits.argmax())
    assert found.summary["total"] == pytest.approx(float(logits.max() - logits.mean()), abs=1e-3)
    whole = sum(row["sum"] for row in found.rows) + found.summary["bias"]
    assert whole == pytest.approx(found.summary["total"], abs=1e-3)
    at_patch = lab.attribute(0, answer, at=12)
    assert at_patch.summary["total"] != found.summary["total"]


def test_mistakes(lab: Lab) -> None:
    with pytest.raises(NotFound, match=r"no image 'nowhere.png'"):
        lab.knockout("nowhere.png", [1], "dog")
    with pytest.raises(NotFound, match="There is no image 4000 with readings"):
        lab.attribute(4000, "dog")
    with pytest.raises(UnknownToken):
        lab.attribute(0, "dachshund")
    with pytest.raises(QueryError, match="there is no patch 99"):
        lab.knockout(0, [99], "dog")
    with pytest.raises(BadArgument, match="Attention is cut in layers 1 to 8"):
        lab.knockout(0, [1], "dog", layers=(0, 3))
    with pytest.raises(BadArgument, match="to is one of last, last-row, prompt"):
        lab.knockout(0, [1], "dog", to="first")
    with pytest.raises(BadArgument, match="strength: expected finite numbers"):
        lab.steer(0, "dog", strengths=[1, float("nan")])
    with pytest.raises(BadArgument, match="Layers are 0"):
        lab.patch(0, 1, "dog", layers=[9])
    with pytest.raises(BadArgument, match="expected last, or a patch's number"):
        lab.attribute(0, "dog", at="first")


def test_the_command_line(lab: Lab, demo_cache: Path, vlq: Vlq) -> None:
    cache = ("--cache", demo_cache)
    code, out, _ = vlq(
        "knockout", "0", "[1, 2, 3]", "--target=dog", "--window=4", "--layers=2:6", *cache, "--format=json"
    )
    assert code == 0
    found = lab.knockout(0, [1, 2, 3], "dog", window=4, layers=(2, 6))
    assert [row["effect"] for row in json.loads(out)["rows"]] == pytest.approx([row["effect"] for row in found.rows])
    code, out, _ = vlq("patch", "0", "1", "--target", "dog", "--layers", "0,8", *cache, "--format", "csv")
    assert code == 0
    assert out.splitlines()[0] == "layer,before,after,source,share,rank,answer"
    assert len(out.splitlines()) == 3
    code, out, _ = vlq("steer", "0", "rock", "--strength", "1,2", *cache)
    assert code == 0
    assert out.startswith("scene-000.png steered to rock at the last token: from strength 1 on")
    code, out, _ = vlq("attribute", "0", "--target", "dog", "--at", "12", *cache)
    assert code == 0
    assert "at patch 12" in out
    for wrong in (
        ("steer", "0", "rock", "--strength", "much"),
        ("knockout", "0", "[1]", "--target", "dog", "--layers", "1,3"),
        ("attribute", "0", "--target", "dog", "--format", "xml"),
    ):
        code, _, errors = vlq(*wrong, *cache)
        assert code == 2
        assert "Traceback" not in errors
