"""Why a prompt ended without a result, in a form that a program can tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...trainer_core.errors import SaveFailed, UserError
from .store import Record
from .words import without_paths

CANCELLED = {"status": 499, "code": "client_cancelled", "message": "The request was cancelled."}
REMOVED = {
    "status": 499,
    "code": "client_cancelled",
    "message": "The request was taken out of ComfyUI's queue before it began.",
}
INTERRUPTED = {
    "status": 500,
    "code": "server_restarted",
    "message": "ComfyUI ended before this did. Nothing that was saved is lost: POST to the request's address with "
    "/resume at its end goes on from there.",
}
LOST = {
    "status": 500,
    "code": "result_lost",
    "message": "ComfyUI's history was cleared before the result could be noted. What was made is in the output folder.",
}


def failure_of(outcome: dict[str, Any], faults: Mapping[str, str]) -> dict[str, Any]:
    """`status`, `code` and `message` for a prompt that did not succeed, by ComfyUI's record of it.

    faults: which field of the inputs an error's code is about, which is then told as `field`. What is not among them
    is not the caller's fault.
    """
    messages = (outcome.get("status") or {}).get("messages") or []
    for kind, detail in messages:
        if kind == "execution_interrupted":
            return CANCELLED
        if kind == "execution_error":
            words = str(detail.get("exception_message", "")).strip()
            return _of_error(str(detail.get("exception_type", "")), words, faults)
    return {"status": 500, "code": "internal_error", "message": "The run failed. ComfyUI's console says why."}


def _of_error(exception_type: str, message: str, faults: Mapping[str, str]) -> dict[str, Any]:
    name = exception_type.rpartition(".")[2]
    known = _user_errors().get(name)
    if known is not None:
        told = {"code": known.code, "message": without_paths(message)}
        if known.code in faults:
            return {"status": 422, **told, "field": faults[known.code]}
        return {"status": 507 if issubclass(known, SaveFailed) else 500, **told}
    if "OutOfMemory" in name or name == "OOM_EXCEPTION":
        words = "The graphics card ran out of memory. Use a smaller resolution, or a smaller model file."
        return {"status": 500, "code": "out_of_memory", "message": words}
    return {
        "status": 500,
        "code": "internal_error",
        "message": f"The run failed in ComfyUI ({name or 'unknown error'}). Its console says more.",
    }


def _user_errors() -> dict[str, type[UserError]]:
    """Every kind of error that is written for people, by the name of its class."""
    found, kinds = {}, [UserError]
    while kinds:
        kind = kinds.pop()
        found[kind.__name__] = kind
        kinds += kind.__subclasses__()
    return found


def error_of(record: Record) -> dict[str, Any]:
    """Why a request that ended has no answer."""
    return record.error or INTERRUPTED


def error_body(error: dict[str, Any]) -> dict[str, Any]:
    """As an answer of fal's: wrong inputs as a list by field, all else as one text with its type."""
    if error["status"] == 422:
        place = ["body", error["field"]] if error.get("field") else ["body"]
        return {
            "detail": [{"loc": place, "msg": error["message"], "type": error["code"]}],
            "error_type": error["code"],
        }
    return {"detail": error["message"], "error_type": error["code"]}
