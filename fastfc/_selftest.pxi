"""What the self-test needs: a target for one thread, and the removal of one that is faulty."""

cdef extern from "fastfc.h" nogil:
    int fc_select_isa_here(const char *name)
    int fc_drop_isa(const char *name)


def select_isa_here(name):
    """Switch the target for calls of this thread alone; None: as the others again."""
    cdef bytes encoded = b"" if name is None else name.encode()
    cdef const char *chosen = NULL if name is None else <const char *>encoded
    if fc_select_isa_here(chosen):
        raise ValueError(f"target {name!r} is not available here; available: {', '.join(available_isas())}")


def drop_isa(str name not None):
    """Take a target out of dispatch until the process ends; False if it is the only one left."""
    return fc_drop_isa(name.encode()) == 0
