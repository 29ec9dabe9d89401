"""The hubs' own client libraries, each behind the same two functions: list and download.

`HF_ENDPOINT` and `MODELSCOPE_ENDPOINT` name other servers. What goes wrong becomes a `ModelError`
that says what to do.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from operators.models.checkpoint import cache_folder
from schemas.errors import ModelError

Hub = Literal["modelscope", "huggingface"]

HUGGINGFACE_SCHEME = "hf://"
SITES: Mapping[Hub, str] = {"modelscope": "modelscope.cn", "huggingface": "huggingface.co"}
ENDPOINTS: Mapping[Hub, str] = {
    "modelscope": "MODELSCOPE_ENDPOINT",
    "huggingface": "HF_ENDPOINT",
}
_ID = re.compile(r"(hf://)?([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w-][\w./-]*))?")


@dataclass(frozen=True)
class ModelId:
    """A model of a hub; `revision` is a branch, a tag or a commit, None for the default branch."""

    hub: Hub
    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """Returns the id as a config spells it."""
        scheme = HUGGINGFACE_SCHEME if self.hub == "huggingface" else ""
        return f"{scheme}{self.name}" + (f"@{self.revision}" if self.revision else "")

    @property
    def cached(self) -> Path:
        """Where the cache keeps it."""
        folder = self.name + (f"@{self.revision.replace('/', '--')}" if self.revision else "")
        return cache_folder() / "models" / self.hub / folder


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it; None where the hub does not say."""

    name: str
    size: int | None
    sha256: str | None
    git_sha1: str | None = None  # of git's blob: Hugging Face's digest of small files


@dataclass(frozen=True)
class Listing:
    """What the hub holds; `commit` is None where it does not say."""

    files: Sequence[RemoteFile]
    commit: str | None = None


def parse_id(text: str) -> ModelId:
    """Reads `owner/name` (ModelScope) or `hf://owner/name`, both with `@revision` or without.

    Raises:
        ModelError: it is neither.
    """
    match = _ID.fullmatch(text)
    if not match or ".." in text:
        raise ModelError(
            f"model {text!r}: not an id; give owner/name of ModelScope (such as "
            "damo/ofa_image-caption_coco_distilled_en) or hf://owner/name, with @revision if needed"
        )
    return ModelId("huggingface" if match[1] else "modelscope", match[2], match[3])


class Client(Protocol):
    """One hub."""

    def list(self, model_id: ModelId, folder: Path) -> Listing:
        """Asks what the hub holds; `folder` is where the model is to go, for messages."""

    def download(self, model_id: ModelId, folder: Path, listing: Listing) -> None:
        """Fetches the files of `listing` that are not yet in `folder`, going on within files."""


class ModelScope:
    """modelscope.cn, through modelscope-hub, which checks sizes and digests itself."""

    def list(self, model_id: ModelId, folder: Path) -> Listing:
        """Asks what the hub holds."""
        from modelscope_hub.errors import HubError, NotExistError

        try:
            entries = _modelscope_client().list_repo_files(
                model_id.name, "model", revision=model_id.revision or "master"
            )
        except NotExistError as error:
            raise _unknown(model_id, error) from error
        except (HubError, OSError) as error:
            raise _unreachable(model_id, folder, error) from error
        return Listing([_modelscope_file(e) for e in entries if not e.is_dir])

    def download(self, model_id: ModelId, folder: Path, listing: Listing) -> None:
        """Fetches what is not there yet."""
        from modelscope_hub.errors import HubError

        try:
            _modelscope_client().download_repo(
                model_id.name,
                "model",
                revision=model_id.revision or "master",
                cache_dir=cache_folder() / "modelscope",  # its locks; the files go to local_dir
                local_dir=folder,
                file_list=[
                    {"Path": file.name, "Size": file.size, "Sha256": file.sha256}
                    for file in listing.files
                ],
            )
        except (HubError, OSError) as error:
            raise _interrupted(model_id, folder, error) from error


