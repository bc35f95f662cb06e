"""The kinds of run, one file each; a file that declares RECIPE is a kind."""

import importlib
import pkgutil
from functools import cache

from core_ml.errors import UserError
from core_ml.recipe import Recipe

# Where two recipes serve one stage of the life, this is their order on pages; a new file comes after these.
ORDER = (
    "crawl",
    "conversations",
    "tokenizer",
    "pack",
    "pretrain",
    "scaling",
    "sft",
    "rollouts",
    "reward",
    "uncertainty",
    "rlhf",
    "hunt",
    "best_of_n",
    "evaluate",
    "judge",
    "export",
)


@cache
def all_recipes() -> dict[str, Recipe]:
    """Every recipe by kind, in the order of the life of a model."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    names.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    found = [importlib.import_module(f"{__name__}.{name}").RECIPE for name in names]
    return {recipe.kind: recipe for recipe in found}


def get(kind: str) -> Recipe:
    """Raises UserError for a kind that does not exist."""
    recipes = all_recipes()
    if kind not in recipes:
        raise UserError(f"there is no recipe {kind!r}: choose one of {', '.join(recipes)}", field="kind")
    return recipes[kind]
