"""Every setting, its default and its range. The names are promises: they are extended, never changed.

The line under a field is its documentation (docs/settings.md is made of them), and its type is what may be
written: a section is a `Section`, a `Mapping` has names of the user's choosing, everything else is a value.
What concerns several settings at once stands in `rules`.

Annotations are evaluated here, not postponed: evaluating them at every start would cost 2 ms.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

SECRET_NAME: Final = {"secret": "name"}
"""Marks a text that names a secret: people paste the secret itself there, so a wrong one is not repeated."""
SECRET_VALUE: Final = {"secret": "value"}
"""Marks a text that may hold a secret: it is never shown."""

Count = Annotated[int, Meta(ge=0)]
Some = Annotated[int, Meta(ge=1)]
Duration = Annotated[int, Meta(ge=1, le=31_536_000)]
"""At least one, and at most the seconds of a year: beyond that a timer overflows."""
Pause = Annotated[int, Meta(ge=0, le=31_536_000)]
Share = Annotated[float, Meta(gt=0, le=1)]
Cap = Annotated[float, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Url = Annotated[
    str, Meta(pattern=r"^(https?://\S+)?$", description="an http:// or https:// address, or empty")
]
ClockTime = Annotated[
    str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description='a time of day such as "04:00"')
]
SecretName = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        description="the name of a variable or secret",
        extra=SECRET_NAME,
    ),
]
SecretText = Annotated[str, Meta(extra=SECRET_VALUE)]
ProviderName = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9][a-z0-9_-]*)?$",
        description='a provider in lower case, such as "anthropic", or empty',
    ),
]
ResetMode = Literal["none", "idle", "daily", "both"]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the configuration."""


class ModelSettings(Section, frozen=True, kw_only=True):
    """The model that answers. Without one, a key in the environment or a server on this machine is used."""

    name: str = ""
    """The model's name, or `provider:name`, or `acp:agent/name` for another agent; with a `base_url` the name is taken as it stands."""
    provider: ProviderName = ""
    """Who runs it; empty for the `provider:` in the name, or any server that speaks the OpenAI protocol."""
    base_url: Url = ""
    """Address of an OpenAI-compatible server, with its `/v1`."""
    api_key_env: SecretName = ""
    """Name of the environment variable, or of the entry in secrets.toml, that holds the key."""
    context_window: Count = 0
    """Tokens the model of these settings takes; 0 for what is known of it."""
    max_output: Count = 0
    """Tokens of one answer, thinking included; 0 for the model's own limit."""
    input_usd_per_mtok: Cap | None = None
    """Dollars for a million tokens sent to this model, where its price is another than the list's, or in no list."""
    output_usd_per_mtok: Cap | None = None
    """Dollars for a million tokens of its answers. The two count together: 0 and 0 for a model that costs nothing."""
    summary_model: str = ""
    """The model that writes summaries and titles; empty for the same one."""


class TurnSettings(Section, frozen=True, kw_only=True):
    """One turn: from a message to its final reply."""

    busy: Literal["queue", "steer", "interrupt"] = "queue"
    """What a message does that arrives during a turn: wait, join after the running tool, or cut the turn."""
    lease_seconds: Duration = 30
    """A turn whose process showed no sign of life for so long may be taken over."""
    max_steps: Some = 50
    """Model calls in one turn."""
    max_seconds: Duration = 1800
    """Time one turn may take, waiting for approvals not counted."""
    max_repeats: Annotated[int, Meta(ge=2)] = 8
    """A turn ends when the same call brought the same result so often."""


class ApprovalSettings(Section, frozen=True, kw_only=True):
    """Which actions need a person's yes."""

    mode: Literal["ask", "accept-edits", "all"] = "ask"
    """Ask before every action that changes something, accept edits of files unasked, or accept all."""
    expires_seconds: Duration = 86400
    """An unanswered question is refused after so long."""


class RecoverySettings(Section, frozen=True, kw_only=True):
    """Turns that a crash interrupted."""

    freshness_seconds: Pause = 3600
    """A turn interrupted longer ago is announced, and not continued."""
    max_crashes: Some = 3
    """After so many crashes in a row a turn is set aside."""


class CompactionSettings(Section, frozen=True, kw_only=True):
    """Summaries that stand for the older part of a conversation. The messages themselves stay."""

    enabled: bool = True
    """Summarise when the context window fills."""
    trigger: Share = 0.75
    """Summarise when a request would fill more than this share of the context window."""
    target: Share = 0.25
    """Share of the context window to come down to; below `trigger`."""
    lease_seconds: Duration = 120
    """Another process may summarise again after so long without a sign of life."""
    cooldown_seconds: Pause = 60
    """Pause after a failed attempt; it grows with each."""


