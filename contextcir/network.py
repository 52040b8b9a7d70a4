"""Whether a server can be reached, found out in a time that has a limit."""

import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable


def unreachable(urls: Iterable[str], seconds: float = 3.0) -> tuple[str, str] | None:
    """Return the first of some addresses that gives no answer in time, and why; None if all of them answer.

    Any answer will do, an error of HTTP too. All are asked at once; the proxies of the environment are used. The
    look-up of a name knows no limit of time, so threads ask, and one that gets no answer is left behind.
    """
    answers = []
    for url in urls:
        answer: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda url=url, answer=answer: answer.put(_ask(url, seconds)), daemon=True).start()
        answers.append((url, answer))
    for url, answer in answers:
        try:
            reason = answer.get(timeout=seconds)
        except queue.Empty:
            reason = "no answer"
        if reason:
            return url, reason
    return None


def _ask(url: str, seconds: float) -> str:
    """Return why there is no answer, "" if there is one."""
    try:
        if not url.startswith(("https://", "http://")):
            return "expected an address that begins with https:// or http://"
        urllib.request.urlopen(url, timeout=seconds).close()  # noqa: S310  (of the two schemes above)
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason) or type(error).__name__
    return ""
