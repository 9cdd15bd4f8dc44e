"""The one HTTP listener of a process. Imports starlette and uvicorn: only what listens imports it."""

from clew.surfaces.http.api import HttpApi
from clew.surfaces.http.listener import Bounds, Listener

__all__ = ["Bounds", "HttpApi", "Listener"]