class LimitSettings(Section, frozen=True, kw_only=True):
    """What may be spent. A call that could pass a cap is not made. With a cap set, a model without a known price is
    refused until `model.input_usd_per_mtok` and `model.output_usd_per_mtok` say it."""

    usd_per_session: Cap | None = None
    """Dollars in one session, and in those that work beside it."""
    usd_per_user_day: Cap | None = None
    """Dollars of one person in a day, which begins at 00:00 UTC."""
    usd_per_day: Cap | None = None
    """Dollars of everybody in a day, which begins at 00:00 UTC."""
    tool_output_bytes: Some = 50_000
    """Output of one tool call the model is shown; the rest is cut, and said."""


class MemorySettings(Section, frozen=True, kw_only=True):
    """What is remembered from one session to the next."""

    enabled: bool = True
    """Remember facts, and recall them."""


class DelegateSettings(Section, frozen=True, kw_only=True):
    """Subagents: the model hands tasks to sessions that work beside its own. What they spend counts for that one too."""

    enabled: bool = True
    """Offer the tool `delegate`."""
    at_once: Some = 4
    """Subagents that one session has at work at the same time; more wait."""
    per_turn: Some = 16
    """Subagents of one turn in all."""
    depth: Some = 1
    """How deep they may be nested; with 1 a subagent has none of its own."""
    seconds: Duration = 600
    """Time one subagent may take, waiting for approvals not counted."""
    usd: Cap | None = None
    """Dollars one subagent may come to."""
    model: str = ""
    """The model they work with; empty for the session's."""


class TitleSettings(Section, frozen=True, kw_only=True):
    """Titles of sessions that nobody gave one, in the chat, in editors and on chat platforms."""

    enabled: bool = True
    """Have `model.summary_model` write one after the first turn; otherwise it is how the first message begins."""


class ReviewSettings(Section, frozen=True, kw_only=True):
    """A second look at each finished turn, beside the conversation."""

    enabled: bool = False
    """Have finished turns reviewed; what there is to say of one is told to the model with the next message."""


class RetentionSettings(Section, frozen=True, kw_only=True):
    """What `clew sessions prune` does to old sessions; nothing is done by itself. Live, shared and forked-from sessions are
    never touched."""

    archive_days: Count = 0
    """Archive what was not used for so many days; 0 for never."""
    delete_days: Count = 0
    """Delete what was not used for so many days; 0 for never."""
    max_mb: Count = 0
    """Delete the oldest sessions where the ledger is larger than this; 0 for no limit."""


class ResetOverride(Section, frozen=True, kw_only=True):
    """Differs from the level above where it says so."""

    mode: ResetMode | None = None
    """When a new session begins here."""
    at: ClockTime | None = None
    """Time of the daily reset here."""
    idle_minutes: Some | None = None
    """Idle time before a reset here."""
    timezone: str | None = None
    """Time zone of `at` here."""


class PlatformReset(ResetOverride, frozen=True, kw_only=True):
    """Differs from `[reset]` on one platform."""

    dm: ResetOverride = ResetOverride()
    group: ResetOverride = ResetOverride()
    channel: ResetOverride = ResetOverride()
    thread: ResetOverride = ResetOverride()


class ResetSettings(Section, frozen=True, kw_only=True):
    """When a conversation begins a new session by itself. It is announced, and can be taken back."""

    mode: ResetMode = "none"
    """Never, after idle time, every day, or both."""
    at: ClockTime = "04:00"
    """Time of the daily reset."""
    idle_minutes: Some = 1440
    """Idle time before a reset."""
    timezone: str = "UTC"
    """Time zone of `at`, such as `Europe/Athens`."""
    telegram: PlatformReset = PlatformReset()
    matrix: PlatformReset = PlatformReset()
    whatsapp: PlatformReset = PlatformReset()


class ReminderSettings(Section, frozen=True, kw_only=True):
    """By whose clocks people mean "tomorrow at 9:00"."""

    timezone: str = ""
    """Time zone of everybody who has none of their own, such as `Europe/Athens`; empty for this machine's."""
    timezones: Mapping[str, str] = {}
    """Time zones of people, by the name they were paired with; `local` is whoever sits at the terminal."""