class HuggingFace:
    """huggingface.co, through huggingface_hub."""

    def list(self, model_id: ModelId, folder: Path) -> Listing:
        """Asks what the hub holds."""
        from httpx2 import HTTPError
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            info = _huggingface_client().model_info(
                model_id.name, revision=model_id.revision, files_metadata=True
            )
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise _unknown(model_id, error) from error
        except (HTTPError, OSError) as error:
            raise _unreachable(model_id, folder, error) from error
        return Listing([_huggingface_file(entry) for entry in info.siblings or ()], info.sha)

    def download(self, model_id: ModelId, folder: Path, listing: Listing) -> None:
        """Fetches what is not there yet."""
        from httpx2 import HTTPError

        revision = listing.commit or model_id.revision
        try:
            for file in listing.files:
                if not (folder / file.name).exists():
                    _fetch_from_huggingface(model_id.name, revision, file, folder)
        except (HTTPError, OSError) as error:
            raise _interrupted(model_id, folder, error) from error


CLIENTS: Mapping[Hub, Client] = {"modelscope": ModelScope(), "huggingface": HuggingFace()}


def _modelscope_client() -> Any:
    try:
        from modelscope_hub import HubApi
    except ImportError as error:
        raise ModelError(
            "ModelScope's client library is not installed; pip install 'tagline[hub]'"
        ) from error
    return HubApi(endpoint=os.environ.get(ENDPOINTS["modelscope"]))


def _huggingface_client() -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get(ENDPOINTS["huggingface"]))


def _fetch_from_huggingface(
    name: str, revision: str | None, file: RemoteFile, folder: Path
) -> None:
    """Fetches one file, from where an earlier fetch of the same content stopped.

    snapshot_download of huggingface_hub 2.4 starts a file anew in every process, so its own parts
    are put together here; this can go when it resumes again.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.file_download import http_get

    url = hf_hub_url(
        name, file.name, revision=revision, endpoint=os.environ.get(ENDPOINTS["huggingface"])
    )
    metadata = get_hf_file_metadata(url, retry_on_errors=True)
    token = get_token()
    is_same_host = urlsplit(metadata.location).netloc == urlsplit(url).netloc
    # A signed address of another host needs no token, and must not be sent one.
    headers = {"authorization": f"Bearer {token}"} if token and is_same_host else {}
    content = file.sha256 or file.git_sha1 or metadata.etag
    part = folder / f".{file.name}.{content}.incomplete"
    with part.open("ab") as stream:
        http_get(
            metadata.location,
            stream,
            resume_size=stream.tell(),
            headers=headers,
            expected_size=file.size or metadata.size,
            displayed_filename=file.name,
        )
    part.replace(folder / file.name)


def _modelscope_file(entry: Any) -> RemoteFile:
    size = entry.size or None  # 0 where the hub does not say
    return RemoteFile(entry.path, size, entry.sha256 or None)


def _huggingface_file(entry: Any) -> RemoteFile:
    large = entry.lfs
    return RemoteFile(
        entry.rfilename,
        entry.size,
        large.sha256 if large else None,
        None if large else entry.blob_id,
    )


def _site(model_id: ModelId) -> str:
    return os.environ.get(ENDPOINTS[model_id.hub]) or SITES[model_id.hub]


def _unknown(model_id: ModelId, error: Exception) -> ModelError:
    revision = f" at revision {model_id.revision!r}" if model_id.revision else ""
    return ModelError(
        f"model '{model_id}': {_site(model_id)} has no {model_id.name!r}{revision} that may be "
        f"read ({_headline(error)}); `tagline models list` names the published ones"
    )


def _unreachable(model_id: ModelId, folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"model '{model_id}': not complete in {folder}, and {_site(model_id)} cannot be asked "
        f"({_headline(error)}); where there is a network run "
        f"`tagline models pull {model_id} --to DIR`, bring DIR here and give it as the model"
    )


def _interrupted(model_id: ModelId, folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"model '{model_id}': the fetch stopped ({_headline(error)}); what was received is kept in "
        f"{folder}, run the same command again to go on"
    )


def _headline(error: Exception) -> str:
    """The first lines of a client's message, without its page of advice."""
    return " ".join(str(error).split())[:300] or type(error).__name__
