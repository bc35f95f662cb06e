"""A POST with an Idempotency-Key is done once."""

from threading import Barrier, Thread

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection

from lab.models import Artifact, IdempotencyKey, Run, Token
from lab.services import idempotency

pytestmark = pytest.mark.django_db
RUNS = "/api/v1/runs"
BODY = {"kind": "conversations", "preset": "tiny"}


@pytest.fixture(autouse=True)
def _home(tmp_home):
    return tmp_home


def post(api, key, body=BODY, path=RUNS, **extra):
    return api().post(path, body, headers={"Idempotency-Key": key}, **extra)


def test_the_same_request_gets_the_same_answer_and_is_done_once(api):
    first, second = post(api, "k"), post(api, "k")
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert second["Idempotent-Replayed"] == "true"
    assert Run.objects.count() == 1


def test_another_request_with_the_same_key_is_409(api):
    post(api, "k")
    assert post(api, "k", BODY | {"name": "other"}).status_code == 409
    assert post(api, "k", {}, "/api/v1/tours").status_code == 409
    assert Run.objects.count() == 1


def test_a_refused_request_may_be_mended_under_the_same_key(api):
    assert post(api, "k", {"kind": "nothing"}).status_code == 422
    assert post(api, "k").status_code == 201


def test_keys_belong_to_the_account(api):
    post(api, "k")
    other = api("researcher", "somebody").post(RUNS, BODY, headers={"Idempotency-Key": "k"})
    assert other.status_code == 201
    assert Run.objects.count() == 2


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_an_impossible_key_is_400(api, key):
    assert post(api, key).status_code == 400


def test_a_secret_is_never_kept(api):
    first = post(api, "k", {"name": "t"}, "/api/v1/tokens")
    assert first.status_code == 201
    assert post(api, "k", {"name": "t"}, "/api/v1/tokens").status_code == 409
    assert IdempotencyKey.objects.get().body is None
    assert Token.objects.filter(name="t").count() == 1


def test_an_upload_is_known_again_by_what_is_in_it(api):
    def upload(text: bytes):
        file = SimpleUploadedFile("a.jsonl", b'{"text": "' + text + b'"}\n')
        return api().post("/api/v1/datasets", data={"file": file}, headers={"Idempotency-Key": "k"})

    first, second = upload(b"one"), upload(b"one")
    assert first.json() == second.json()
    assert upload(b"two").status_code == 409
    assert Artifact.objects.count() == 1


def test_a_request_whose_process_died_is_taken_over_after_a_while(api, account):
    first = post(api, "k").json()
    IdempotencyKey.objects.update(status=None, body=None)
    assert post(api, "k").status_code == 409
    IdempotencyKey.objects.update(created=IdempotencyKey.objects.get().created - idempotency.LOST)
    assert post(api, "k").json()["id"] != first["id"]


def test_old_answers_are_forgotten(api):
    post(api, "k")
    IdempotencyKey.objects.update(created=IdempotencyKey.objects.get().created - idempotency.KEPT)
    post(api, "other")
    assert [row.key for row in IdempotencyKey.objects.all()] == ["other"]


@pytest.mark.django_db(transaction=True)
def test_the_same_request_at_the_same_instant_is_done_once(api):
    programs, answers, barrier = [api() for _ in range(6)], [], Barrier(6)

    def ask(program):
        try:
            barrier.wait()
            answers.append(program.post(RUNS, BODY, headers={"Idempotency-Key": "k"}).status_code)
        finally:
            connection.close()

    threads = [Thread(target=ask, args=[program]) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Run.objects.count() == 1
    # Those that came while the first was at work were told to try again.
    assert set(answers) <= {201, 409}
    assert 201 in answers
