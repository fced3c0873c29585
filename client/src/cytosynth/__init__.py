"""A client of cytosynth, a web service that generates the shapes of living cells.

This package knows the HTTP interface only: it imports neither the service nor, before arrays are asked for, a numerical
library. Read :mod:`cytosynth.client` first.
"""

from cytosynth.client import Client
from cytosynth.errors import (
    AuthenticationError,
    ConflictError,
    CytosynthError,
    DamagedFileError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    ProblemError,
    ServerError,
    StorageFullError,
    TooLargeError,
    TooManyRequestsError,
    UnavailableError,
    UnreachableError,
)
from cytosynth.job import FINAL_STATES, Job
from cytosynth.manifest import RemoteFile

__version__ = "0.1.0"

__all__ = [
    "FINAL_STATES",
    "AuthenticationError",
    "Client",
    "ConflictError",
    "CytosynthError",
    "DamagedFileError",
    "ForbiddenError",
    "GoneError",
    "InvalidRequestError",
    "Job",
    "JobFailedError",
    "NotFoundError",
    "ProblemError",
    "RemoteFile",
    "ServerError",
    "StorageFullError",
    "TooLargeError",
    "TooManyRequestsError",
    "UnavailableError",
    "UnreachableError",
    "__version__",
]
