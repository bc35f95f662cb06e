"""The REST API: every resource under one roof, closed unless an operation says otherwise."""

from ninja import NinjaAPI
from ninja.openapi.docs import Swagger

from lab.api import (
    accounts,
    arena,
    artifacts,
    battles,
    crawls,
    datasets,
    events,
    label_groups,
    labeling,
    models,
    ranking,
    runs,
    served,
    system,
    tokenizers,
    tours,
)
from lab.api.auth import researcher
from lab.api.idempotent import idempotent
from lab.api.wire import FiniteRenderer, StrictParser, handle_errors

api = NinjaAPI(
    title="Move 37",
    version="1",
    description=(
        "Everything that a page can do. Send `Authorization: Bearer TOKEN` (`manage.py token NAME --role researcher` "
        "prints one). Lists take `limit` and `offset` and answer `{items, count}`; errors are "
        "`{detail, errors: [{field, message}]}`; any POST takes an `Idempotency-Key`."
    ),
    auth=researcher,
    parser=StrictParser(),
    renderer=FiniteRenderer(),
    docs=Swagger(settings={"persistAuthorization": False, "validatorUrl": None}),
    urls_namespace="api",
)
handle_errors(api)
api.add_decorator(idempotent, mode="view")

api.add_router("", system.router)
api.add_router("", events.router)
api.add_router("", runs.router)
api.add_router("/datasets", datasets.router)
api.add_router("/datasets", crawls.router)
api.add_router("/tokenizers", tokenizers.router)
api.add_router("/checkpoints", models.checkpoints)
api.add_router("/models", served.router)
api.add_router("/artifacts", artifacts.router)
api.add_router("/labeling", labeling.router)
api.add_router("/labeling", label_groups.router)
api.add_router("/labeling", ranking.router)
api.add_router("/arena/battles", battles.router)
api.add_router("/arena", arena.router)
api.add_router("/tours", tours.router)
api.add_router("/tokens", accounts.tokens)
api.add_router("/accounts", accounts.accounts)
