"""Where jobs run: in this process or on Ray."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "execute": ["Done", "Executor", "SerialExecutor", "Unreachable", "check_address", "make_executor"],
        "lifelines": ["RayLost", "await_return"],
        "simulation": ["PooledSimulator", "simulate"],
    },
)
