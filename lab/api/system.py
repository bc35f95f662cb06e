"""Health, the account that asks, and the recipes with all that a form or a program needs to fill one in."""

from typing import Any, Literal

from django.http import Http404, HttpRequest
from ninja import Router, Schema
from pydantic import Field

from core_ml import recipes
from core_ml.recipe import Recipe
from lab.api.auth import labeler
from lab.api.base import Page, answers
from lab.queries import machine

router = Router(tags=["lab"])


class Health(Schema):
    status: Literal["ok", "degraded"]
    database: str
    redis: str
    workers: int
    engine: str


class Me(Schema):
    id: int
    name: str
    role: str
    simulated: bool


class InputOut(Schema):
    kind: str
    accepts: list[str]
    optional: bool
    many: bool
    instead: str = Field(
        description="Another input that may be given in its place; empty when there is none."
    )
    description: str


class OutputOut(Schema):
    kind: str
    what: str | None
    optional: bool
    description: str


class PresetOut(Schema):
    name: str
    title: str
    description: str
    config: dict[str, Any]


class MeasureOut(Schema):
    name: str
    title: str
    unit: str
    better: str
    hint: str


class Why(Schema):
    question: str
    answer: str
    paper: str


class RecipeOut(Schema):
    kind: str
    title: str
    stage: str
    explanation: str
    why: Why | None
    inputs: dict[str, InputOut]
    outputs: dict[str, OutputOut]
    presets: list[PresetOut]
    measures: list[MeasureOut]
    stages: list[str]
    """Of a sharded recipe; empty for one that runs in one piece."""
    config_schema: dict[str, Any]


@router.get("/health", response=Health, auth=None)
def health(request: HttpRequest) -> dict[str, Any]:
    """What answers: needs no token."""
    return machine.health()


@router.get("/me", response=answers(Me), auth=labeler)
def me(request: Any) -> dict[str, Any]:
    """The account and the role that this token or session has."""
    return {
        "id": request.user.pk,
        "name": request.user.username,
        "role": request.role,
        "simulated": request.user.is_simulated,
    }


@router.get("/recipes", response=answers(Page[RecipeOut]))
def list_recipes(request: HttpRequest) -> dict[str, Any]:
    """Every kind of run, in the order of a model's life."""
    found = [recipe_json(recipe) for recipe in recipes.all_recipes().values()]
    return {"items": found, "count": len(found)}


@router.get("/recipes/{kind}", response=answers(RecipeOut))
def get_recipe(request: HttpRequest, kind: str) -> dict[str, Any]:
    """One recipe, with the JSON Schema of its config."""
    found = recipes.all_recipes().get(kind)
    if found is None:
        raise Http404
    return recipe_json(found)


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    why = recipe.why
    return {
        "kind": recipe.kind,
        "title": recipe.title,
        "stage": recipe.stage,
        "explanation": recipe.explanation,
        "why": {"question": why[0], "answer": why[1], "paper": why[2]} if why else None,
        "inputs": recipe.takes,
        "outputs": recipe.makes,
        "presets": list(recipe.presets),
        "measures": list(recipe.measures),
        "stages": [stage.name for stage in recipe.stages],
        "config_schema": recipe.config.model_json_schema(),
    }
