"""Let letters of killed runners wait again before letters are chosen."""

from __future__ import annotations

from penstock.deadletters.dead_letter_queue import DeadLetterQueue
from penstock.errors import StoreError, describe
from penstock.support.logger import get_logger

log = get_logger()


async def release_expired(queue: DeadLetterQueue) -> None:
    """Let letters wait again that a killed runner of a paused or ended job has claimed. Failures are only logged.

    A database that cannot be written can still be read, so whatever reads it next reports what is wrong.
    """
    try:
        if released := await queue.release_expired():
            log.warning("redrive.letters_released", store=queue.url, letters=released)
    except StoreError as error:
        log.warning("redrive.letters_not_released", store=queue.url, error=describe(error))