class PlatformSettings(Section, frozen=True, kw_only=True):
    """A chat platform. It is used when its token is there."""

    base_url: Url = ""
    """Address of the platform's interface, where it is not the public one."""
    allow: tuple[str, ...] = ()
    """Ids of the people who may talk to Clew without being paired."""


class TelegramSettings(PlatformSettings, frozen=True, kw_only=True):
    """Telegram. It is used when its token is there."""

    token_env: SecretName = "TELEGRAM_BOT_TOKEN"
    """Name of the variable or secret that holds the bot's token."""
    base_file_url: Url = ""
    """Address files are fetched from, where it is not the public one."""
    webhook_url: Url = ""
    """Public https address Telegram sends updates to; empty to poll. The HTTP listener (`http`) serves its path."""
    webhook_secret_env: SecretName = "TELEGRAM_WEBHOOK_SECRET"
    """Name of the variable or secret that holds what Telegram shows with each update (letters, digits, `_`, `-`)."""


class MatrixSettings(PlatformSettings, frozen=True, kw_only=True):
    """Matrix. It is used when its token is there; `base_url` is the address of the account's homeserver, and `allow` has ids
    such as `@ann:example.org`."""

    token_env: SecretName = "MATRIX_ACCESS_TOKEN"
    """Name of the variable or secret that holds the access token."""


class WhatsAppSettings(PlatformSettings, frozen=True, kw_only=True):
    """WhatsApp, through Meta's Cloud API. It is used when its token is there; `allow` has phone numbers, or ids such as
    `US.13491208655302741918`. The HTTP listener (`http`) has to be reachable for Meta."""

    token_env: SecretName = "WHATSAPP_TOKEN"
    """Name of the variable or secret that holds the access token of a system user."""
    app_secret_env: SecretName = "WHATSAPP_APP_SECRET"
    """Name of the variable or secret that holds the app's secret, which signs what Meta posts."""
    verify_token_env: SecretName = "WHATSAPP_VERIFY_TOKEN"
    """Name of the variable or secret that holds what Meta shows when the webhook's address is entered there."""
    phone_number_id: str = ""
    """Id of the business phone number, as Meta shows it beside the number."""
    webhook_path: str = "/whatsapp"
    """Path that Meta posts to."""
    template: str = ""
    """Template (`name` or `name/language`) sent to whoever did not write for 24 hours; empty for none."""


class OtherPlatformSettings(Section, frozen=True, kw_only=True):
    """A chat platform of another package, by the name of its entry point."""

    token_env: SecretName = ""
    """Name of the variable or secret that holds its token, where it takes one."""
    allow: tuple[str, ...] = ()
    """Ids of the people who may talk to Clew without being paired."""
    options: Mapping[str, str] = {}
    """What else the package asks for."""


class GatewaySettings(Section, frozen=True, kw_only=True):
    """Chat platforms (`clew serve`)."""

    group_sessions_per_user: bool = True
    """In a group each person has a session of their own."""
    thread_sessions_per_user: bool = False
    """In a thread each person has a session of their own."""
    require_mention: bool = True
    """Where several people talk, answer only what names Clew, answers it, or is a command for it."""
    bystanders: Annotated[int, Meta(ge=0, le=200)] = 0
    """In a group that shares a session, so many lines that are not for Clew wait as context for the next that is."""
    drain_seconds: Pause = 30
    """Time running turns have to end when the gateway stops."""
    log: Literal["text", "json"] = "text"
    """How each line of the log is written."""
    edits: Literal["retry", "ignore"] = "retry"
    """What an edit of the last answered message does: take the answer back and answer anew, or nothing."""
    telegram: TelegramSettings = TelegramSettings()
    matrix: MatrixSettings = MatrixSettings()
    whatsapp: WhatsAppSettings = WhatsAppSettings()
    platforms: Mapping[str, OtherPlatformSettings] = {}


class HttpSettings(Section, frozen=True, kw_only=True):
    """The HTTP listener of `clew serve`: the API, `/healthz` and `/metrics`."""

    enabled: bool = True
    """Listen at all."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8787
    """Port to listen on; 0 for any free one."""
    api_key_env: SecretName = ""
    """Name of the variable or secret that holds the owner's key for the API. `clew pair key` makes others."""
    tools: bool = False
    """Let the agent's own tools work for whoever shows the owner's key."""
    requests_per_minute: Count = 600
    """How many requests are taken with one key; 0 for any number."""
    body_mb_max: Annotated[int, Meta(ge=1, le=200)] = 20
    """The largest request that is taken, in MB."""
    disconnect: Literal["go_on", "stop"] = "go_on"
    """What becomes of a session's turn whose client leaves. A request without a session is always stopped."""
    tool_seconds: Duration = 600
    """For how long a turn waits for what came of a call of the client's own tools."""
    events_seconds: Duration = 3600
    """After so long whoever follows a session has to ask again, with the last event's id: so a key that was taken back ends."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that browsers let use the API; none by default."""


