"""A running process: stopping when told to, progress."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "progress": ["ConsoleReporter", "Reporter"],
        "stop": ["EXIT_CODE", "Stop", "Stopped", "farewell"],
        "terminal": ["console", "outlet"],
    },
)
