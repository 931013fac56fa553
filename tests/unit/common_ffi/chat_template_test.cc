#include "common/ffi/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sbora {
namespace {

using ::testing::HasSubstr;

constexpr char kTwoTurns[] =
    R"([{"role":"system","content":"Be short."},{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello!"}])";

StatusOr<std::string> Render(std::string_view source, std::string_view messages = "[]", bool prompt = false,
                             std::string_view extra = "{}", const ChatTemplateOptions& options = {}) {
  auto chat = ChatTemplate::FromSource(source, options);
  if (!chat.ok()) return chat.status();
  return (*chat)->Render(messages, prompt, "<s>", "</s>", extra);
}

std::string Text(std::string_view source, std::string_view messages = "[]", bool prompt = false,
                 std::string_view extra = "{}", const ChatTemplateOptions& options = {}) {
  auto text = Render(source, messages, prompt, extra, options);
  return text.ok() ? *text : text.status().ToString();
}

TEST(ChatTemplateTest, ChatMl) {
  const std::string_view source =
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
      "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  const std::string turns =
      "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!"
      "<|im_end|>\n";
  EXPECT_EQ(Text(source, kTwoTurns), turns);
  EXPECT_EQ(Text(source, kTwoTurns, true), turns + "<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, AlpacaWithTrimmedBlocks) {
  // Block lines vanish with their line break and their indent, as with trim_blocks and lstrip_blocks.
  const std::string_view source = R"({% for m in messages %}
    {% if m.role == 'user' %}
### Instruction:
{{ m.content }}

    {% elif m.role == 'assistant' %}
### Response:
{{ m.content }}{{ eos_token }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
### Response:
{% endif %})";
  EXPECT_EQ(Text(source, kTwoTurns), "### Instruction:\nHi\n\n### Response:\nHello!</s>\n");
  EXPECT_EQ(Text(source, R"([{"role":"user","content":"Hi"}])", true), "### Instruction:\nHi\n\n### Response:\n");
}

TEST(ChatTemplateTest, LlamaStyleWithNamespacesToolsAndDates) {
  const std::string_view source =
      "{{- bos_token }}\n{%- set ns = namespace(system='', last=-1) %}\n"
      "{%- if messages[0]['role'] == 'system' %}\n    {%- set ns.system = messages[0]['content']|trim %}\n"
      "    {%- set messages = messages[1:] %}\n{%- endif %}\n"
      "{{- 'Date: ' + strftime_now('%d %b %Y') + '\n' }}{{- ns.system }}\n"
      "{%- if tools is defined and tools is not none %}\n{%- for t in tools %}\n{{- '\n' + (t | tojson) }}\n"
      "{%- endfor %}\n{%- endif %}\n"
      "{%- for m in messages %}\n{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
      "{{- raise_exception('roles must alternate') }}\n{%- endif %}\n"
      "{{- '\n[' + m.role.upper() + '] ' + m.content.strip() }}\n{%- if loop.last %}{% set ns.last = loop.index0 %}"
      "{%- endif %}\n{%- endfor %}\n{{- '|' ~ ns.last }}";
  const ChatTemplateOptions options = {.fixed_time_unix_seconds = 1'721'952'000};
  EXPECT_EQ(Text(source, kTwoTurns, false, R"({"tools":[{"name":"f","a":[1,true,null,"<é>"]}]})", options),
            "<s>Date: 26 Jul 2024\nBe short.\n{\"name\": \"f\", \"a\": [1, true, null, \"<é>\"]}\n[USER] Hi\n"
            "[ASSISTANT] Hello!|1");
  const auto refused = Render(source, R"([{"role":"assistant","content":"x"}])", false, "{}", options);
  EXPECT_EQ(refused.status().reason(), "CHAT_TEMPLATE_RAISED");
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("roles must alternate"));
}

TEST(ChatTemplateTest, PythonMethodsLoopControlsAndMacros) {
  EXPECT_EQ(Text("{{ 'a<t>b'.split('<t>')[-1].rstrip('\\n') }}{{ {'k': 1}.items() | list | length }}"), "b1");
  EXPECT_EQ(Text("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"), "012");
  EXPECT_EQ(Text("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('y') }}"), "[y]");
  EXPECT_EQ(Text("{{ messages[::-1][0].content }}", kTwoTurns), "Hello!");
  EXPECT_EQ(Text("{{ 'x'.startswith('x') and 'b' in 'abc' and missing is not defined }}"), "True");
}

TEST(ChatTemplateTest, GenerationBlocksPrintTheirBody) {
  EXPECT_EQ(Text("a {%- generation -%} b {%- endgeneration %} c"), "ab c");
  EXPECT_EQ(Text("{% generation %}\nx{% endgeneration %}"), "x");
}

TEST(ChatTemplateTest, PrintsValuesAsPythonDoes) {
  EXPECT_EQ(Text("{{ true }} {{ none }} {{ 1.0 }} {{ missing }}"), "True None 1.0 ");
  EXPECT_EQ(Text(R"({{ ["a'b", 1, {'k': false}] }})"), R"(["a'b", 1, {'k': False}])");
  EXPECT_EQ(Text("{{ {'a': 1, 'b': [2]} | tojson(indent=2) }}"), "{\n  \"a\": 1,\n  \"b\": [\n    2\n  ]\n}");
  EXPECT_EQ(Text("{{ '<&\\'>' }}{{ '<&>' | tojson }}"), "<&'>\"<&>\"");
}

TEST(ChatTemplateTest, KeepsTheOrderOfKeys) {
  EXPECT_EQ(Text("{{ messages[0] | tojson }}", R"([{"z":1,"a":2,"m":3}])"), R"({"z": 1, "a": 2, "m": 3})");
}

TEST(ChatTemplateTest, SyntaxErrorsNameTheLine) {
  const auto chat = ChatTemplate::FromSource("ok\n{% for m in %}");
  EXPECT_EQ(chat.status().reason(), "CHAT_TEMPLATE_SYNTAX");
  EXPECT_THAT(chat.status().message(), HasSubstr("chat_template:2"));
  EXPECT_EQ(ChatTemplate::FromSource("\xff").status().reason(), "INVALID_UTF8");
  EXPECT_EQ(ChatTemplate::FromSource("{% unclosed").status().reason(), "CHAT_TEMPLATE_SYNTAX");
  EXPECT_EQ(ChatTemplate::FromSource("four", {.max_source_bytes = 3}).status().reason(), "CHAT_TEMPLATE_TOO_LARGE");
}

TEST(ChatTemplateTest, FailuresAtRunTimeAreErrors) {
  EXPECT_EQ(Render("{{ missing.field.deeper }}").status().reason(), "CHAT_TEMPLATE_FAILED");
  EXPECT_EQ(Render("{{ 1 / 0 }}{{ nofunction() }}").status().reason(), "CHAT_TEMPLATE_FAILED");
  EXPECT_EQ(Render("{% include '/etc/passwd' %}").status().reason(), "CHAT_TEMPLATE_FAILED");
  EXPECT_EQ(Render("{{ strftime_now('%Q%!') }}").status().reason(), "CHAT_TEMPLATE_FAILED");
  EXPECT_EQ(Render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").status().reason(), "CHAT_TEMPLATE_FAILED");
}

TEST(ChatTemplateTest, EndlessWorkRunsOutOfFuel) {
  const std::string_view loops =
      "{% for a in range(90000) %}{% for b in range(90000) %}{% set x = a * b %}{% endfor %}{% endfor %}";
  const auto result = Render(loops, "[]", false, "{}", {.fuel = 100'000});
  EXPECT_EQ(result.status().reason(), "CHAT_TEMPLATE_FUEL_LIMIT");
  EXPECT_EQ(result.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(result.status().message(), HasSubstr("100000"));
}

TEST(ChatTemplateTest, LongOutputIsRefused) {
  const auto result =
      Render("{% for a in range(1000) %}0123456789{% endfor %}", "[]", false, "{}", {.max_output_bytes = 9'999});
  EXPECT_EQ(result.status().reason(), "CHAT_TEMPLATE_OUTPUT_LIMIT");
  EXPECT_EQ(Text("{% for a in range(1000) %}0123456789{% endfor %}", "[]", false, "{}", {.max_output_bytes = 10'000})
                .size(),
            10'000u);
}

TEST(ChatTemplateTest, BadInputIsNamed) {
  for (const std::string_view messages : {"", "{}", "[", "\"x\"", "[\"\xff\"]"}) {
    EXPECT_EQ(Render("x", messages).status().reason(), "CHAT_INPUT_INVALID") << messages;
  }
  EXPECT_EQ(Render("x", std::string(100'000, '[')).status().reason(), "CHAT_INPUT_INVALID");
  EXPECT_EQ(Render("x", "[]", false, "[]").status().reason(), "CHAT_INPUT_INVALID");
  const auto shadowed = Render("x", "[]", false, R"({"bos_token": "y"})");
  EXPECT_THAT(shadowed.status().message(), HasSubstr("bos_token"));
}

}  // namespace
}  // namespace sbora
