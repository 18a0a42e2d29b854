"""A folder onto a hub, by huggingface_hub, in one commit: all of it arrives, or nothing changes there."""

from __future__ import annotations

from pathlib import Path

from ..errors import BadInput
from . import hub

PAGE = "README.md"


def refuse_early(id: str) -> None:
    """Before hours of work: a name that cannot be, a library that is missing, nobody who listens, nobody logged in."""
    if not hub.is_id(id):
        raise BadInput(f"--push {id} is no OWNER/NAME of a hub; write for instance --push me/flowers-vit")
    library = hub.library(id)
    endpoint = library.constants.ENDPOINT
    if not hub.answers(endpoint):
        raise BadInput(f"{endpoint} cannot be reached, so nothing can be pushed to it; leave --push out, or try later")
    if library.get_token() is None:
        raise BadInput(f"{endpoint} takes nothing from strangers: log in with `hf auth login`, or set HF_TOKEN")


def push(folder: Path, id: str, page: str) -> str:
    """The address of what was pushed. `page` goes there as README.md."""
    library = hub.library(id)
    errors, endpoint = library.errors, library.constants.ENDPOINT
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() != PAGE)
    add = library.CommitOperationAdd
    told = [add(path.relative_to(folder).as_posix(), str(path)) for path in files] + [add(PAGE, page.encode("utf-8"))]
    kept = f"{folder} is written, nothing was pushed"
    try:
        library.create_repo(id, exist_ok=True)
        library.create_commit(id, told, commit_message="Model written by tessella")
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            what = f"{endpoint} does not let you write {id}"
            raise BadInput(f"{what}; check its owner and the rights of your token (HF_TOKEN); {kept}") from None
        raise BadInput(f"{id} was not taken ({_reason(error)}); {kept}; try again") from None
    except (errors.HFValidationError, OSError, ValueError) as error:
        raise BadInput(f"{id} was not taken ({_reason(error)}); {kept}; try again") from None
    return f"{endpoint}/{id}"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
