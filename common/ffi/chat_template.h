/// A chat template (Jinja), rendered as transformers' `apply_chat_template` does: trim_blocks and lstrip_blocks on,
/// `raise_exception`, `strftime_now`, `tojson` as json.dumps, Python's string and dict methods, break and continue,
/// `{% generation %}` blocks, and True, False and None printed as Python prints them.
///
///     SBORA_ASSIGN_OR_RETURN(const auto chat, ChatTemplate::FromSource(source));
///     SBORA_ASSIGN_OR_RETURN(const std::string prompt,
///                            chat->Render(R"([{"role":"user","content":"Hi"}])", true, "<s>", "</s>"));
///
/// Templates are foreign code: no files, no includes, no attributes of the host; steps and output are limited. A string
/// that a template builds in a variable is not limited before it is written, so render foreign templates where a
/// process may die.
/// Known differences from Jinja2: `~` joins print true, false and none in lower case.
/// Threading: Render is const and may run from many threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"

struct SboraFfiChatTemplate;

namespace sbora {

struct ChatTemplateOptions {
  uint64_t fuel = 5'000'000;                ///< engine steps per Render; a message costs some tens of them
  uint64_t max_output_bytes = 64ULL << 20;  ///< longest result of Render
  uint64_t max_source_bytes = 1ULL << 20;   ///< longest template
  /// What `strftime_now` shows, in seconds since 1970 UTC. Set it where results must repeat; unset: the current time.
  std::optional<int64_t> fixed_time_unix_seconds = {};
};

class ChatTemplate {
 public:
  /// Errors: INVALID_ARGUMENT CHAT_TEMPLATE_SYNTAX (with line), CHAT_TEMPLATE_TOO_LARGE, INVALID_UTF8.
  static StatusOr<std::unique_ptr<ChatTemplate>> FromSource(std::string_view template_source,
                                                            const ChatTemplateOptions& options = {});
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  /// `messages_json` is a JSON array; `extra_json` a JSON object of further variables (`tools`, `documents`, …), which
  /// may not name messages, add_generation_prompt, bos_token or eos_token.
  /// Errors: INVALID_ARGUMENT CHAT_INPUT_INVALID, CHAT_TEMPLATE_RAISED (the template's own refusal, with its text),
  /// CHAT_TEMPLATE_FAILED; RESOURCE_EXHAUSTED CHAT_TEMPLATE_FUEL_LIMIT, CHAT_TEMPLATE_OUTPUT_LIMIT.
  StatusOr<std::string> Render(std::string_view messages_json, bool add_generation_prompt, std::string_view bos_token,
                               std::string_view eos_token, std::string_view extra_json = "{}") const;

 private:
  explicit ChatTemplate(SboraFfiChatTemplate* handle) : handle_(handle) {}

  SboraFfiChatTemplate* handle_;  // owned
};

}  // namespace sbora
