"""Types of the Agent Client Protocol, version 1. Written by `make acp-types` from @agentclientprotocol/sdk@2.4.0: not edited by hand."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field


class AuthCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    terminal: bool = False


class AuthenticateRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    method_id: str = field(name="methodId")


class AuthenticateResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class BooleanConfigOptionCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class CancelledOutcome(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="outcome", tag="cancelled"
):
    pass


class CloseSessionResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class CompactionCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Cost(Struct, frozen=True, kw_only=True, omit_defaults=True):
    amount: float
    currency: str


class DeleteSessionResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class DiffPart(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="diff"):
    path: str
    new_text: str = field(name="newText")
    old_text: str | None = field(name="oldText", default=None)


class EmbeddedResourceResource(Struct, frozen=True, kw_only=True, omit_defaults=True):
    uri: str
    mime_type: str | None = field(name="mimeType", default=None)
    text: str | None = None
    blob: str | None = None


class EnvVariable(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    value: str


class FileSystemCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    read_text_file: bool | None = field(name="readTextFile", default=False)
    write_text_file: bool | None = field(name="writeTextFile", default=False)


class HttpHeader(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    value: str


class Implementation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    version: str
    title: str | None = None


class KillTerminalResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class ListSessionsRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    cwd: str | None = None
    cursor: str | None = None


class LogoutCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class LogoutRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class LogoutResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class McpCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    http: bool = False
    sse: bool = False


class McpServer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    url: str | None = None
    headers: list[HttpHeader] | None = None
    type: Literal["http", "sse"] | None = None
    command: str | None = None
    args: list[str] | None = None
    env: list[EnvVariable] | None = None


class NewSessionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    cwd: str
    mcp_servers: list[McpServer] = field(name="mcpServers")
    additional_directories: list[str] | None = field(name="additionalDirectories", default=None)


class NoticeCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class PromptCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    image: bool = False
    audio: bool = False
    embedded_context: bool | None = field(name="embeddedContext", default=False)


class ReadTextFileResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    content: str


class ReleaseTerminalResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class SelectedOutcome(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="outcome", tag="selected"
):
    option_id: str = field(name="optionId")


class SessionAdditionalDirectoriesCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class SessionCloseCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class SessionConfigOptionsCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    boolean: BooleanConfigOptionCapabilities | None = None


class SessionDeleteCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class SessionInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    cwd: str
    additional_directories: list[str] | None = field(name="additionalDirectories", default=None)
    title: str | None = None
    updated_at: str | None = field(name="updatedAt", default=None)


class SessionInfoUpdateSent(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="sessionUpdate",
    tag="session_info_update",
):
    title: str | None = None
    updated_at: str | None = field(name="updatedAt", default=None)


class SessionListCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class SessionResumeCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class SetSessionConfigOptionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    config_id: str = field(name="configId")
    value: bool | str
    type: Literal["boolean"] | None = None


class SetSessionModeRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    mode_id: str = field(name="modeId")


class SetSessionModeResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class TerminalExitStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    exit_code: Annotated[int, Meta(ge=0)] | None = field(name="exitCode", default=None)
    signal: str | None = None


class TerminalOutputRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    terminal_id: str = field(name="terminalId")


class TerminalOutputResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    output: str
    truncated: bool
    exit_status: TerminalExitStatus | None = field(name="exitStatus", default=None)


class TerminalPart(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="terminal"):
    terminal_id: str = field(name="terminalId")


class ToolCallLocation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    path: str
    line: Annotated[int, Meta(ge=0)] | None = None


class UnstructuredCommandInput(Struct, frozen=True, kw_only=True, omit_defaults=True):
    hint: str


class UsageUpdateSent(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="sessionUpdate", tag="usage_update"
):
    used: Annotated[int, Meta(ge=0)]
    size: Annotated[int, Meta(ge=0)]
    cost: Cost | None = None


class WaitForTerminalExitRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    terminal_id: str = field(name="terminalId")


class WaitForTerminalExitResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    exit_code: Annotated[int, Meta(ge=0)] | None = field(name="exitCode", default=None)
    signal: str | None = None


class WriteTextFileRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    path: str
    content: str


class WriteTextFileResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


class AgentAuthCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    logout: LogoutCapabilities | None = None


class Annotations(Struct, frozen=True, kw_only=True, omit_defaults=True):
    audience: list[Literal["assistant", "user"]] | None = None
    last_modified: str | None = field(name="lastModified", default=None)
    priority: float | None = None


class AudioBlock(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="audio"):
    data: str
    mime_type: str = field(name="mimeType")
    annotations: Annotations | None = None


class AuthMethod(Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    description: str | None = None
    args: list[str] | None = None
    env: dict[str, str] | None = None
    type: Literal["terminal"] | None = None


AvailableCommandInput: TypeAlias = UnstructuredCommandInput


class BooleanOption(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="boolean"):
    current_value: bool = field(name="currentValue")
    id: str
    name: str
    description: str | None = None
    category: str | None = None


class CancelNotification(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")


class ClientSessionCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    compaction: CompactionCapabilities | None = None
    config_options: SessionConfigOptionsCapabilities | None = field(name="configOptions", default=None)
    notices: NoticeCapabilities | None = None


class CloseSessionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")


class CreateTerminalRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    command: str
    args: list[str] | None = None
    env: list[EnvVariable] | None = None
    cwd: str | None = None
    output_byte_limit: Annotated[int, Meta(ge=0)] | None = field(name="outputByteLimit", default=None)


class CreateTerminalResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    terminal_id: str = field(name="terminalId")


class CurrentModeUpdateSent(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="sessionUpdate",
    tag="current_mode_update",
):
    current_mode_id: str = field(name="currentModeId")


class DeleteSessionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")


class ImageBlock(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="image"):
    data: str
    mime_type: str = field(name="mimeType")
    annotations: Annotations | None = None
    uri: str | None = None


class KillTerminalRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    terminal_id: str = field(name="terminalId")


class ListSessionsResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    sessions: list[SessionInfo]
    next_cursor: str | None = field(name="nextCursor", default=None)


class LoadSessionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    mcp_servers: list[McpServer] = field(name="mcpServers")
    cwd: str
    session_id: str = field(name="sessionId")
    additional_directories: list[str] | None = field(name="additionalDirectories", default=None)


class NoticeSent(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="sessionUpdate", tag="notice"
):
    severity: str
    title: Annotated[str, Meta(min_length=1)]
    description: str | None = None


class PermissionOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    option_id: str = field(name="optionId")
    name: str
    kind: Literal["allow_once", "allow_always", "reject_once", "reject_always"]


class PlanEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    content: str
    priority: Literal["high", "medium", "low"]
    status: Literal["pending", "in_progress", "completed"]


class PlanSent(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="sessionUpdate", tag="plan"):
    entries: list[PlanEntry]


class PromptResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    stop_reason: Literal["end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled"] = field(
        name="stopReason"
    )


class ReadTextFileRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    path: str
    line: Annotated[int, Meta(ge=0)] | None = None
    limit: Annotated[int, Meta(ge=0)] | None = None


class ReleaseTerminalRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    terminal_id: str = field(name="terminalId")


class RequestPermissionResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    outcome: CancelledOutcome | SelectedOutcome


class ResourceBlock(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="resource"):
    resource: EmbeddedResourceResource
    annotations: Annotations | None = None


class ResourceLinkBlock(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="resource_link"
):
    name: str
    uri: str
    annotations: Annotations | None = None
    description: str | None = None
    mime_type: str | None = field(name="mimeType", default=None)
    size: int | None = None
    title: str | None = None


class ResumeSessionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    cwd: str
    additional_directories: list[str] | None = field(name="additionalDirectories", default=None)
    mcp_servers: list[McpServer] | None = field(name="mcpServers", default=None)


class SessionCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    list: SessionListCapabilities | None = None
    delete: SessionDeleteCapabilities | None = None
    additional_directories: SessionAdditionalDirectoriesCapabilities | None = field(
        name="additionalDirectories", default=None
    )
    resume: SessionResumeCapabilities | None = None
    close: SessionCloseCapabilities | None = None


class SessionConfigSelectOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    value: str
    name: str
    description: str | None = None


class SessionMode(Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    description: str | None = None


class SessionModeState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    current_mode_id: str = field(name="currentModeId")
    available_modes: list[SessionMode] = field(name="availableModes")


class TextBlock(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="text"):
    text: str
    annotations: Annotations | None = None


class AgentCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    load_session: bool | None = field(name="loadSession", default=False)
    prompt_capabilities: PromptCapabilities | None = field(name="promptCapabilities", default=None)
    mcp_capabilities: McpCapabilities | None = field(name="mcpCapabilities", default=None)
    session_capabilities: SessionCapabilities | None = field(name="sessionCapabilities", default=None)
    auth: AgentAuthCapabilities | None = None


class AvailableCommand(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    description: str
    input: AvailableCommandInput | None = None


class AvailableCommandsUpdateSent(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="sessionUpdate",
    tag="available_commands_update",
):
    available_commands: list[AvailableCommand] = field(name="availableCommands")


class ClientCapabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    fs: FileSystemCapabilities | None = None
    terminal: bool = False
    session: ClientSessionCapabilities | None = None
    auth: AuthCapabilities | None = None


class ContentPart(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="content"):
    content: TextBlock | ImageBlock | AudioBlock | ResourceLinkBlock | ResourceBlock


class InitializeRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    protocol_version: Annotated[int, Meta(ge=0, le=65535)] = field(name="protocolVersion")
    client_capabilities: ClientCapabilities | None = field(name="clientCapabilities", default=None)
    client_info: Implementation | None = field(name="clientInfo", default=None)


class InitializeResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    protocol_version: Annotated[int, Meta(ge=0, le=65535)] = field(name="protocolVersion")
    agent_capabilities: AgentCapabilities | None = field(name="agentCapabilities", default=None)
    auth_methods: list[AuthMethod] | None = field(name="authMethods", default_factory=list)
    agent_info: Implementation | None = field(name="agentInfo", default=None)


class PromptRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    prompt: list[TextBlock | ImageBlock | AudioBlock | ResourceLinkBlock | ResourceBlock]


class SessionConfigChoice(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    value: str | None = None
    description: str | None = None
    group: str | None = None
    options: list[SessionConfigSelectOption] | None = None


class ToolCallSent(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="sessionUpdate", tag="tool_call"
):
    tool_call_id: str = field(name="toolCallId")
    title: str
    name: str | None = None
    kind: (
        Literal[
            "read",
            "edit",
            "delete",
            "move",
            "search",
            "execute",
            "think",
            "fetch",
            "switch_mode",
            "other",
        ]
        | None
    ) = None
    status: Literal["pending", "in_progress", "completed", "failed"] | None = None
    content: list[ContentPart | DiffPart | TerminalPart] | None = None
    locations: list[ToolCallLocation] | None = None
    raw_input: Any | None = field(name="rawInput", default=None)
    raw_output: Any | None = field(name="rawOutput", default=None)


class ToolCallUpdate(Struct, frozen=True, kw_only=True, omit_defaults=True):
    tool_call_id: str = field(name="toolCallId")
    kind: (
        Literal[
            "read",
            "edit",
            "delete",
            "move",
            "search",
            "execute",
            "think",
            "fetch",
            "switch_mode",
            "other",
        ]
        | None
    ) = None
    status: Literal["pending", "in_progress", "completed", "failed"] | None = None
    title: str | None = None
    name: str | None = None
    content: list[ContentPart | DiffPart | TerminalPart] | None = None
    locations: list[ToolCallLocation] | None = None
    raw_input: Any | None = field(name="rawInput", default=None)
    raw_output: Any | None = field(name="rawOutput", default=None)


class ToolCallUpdateSent(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="sessionUpdate", tag="tool_call_update"
):
    tool_call_id: str = field(name="toolCallId")
    kind: (
        Literal[
            "read",
            "edit",
            "delete",
            "move",
            "search",
            "execute",
            "think",
            "fetch",
            "switch_mode",
            "other",
        ]
        | None
    ) = None
    status: Literal["pending", "in_progress", "completed", "failed"] | None = None
    title: str | None = None
    name: str | None = None
    content: list[ContentPart | DiffPart | TerminalPart] | None = None
    locations: list[ToolCallLocation] | None = None
    raw_input: Any | None = field(name="rawInput", default=None)
    raw_output: Any | None = field(name="rawOutput", default=None)


class UserMessageChunkSent(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="sessionUpdate", tag="user_message_chunk"
):
    content: TextBlock | ImageBlock | AudioBlock | ResourceLinkBlock | ResourceBlock
    message_id: str | None = field(name="messageId", default=None)


class AgentMessageChunkSent(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="sessionUpdate",
    tag="agent_message_chunk",
):
    content: TextBlock | ImageBlock | AudioBlock | ResourceLinkBlock | ResourceBlock
    message_id: str | None = field(name="messageId", default=None)


class AgentThoughtChunkSent(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="sessionUpdate",
    tag="agent_thought_chunk",
):
    content: TextBlock | ImageBlock | AudioBlock | ResourceLinkBlock | ResourceBlock
    message_id: str | None = field(name="messageId", default=None)


class CompactionSummaryChunkSent(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="sessionUpdate",
    tag="compaction_summary_chunk",
):
    compaction_id: str = field(name="compactionId")
    content: TextBlock | ImageBlock | AudioBlock | ResourceLinkBlock | ResourceBlock


class CompactionUpdateSent(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="sessionUpdate", tag="compaction_update"
):
    compaction_id: str = field(name="compactionId")
    status: str
    summary: list[TextBlock | ImageBlock | AudioBlock | ResourceLinkBlock | ResourceBlock] | None = None
    error: str | None = None


class RequestPermissionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    tool_call: ToolCallUpdate = field(name="toolCall")
    options: list[PermissionOption]


class SelectOption(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="select"):
    current_value: str = field(name="currentValue")
    options: list[SessionConfigChoice]
    id: str
    name: str
    description: str | None = None
    category: str | None = None


class SetSessionConfigOptionResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    config_options: list[SelectOption | BooleanOption] = field(name="configOptions")


class ConfigOptionUpdateSent(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="sessionUpdate",
    tag="config_option_update",
):
    config_options: list[SelectOption | BooleanOption] = field(name="configOptions")


class LoadSessionResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    modes: SessionModeState | None = None
    config_options: list[SelectOption | BooleanOption] | None = field(name="configOptions", default=None)


class NewSessionResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    modes: SessionModeState | None = None
    config_options: list[SelectOption | BooleanOption] | None = field(name="configOptions", default=None)


class ResumeSessionResponse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    modes: SessionModeState | None = None
    config_options: list[SelectOption | BooleanOption] | None = field(name="configOptions", default=None)


class SessionNotification(Struct, frozen=True, kw_only=True, omit_defaults=True):
    session_id: str = field(name="sessionId")
    update: (
        UserMessageChunkSent
        | AgentMessageChunkSent
        | AgentThoughtChunkSent
        | ToolCallSent
        | ToolCallUpdateSent
        | PlanSent
        | AvailableCommandsUpdateSent
        | CurrentModeUpdateSent
        | ConfigOptionUpdateSent
        | SessionInfoUpdateSent
        | UsageUpdateSent
        | NoticeSent
        | CompactionUpdateSent
        | CompactionSummaryChunkSent
    )
