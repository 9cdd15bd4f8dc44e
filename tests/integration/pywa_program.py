"""Talks to a Cloud API as any business does, with pywa: `pywa_program.py BASE_URL NUMBER_ID TOKEN NUMBER OWN_ID APP_SECRET`.

What webhooks it is given, as pairs of a signature and a body on standard input, one a line. Prints what came of it, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pywa import WhatsApp  # type: ignore[import-not-found]
from pywa.errors import ExpiredAccessToken, WhatsAppError  # type: ignore[import-not-found]
from pywa.types import Button, Message, MessageStatus  # type: ignore[import-not-found]
from pywa.types.templates import TemplateLanguage  # type: ignore[import-not-found]
from pywa.utils import webhook_updates_validator  # type: ignore[import-not-found]

base_url, number_id, token, number, own_id, app_secret = sys.argv[1:]
came: dict[str, Any] = {}


def client(with_token: str) -> Any:
    made = WhatsApp(phone_id=number_id, token=with_token)
    made.api._session.base_url = f"{base_url}/v25.0"  # it has no setting for it
    return made


business = client(token)
came["text"] = business.send_message(to=number, text="hello").id
came["by_own_id"] = business.send_message(to=own_id, text="hello again").id
buttons = [Button(title="Yes", callback_data="/approve x"), Button(title="No", callback_data="/deny x")]
came["buttons"] = business.send_message(to=number, text="May I?", buttons=buttons).id
came["file"] = business.send_document(
    to=number, document=b"\x00\xffdata", filename="a.txt", mime_type="text/plain"
).id
came["template"] = business.send_template(
    to=number, name="come_back", language=TemplateLanguage.GERMAN, params=[]
).id
business.mark_message_as_read(message_id="wamid.read")
business.indicate_typing(message_id="wamid.typing")
url = business.get_media_url(media_id=sys.stdin.readline().strip())
came["fetched"] = business.get_media_bytes(url=url.url).decode("latin-1")
try:
    business.send_message(to=number, text="x" * 4097)
except WhatsAppError as error:
    came["long"] = error.code
try:
    client("another").send_message(to=number, text="hello")
except ExpiredAccessToken as error:
    came["revoked"] = error.code
came["webhooks"] = []
for line in sys.stdin:
    signature, body = json.loads(line)
    update = json.loads(body)
    kind = Message if "messages" in update["entry"][0]["changes"][0]["value"] else MessageStatus
    read = kind.from_update(business, update)
    what = read.text if kind is Message else f"{read.status.value} {read.tracker}"
    signed = webhook_updates_validator(app_secret, body.encode(), signature)
    came["webhooks"].append([signed, what, read.from_user.wa_id, read.from_user.bsuid])
print(json.dumps(came))
