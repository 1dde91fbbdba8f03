"""The exceptions a user can meet. Each message says what, where, and what to do."""


class PlanError(ValueError):
    """Base of everything the planner raises about its inputs."""


class UnknownMachineError(PlanError):
    """No preset has this name and it is no Machine."""


class MachineFileError(PlanError):
    """The file of a machine cannot be read, or its keys or numbers make no machine."""


class MeshError(PlanError):
    """The mesh cannot be used: no axes, an unknown axis name, or an axis that divides nothing."""


class SpecConflictError(PlanError):
    """The user's own specs contradict each other, or do not fit the value they are given to."""


class HintError(PlanError):
    """A hint on trips or branches names none of the program's, or its numbers make no sense."""


class DoesNotFitError(PlanError):
    """No plan fits into the memory of a chip. `excess` is the missing number of bytes per chip."""

    def __init__(self, message: str, excess: float):
        super().__init__(message)
        self.excess = excess


class PlanFileError(PlanError):
    """The plan file is damaged or of another schema."""


class PlanMismatchError(PlanError):
    """The plan was made for another program, mesh or shapes."""


class AuditError(PlanError):
    """What was compiled cannot be read, or the compiler that was asked for is not there."""
