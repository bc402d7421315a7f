"""Processes that end with the one that started them."""

import os
import threading
import time


def leave_with(parent: int) -> None:
    """End this process, at once and without a word, when the process `parent` that started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
