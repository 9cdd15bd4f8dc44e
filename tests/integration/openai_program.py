"""The unmodified `openai` client against the address and key of its environment. Prints what it saw as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import openai  # type: ignore[import-not-found,unused-ignore]

TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SESSION = "X-Clew-Session"


def main() -> None:
    client = openai.OpenAI(max_retries=0)
    seen: dict[str, Any] = {"models": [model.id for model in client.models.list()]}
    seen["text"] = (
        client.chat.completions.create(model="clew", messages=[user("hi")]).choices[0].message.content
    )
    first = client.chat.completions.with_raw_response.create(
        model="clew", messages=[user("one")], extra_headers={SESSION: "new"}
    )
    headers = {SESSION: first.headers[SESSION]}
    seen["session"] = headers[SESSION]
    with client.chat.completions.create(
        model="clew",
        messages=[user("two")],
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=headers,
    ) as stream:
        chunks = list(stream)
    seen["streamed"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    seen["usage"] = chunks[-1].usage.total_tokens if chunks[-1].usage else None
    asked: list[Any] = [user("please\nCALL_TOOL weather {}")]
    answer = client.chat.completions.create(model="clew", messages=asked, tools=[TOOL]).choices[0]
    calls = answer.message.tool_calls or []
    asked += [answer.message, {"role": "tool", "tool_call_id": calls[0].id, "content": "blue sky"}]
    answer = client.chat.completions.create(model="clew", messages=asked, tools=[TOOL]).choices[0]
    seen["tools"] = answer.message.content
    response = client.responses.create(model="clew", input="three")
    seen["response"] = response.output_text
    with client.responses.stream(model="clew", input="four", previous_response_id=response.id) as events:
        kinds = [event.type for event in events]
        seen["carried_on"] = events.get_final_response().output_text
    seen["kinds"] = sorted(set(kinds))
    seen["errors"] = [refused()]
    try:
        client.chat.completions.create(model="gpt-17", messages=[user("x")])
    except openai.NotFoundError as error:
        seen["errors"].append(error.code)
    try:
        openai.OpenAI().chat.completions.create(
            model="clew", messages=[user("BREAK")], extra_headers={SESSION: "new"}
        )
    except openai.InternalServerError as error:
        seen["broken"] = error.response.headers[SESSION]
    json.dump(seen, sys.stdout)


def refused() -> str | None:
    try:
        openai.OpenAI(api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError as error:
        return str(error.code)
    return None


def user(text: str) -> Any:
    return {"role": "user", "content": text}


if __name__ == "__main__":
    main()
