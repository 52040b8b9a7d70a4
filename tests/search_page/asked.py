"""What tests of the JSON interface share: a file to upload, and what an error looks like."""

from typing import Any

HERE = "http://127.0.0.1:7860"


def upload(content: bytes, name: str = "photo.jpg") -> tuple[str, tuple[str, bytes, str]]:
    return "images", (name, content, "image/jpeg")


def problem(answer: Any, status: int) -> str:
    """Return the message of an error, after making sure that it is one line of JSON and nothing else."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"].startswith("application/json")
    told = answer.json()
    assert set(told) == {"error"} and "\n" not in told["error"] and len(told["error"]) <= 300
    return told["error"]
