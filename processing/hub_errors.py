"""What the Hub refuses, as one sentence for each reason."""

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from processing.errors import UserError, shorten

HUB_ERRORS = (HTTPError, OSError, HFValidationError)  # what the client raises; a refused connection is an HTTPError
REFUSALS = (401, 403, 404)  # status codes that no second try changes


def hub_error(error: Exception, label: str, what: str, revision: str | None = None) -> UserError:
    """The sentence for an error of the Hub's client.

    Args:
        error: one of `HUB_ERRORS`.
        label: how the message begins, such as `--dataset user/name`.
        what: the kind of repo, such as `data set`.
        revision: that was asked for.
    """
    if isinstance(error, GatedRepoError):
        reason = f"the {what} is gated; accept its terms on its page of the Hub, and log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        reason = f"the Hub has no such {what}, or it is private; check the name, or log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"the {what} has no revision {shorten(str(revision))}; name a branch, tag or commit of it"
    elif isinstance(error, HFValidationError):
        reason = f"not a name that the Hub knows ({shorten(str(error))}); check it"
    elif isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
        reason = "the Hub rejects the token; log in again with `hf auth login`, or correct or unset HF_TOKEN"
    elif isinstance(error, HfHubHTTPError) and error.response.status_code == 403:
        reason = f"the token may not read the {what}; ask its owner for access, or take another token"
    elif isinstance(error, HfHubHTTPError):
        reason = f"the Hub answers with status {error.response.status_code}; try again later, or give a folder"
    elif constants.HF_HUB_OFFLINE:
        reason = "not in the cache, and HF_HUB_OFFLINE is set; load it once with a connection, or give a folder"
    else:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        reason = (
            f"not in the cache, and the Hub can't be reached ({type(cause).__name__}); check the connection, or give "
            "a folder"
        )
    return UserError(f"{label}: {reason}.")


def is_refusal(error: Exception) -> bool:
    """Whether the Hub was reached and said no, so that nothing of the cache may stand in."""
    if isinstance(error, LocalEntryNotFoundError):
        return False
    return isinstance(error, HFValidationError) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code in REFUSALS
    )