class PoolSettings(Section, frozen=True, kw_only=True):
    """Other agents as models (`model.name = "acp:gemini"`): processes that are kept running."""

    enabled: bool = False
    """Keep agent processes running between turns; otherwise each turn starts one."""
    prewarm: bool = True
    """Start the configured one before the first turn, where they are kept."""
    recycle_sessions: Some = 200
    """Replace a process after it served so many sessions."""


class AgentSettings(Section, frozen=True, kw_only=True):
    """An agent that speaks the Agent Client Protocol, for models named `acp:NAME`. `gemini`, `claude` and `codex` are
    known; what is said here replaces what is known of them."""

    command: str = ""
    """Program to start."""
    args: tuple[str, ...] | None = None
    """Its arguments."""
    model_args: tuple[str, ...] | None = None
    """More arguments where a model is named, as in `acp:NAME/MODEL`; `{model}` stands for it."""
    env: Mapping[str, SecretText] = {}
    """Variables of its environment, beside ours."""
    auth: str = ""
    """The method it is to authenticate by; empty where it does so by itself."""

    def __repr__(self) -> str:
        """Without `env`, where people put secrets."""
        return f"AgentSettings(command={self.command!r}, …)"


class McpSettings(Section, frozen=True, kw_only=True):
    """An MCP server: `command`, `args` and `env` to start one, or `url` and `headers` for a running one."""

    command: str = ""
    """Program to start."""
    args: tuple[str, ...] = ()
    """Its arguments."""
    env: Mapping[str, SecretText] = {}
    """Variables of its environment."""
    url: Url = ""
    """Address of a running server."""
    sse: bool = False
    """Whether that one speaks the older transport, of server-sent events."""
    headers: Mapping[str, SecretText] = {}
    """Headers sent with every request."""

    def __repr__(self) -> str:
        """Without `env` and `headers`, where people put secrets."""
        return f"McpSettings(command={self.command!r}, url={self.url!r}, …)"


class ToolSettings(Section, frozen=True, kw_only=True):
    """What tools may reach."""

    allow_private_addresses: bool = False
    """Let web tools reach this machine and the local network."""
    web_search_provider: Literal["", "brave", "searxng"] = ""
    """Who searches the web; empty for no web search."""
    web_search_base_url: Url = ""
    """Address of the search service: of SearXNG always, of Brave where it is not the public one."""
    web_search_api_key_env: SecretName = ""
    """Name of the variable or secret that holds its key."""


class InstructionSettings(Section, frozen=True, kw_only=True):
    """Instructions a project gives."""

    files: tuple[str, ...] = ("AGENTS.md", "CLAUDE.md")
    """Names of the files looked for in the working directory."""


class TerminalSettings(Section, frozen=True, kw_only=True):
    """How the terminal chat looks."""

    show_thinking: bool = False
    """Show what the model thinks before it answers."""
    tool_output_lines: Count = 10
    """Lines of a tool's output that are shown; the model sees more."""


class Settings(Section, frozen=True, kw_only=True):
    """Every setting of one Clew."""

    model: ModelSettings = ModelSettings()
    turn: TurnSettings = TurnSettings()
    approval: ApprovalSettings = ApprovalSettings()
    recovery: RecoverySettings = RecoverySettings()
    compaction: CompactionSettings = CompactionSettings()
    limits: LimitSettings = LimitSettings()
    memory: MemorySettings = MemorySettings()
    delegate: DelegateSettings = DelegateSettings()
    titles: TitleSettings = TitleSettings()
    review: ReviewSettings = ReviewSettings()
    retention: RetentionSettings = RetentionSettings()
    reset: ResetSettings = ResetSettings()
    reminders: ReminderSettings = ReminderSettings()
    gateway: GatewaySettings = GatewaySettings()
    http: HttpSettings = HttpSettings()
    pool: PoolSettings = PoolSettings()
    agents: Mapping[str, AgentSettings] = {}
    mcp: Mapping[str, McpSettings] = {}
    tools: ToolSettings = ToolSettings()
    instructions: InstructionSettings = InstructionSettings()
    terminal: TerminalSettings = TerminalSettings()
