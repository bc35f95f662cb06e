"""Datasets: bring one in, read its rows in place, remove it."""

from pathlib import Path
from typing import Any, Literal

from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import FileResponse, HttpRequest
from ninja import Router, Schema, Status
from ninja.errors import HttpError
from pydantic import Field, ValidationError, model_validator

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.feedback.sets.exporting import SUFFIXES, ExportForm
from lab.api.artifacts import ArtifactOut, ArtifactWhole, find
from lab.api.base import ArtifactId, Given, Limit, Offset, Page, Words, answers, page
from lab.api.idempotent import slow
from lab.api.wire import StrictParser
from lab.errors import FieldError, Invalid
from lab.models import Artifact
from lab.queries import artifacts as artifact_queries
from lab.queries import rows as row_queries
from lab.queries import set_agreement
from lab.services import artifacts, sets
from lab.services import datasets as services
from lab.services.forms import SCHEMAS

router = Router(tags=["datasets"])
DatasetOut = ArtifactWhole
Form = Literal[tuple(SCHEMAS)]  # type: ignore[valid-type]
AnyForm = Literal[("pages", "tokens", *SCHEMAS)]  # type: ignore[valid-type]


class About(Given):
    name: str = Field("", max_length=100, description="By default the file's own.")
    form: Form | None = Field(None, description="By default told from the first row.")


class DatasetIn(About):
    """Exactly one of `path`, `url` and `hub`."""

    path: str | None = Field(
        None,
        max_length=1000,
        description="A file on the server, in an allowed folder, or a preference set's folder.",
    )
    url: str | None = Field(None, max_length=2000, description="A public http or https address.")
    hub: str | None = Field(None, max_length=200, description='Id on the Hugging Face hub, "owner/name".')
    split: str = Field("train", max_length=100, description="Of a hub dataset.")
    subset: str | None = Field(None, max_length=100, description="Of a hub dataset.")

    @model_validator(mode="after")
    def _one_source(self) -> "DatasetIn":
        if sum(source is not None for source in (self.path, self.url, self.hub)) != 1:
            raise ValueError("give exactly one of path, url and hub, or upload a file")
        return self


class RowsOut(Schema):
    items: list[dict[str, Any]]
    count: int
    cut: bool = Field(description="The search ended before the end of the files.")


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": DatasetIn.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "Repeated, it brings the files of one preference set.",
                        },
                        "name": {"type": "string", "maxLength": 100},
                        "form": {"type": "string", "enum": list(SCHEMAS)},
                    },
                }
            },
        },
    }
}


@router.post("", response=answers(DatasetOut, 201), openapi_extra=_BODY)
@slow
def create_dataset(request: Any) -> Status:
    """Bring in JSONL (also gzipped), Parquet or WARC: as an upload, from the server, an address or the hub.

    Preference sets of others (TRL's pairs, OpenAssistant's trees, PandaLM, LLMFAO, MT-bench, Auto-J, AlpacaEval) are
    seen from their columns and become rankings, or with the form "rollouts" groups to be ranked anew.
    """
    if request.content_type == "multipart/form-data":
        return Status(201, _upload(request))
    try:
        data = DatasetIn.model_validate(parsed(request))
    except ValidationError as error:
        raise invalid(error) from None
    about: dict[str, Any] = {"name": data.name, "form": data.form, "account": request.user}
    if data.path is not None:
        return Status(201, services.import_path(data.path, **about))
    if data.url is not None:
        return Status(201, services.import_url(data.url, **about))
    assert data.hub is not None
    return Status(201, services.import_hub(data.hub, split=data.split, subset=data.subset, **about))


def _upload(request: Any) -> Artifact:
    files = request.FILES.getlist("file")
    if not files or not all(isinstance(file, TemporaryUploadedFile) for file in files):
        raise Invalid([FieldError("file", "there is no file: send one in the part 'file'")])
    try:
        about = About.model_validate({key: value for key, value in request.POST.items() if value})
    except ValidationError as error:
        raise invalid(error) from None
    stored = [(Path(file.temporary_file_path()), file.name or "upload") for file in files]
    return services.import_uploads(stored, name=about.name, form=about.form, account=request.user)


def parsed(request: Any) -> Any:
    try:
        return StrictParser().parse_body(request)
    except ValueError as error:
        raise HttpError(400, str(error)) from error


def invalid(error: ValidationError) -> Invalid:
    found = [
        (".".join(map(str, entry["loc"])), entry["msg"].removeprefix("Value error, "))
        for entry in error.errors()
    ]
    return Invalid([FieldError(field, message) for field, message in found])


@router.get("", response=answers(Page[ArtifactOut]))
def list_datasets(
    request: HttpRequest, form: AnyForm | None = None, q: Words = None, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Datasets, the newest first."""
    found = artifact_queries.visible("dataset", q)
    return page(found.filter(form=form) if form else found, limit, offset)


@router.get("/{id}", response=answers(DatasetOut))
def get_dataset(request: HttpRequest, id: ArtifactId) -> Artifact:
    return find(id, "dataset")


@router.get("/{id}/rows", response=answers(RowsOut))
def dataset_rows(
    request: HttpRequest, id: ArtifactId, limit: Limit = 50, offset: Offset = 0, q: Words = None
) -> dict[str, Any]:
    """Rows in the order of the files, or those in which `q` stands; long texts are shortened."""
    found = row_queries.page(find(id, "dataset"), offset=offset, limit=limit, q=q or "")
    return {"items": found.items, "count": found.count, "cut": found.cut}


@router.get("/{id}/agreement", response=answers(dict[str, Any]))
def dataset_agreement(request: HttpRequest, id: ArtifactId) -> dict[str, Any]:
    """How far those agree who ranked a dataset: by pairs with and without ties, alpha, each labeler, each flag.

    People are held against people; programs that ranked the same groups are held against them in `judges`.
    """
    dataset = find(id, "dataset")
    if dataset.form != "rankings":
        raise Invalid([FieldError("id", f"{dataset.name} holds {dataset.form}: only rankings can agree")])
    try:
        found = set_agreement.of(dataset)
    except UserError as error:
        raise Invalid([FieldError("id", error.message)]) from error
    return found | {"finding": set_agreement.finding(found)}


@router.get("/{id}/export", response=answers(None))
def export_dataset(request: HttpRequest, id: ArtifactId, form: ExportForm = "jsonl") -> FileResponse:
    """A dataset of rankings as JSONL or in a form of others."""
    dataset = find(id, "dataset")
    if dataset.form != "rankings":
        text = f"{dataset.name} holds {dataset.form}: only rankings have forms of others; download its files instead"
        raise Invalid([FieldError("form", text)])
    paths = Folder(artifacts.local_path(dataset)).files(".parquet")
    return exported(sets.export(list(paths), form), dataset.pk, form)


def exported(file: Any, name: str, form: ExportForm) -> FileResponse:
    kind = "application/vnd.apache.parquet" if form == "parquet" else "application/x-ndjson"
    answer = FileResponse(file, content_type=kind)
    answer["Content-Disposition"] = f'attachment; filename="{name}{SUFFIXES[form]}"'
    return answer


@router.delete("/{id}", response=answers(None, 204))
def delete_dataset(request: HttpRequest, id: ArtifactId) -> Status:
    """Remove a dataset that was imported or exported; one that a run made goes with its run."""
    services.delete(find(id, "dataset"))
    return Status(204, None)
