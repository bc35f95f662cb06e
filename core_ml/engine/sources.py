"""Models that are no artifacts: GGUF files on disk, and addresses of other servers.

The engine keeps none of them: whoever asks in the lab's name sends the list with a version, and sends it again to
an engine that was started anew. Keys are held in memory only.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from core_ml.engine.remote import Endpoint


class AddressGiven(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: int
    name: str = Field(min_length=1, max_length=100)
    url: str = Field(max_length=500)
    model: str = Field(min_length=1, max_length=200)
    key: SecretStr = SecretStr("")
    local: bool = False
    timeout: float = Field(120, gt=0, le=3600)
    context: int | None = None

    def endpoint(self) -> Endpoint:
        key = self.key.get_secret_value()
        return Endpoint(self.name, self.url.rstrip("/"), key, self.local, self.timeout)


class FileGiven(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: int
    name: str = Field(min_length=1, max_length=100)
    path: str = Field(max_length=4000)


class Sources(BaseModel):
    """`version` is the sender's digest of the rest."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field("", max_length=64)
    addresses: list[AddressGiven] = Field(default_factory=list, max_length=1000)
    files: list[FileGiven] = Field(default_factory=list, max_length=1000)

    def model_post_init(self, _: Any) -> None:
        self.addresses.sort(key=lambda one: one.id)
