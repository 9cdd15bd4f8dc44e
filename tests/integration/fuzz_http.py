"""Everything that the HTTP API's document allows, and much that it does not, tried on a real `clew serve` by schemathesis.

python -m tests.integration.fuzz_http --minutes 10
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from clew.testing.model_server import ModelServer, echo
from tests.acceptance.serving_http import Api, api

UNHURRIED: Final = {"CLEW__HTTP__REQUESTS_PER_MINUTE": "0", "CLEW__HTTP__EVENTS_SECONDS": "1"}
"""A server that takes any number of requests, and ends what would have no end."""
INSTALLED: Final = Path(__file__).parents[2] / ".counterparts" / "clients"
"""By `make integration`, which says in `clients.log` beside it what it could not install."""
CHECKS: Final = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"


async def fuzzed(served: Api, key: str, *options: str, seconds_max: float) -> tuple[int, str]:
    """Exit code and report of a run against a server that runs."""
    process = await asyncio.create_subprocess_exec(
        INSTALLED / "bin" / "schemathesis", "run", f"http://127.0.0.1:{served.port}/openapi.json",
        "--header", f"Authorization: Bearer {key}", "--checks", CHECKS, "--no-color",
        "--request-timeout", "30", "--suppress-health-check", "all", "--warnings", "off", *options,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        cwd=served.clew.cwd, env={"PATH": os.environ["PATH"], "HOME": str(served.clew.cwd)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(seconds_max):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, out.decode()


async def main(minutes: float) -> int:
    with tempfile.TemporaryDirectory() as directory:
        async with api(Path(directory), ModelServer(echo)) as served:
            served.clew.environ |= UNHURRIED
            key = await served.key()
            await served.start()
            seconds = minutes * 60
            code, report = await fuzzed(
                served, key, "--max-time", str(int(seconds)), seconds_max=seconds * 2 + 60
            )
            sys.stdout.write(report)
            return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    sys.exit(asyncio.run(main(parser.parse_args().minutes)))
