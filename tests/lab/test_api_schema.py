"""The API against its own description: schemathesis sends what the schemas allow and what they do not."""

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.lab import making

# Real requests: each closes its connection at its end, which would lose the transaction of an ordinary test.
pytestmark = pytest.mark.django_db(transaction=True)
# Those that leave the process, or keep it busy: the hub and addresses, and the stream that does not end.
LEFT_OUT = ("/api/v1/datasets", "/api/v1/runs/{id}/events", "/api/v1/health", "/api/v1/tours")
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


@pytest.fixture
def described(api, account, tmp_home):
    """The schema, and a token to speak with; the lab holds one of each thing."""
    making.run(pk=1)
    making.rollouts()
    making.tokenizer()
    program = api("admin")
    schema = schemathesis.openapi.from_dict(program.get("/api/v1/openapi.json").json())
    schema.app = WSGIHandler()
    return schema, program._headers


def test_no_request_that_the_schemas_allow_or_forbid_breaks_the_api(described):
    schema, headers = described
    n_operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in LEFT_OUT:
            continue
        n_operations += 1
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            _probe(operation, mode, headers)
    assert n_operations > 40


def _probe(operation, mode, headers) -> None:
    try:
        strategy = operation.as_strategy(generation_mode=mode)
    except Exception as error:
        if "negative" in str(error).lower() or "Impossible" in type(error).__name__:
            return
        raise

    from hypothesis import given

    @settings(
        max_examples=6,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def probe(case):
        response = case.call(headers=headers)
        case.validate_response(response, checks=CHECKS)

    probe()
