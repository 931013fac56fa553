#include "common/ffi/chat_template.h"

#include <fmt/format.h>

#include "common/ffi/ffi_call.h"

namespace sbora {

StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::FromSource(std::string_view template_source,
                                                                 const ChatTemplateOptions& options) {
  if (template_source.size() > options.max_source_bytes) {
    return InvalidArgument("CHAT_TEMPLATE_TOO_LARGE",
                           fmt::format("the chat template has {} bytes; the limit is {}", template_source.size(),
                                       options.max_source_bytes));
  }
  const SboraFfiChatOptions ffi_options = {options.fuel, options.max_output_bytes,
                                           options.fixed_time_unix_seconds.has_value(),
                                           options.fixed_time_unix_seconds.value_or(0)};
  SboraFfiError error;
  SboraFfiChatTemplate* handle = nullptr;
  const int32_t code = sbora_ffi_chat_template_new(ffi::ToSlice(template_source), ffi_options, &handle, &error);
  if (code != 0) return ffi::ToStatus(code, error);
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(handle));
}

ChatTemplate::~ChatTemplate() { sbora_ffi_chat_template_free(handle_); }

StatusOr<std::string> ChatTemplate::Render(std::string_view messages_json, bool add_generation_prompt,
                                           std::string_view bos_token, std::string_view eos_token,
                                           std::string_view extra_json) const {
  // The JSON is read on the Rust side, whose parser limits nesting.
  const SboraFfiChatInput input = {ffi::ToSlice(messages_json), ffi::ToSlice(extra_json), ffi::ToSlice(bos_token),
                                   ffi::ToSlice(eos_token), add_generation_prompt};
  SboraFfiError error;
  std::string out;
  const int32_t code = sbora_ffi_chat_template_render(handle_, &input, ffi::AppendTo(&out), &error);
  if (code != 0) return ffi::ToStatus(code, error);
  return out;
}

}  // namespace sbora
