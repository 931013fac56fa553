#include "data/prompt_template.h"

#include <gmock/gmock.h>

#include "tests/unit/data/tiny_text_model.h"

namespace sbora::data {
namespace {

using core::LossOn;
using core::PromptTemplate;
using ::testing::ElementsAre;

class PromptTemplateTest : public ::testing::Test {
 protected:
  static Record Alpaca(std::string instruction, std::string input, std::string output) {
    Record record;
    record.format = DatasetFormat::kAlpaca;
    record.instruction = std::move(instruction);
    record.input = std::move(input);
    record.output = std::move(output);
    return record;
  }
  static Record Chat(std::vector<Message> messages) {
    Record record;
    record.format = DatasetFormat::kChat;
    record.messages = std::move(messages);
    return record;
  }
  /// The supervised tokens as text.
  std::string Supervised(const TokenizedSample& sample) {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < sample.ids.size(); ++i) {
      if (sample.supervised[i] != 0) ids.push_back(sample.ids[i]);
    }
    return model_.tokenizer->Decode(ids, false).value();
  }
  std::string All(const TokenizedSample& sample) { return model_.tokenizer->Decode(sample.ids, false).value(); }

  TempDirectory dir_ = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-data-test").value();
  TextModel model_ = testing::OpenTinyTextModel(dir_.path());
};

TEST_F(PromptTemplateTest, AlpacaToTheCharacter) {
  EXPECT_EQ(AlpacaPrompt("Do it", ""),
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nDo it\n\n### Response:");
  EXPECT_EQ(AlpacaPrompt("Do it", "x"),
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
            "response that appropriately completes the request.\n\n### Instruction:\nDo it\n\n### Input:\nx\n\n### "
            "Response:");
}

TEST_F(PromptTemplateTest, LlmAdaptersToTheCharacter) {
  // Each line ends with ⏎ so that the spaces before it are seen.
  const auto lines = [](std::string_view marked) {
    std::string text;
    for (size_t at = 0, end; at < marked.size(); at = end + 4) {  // "⏎\n"
      end = marked.find("\u23ce\n", at);
      if (end == std::string_view::npos) return text + std::string(marked.substr(at));
      text += std::string(marked.substr(at, end - at)) + "\n";
    }
    return text;
  };
  EXPECT_EQ(LlmAdaptersPrompt("Do {it}", ""), lines(
      R"(Below is an instruction that describes a task. Write a response that appropriately completes the request.  ⏎
⏎
                ### Instruction:⏎
                Do {it}⏎
                ⏎
                ### Response:⏎
                )"));
  EXPECT_EQ(LlmAdaptersPrompt("Do it", "x"), lines(
      R"(Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request. ⏎
⏎
                ### Instruction:⏎
                Do it⏎
                ⏎
                ### Input:⏎
                x⏎
                ⏎
                ### Response:⏎
                )"));
  EXPECT_EQ(LlmAdaptersEvaluationPrompt("Do it", ""), lines(
      R"(Below is an instruction that describes a task. Write a response that appropriately completes the request. ⏎
⏎
                ### Instruction:⏎
                Do it⏎
⏎
                ### Response:⏎
                )"));
  EXPECT_EQ(LlmAdaptersEvaluationPrompt("Do it", "x"), lines(
      R"(Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.⏎
⏎
                ### Instruction:⏎
                Do it⏎
⏎
                ### Input:⏎
                x⏎
⏎
                ### Response:⏎
                )"));
  const Record record = Alpaca("Do it", "", "done");
  EXPECT_EQ(RenderRecord(record, PromptTemplate::kLlmAdapters, model_)->front().text, LlmAdaptersPrompt("Do it", ""));
  EXPECT_EQ(RenderPrompt(record, PromptTemplate::kLlmAdapters, model_).value(),
            LlmAdaptersEvaluationPrompt("Do it", ""));
}

TEST_F(PromptTemplateTest, IdsEqualThoseOfTheWholeTextAndEndIsAppended) {
  const std::vector<Segment> segments = {{"the ", false}, {"the", true}};
  const auto sample = Tokenize(segments, PromptTemplate::kPlain, LossOn::kResponse, model_);
  ASSERT_TRUE(sample.ok()) << sample.status();
  auto whole = model_.tokenizer->Encode("the the", true).value();
  whole.push_back(2);
  EXPECT_EQ(sample->ids, whole);
  EXPECT_EQ(Supervised(*sample), "the<|im_end|>");
}

TEST_F(PromptTemplateTest, ATokenThatCrossesABorderBelongsToTheSegmentItEndsIn) {
  const auto sample = Tokenize({{"xa", false}, {"by", true}}, PromptTemplate::kPlain, LossOn::kResponse, model_);
  EXPECT_EQ(All(*sample), "xaby<|im_end|>");
  EXPECT_EQ(sample->ids.size(), 4u);  // x ab y end
  EXPECT_EQ(Supervised(*sample), "aby<|im_end|>");
  EXPECT_EQ(sample->response_start, 1);
}

TEST_F(PromptTemplateTest, WhiteSpaceThatEndsThePromptIsNotLearnt) {
  // Alone, "\n\n" at the end of a text is one token; before a letter it is two.
  EXPECT_EQ(model_.tokenizer->Encode("q\n\n", true)->size(), 2u);
  const auto sample = Tokenize({{"q\n\n", false}, {"by", true}}, PromptTemplate::kPlain, LossOn::kResponse, model_);
  ASSERT_TRUE(sample.ok()) << sample.status();
  EXPECT_EQ(sample->ids.size(), 6u);  // q \n \n b y end
  EXPECT_EQ(Supervised(*sample), "by<|im_end|>");
  EXPECT_EQ(sample->response_start, 3);
  // Spaces too, and a character of several bytes whose tokens all end behind it.
  const auto spaces = Tokenize({{"q   ", false}, {"\u00e9y", true}}, PromptTemplate::kPlain, LossOn::kResponse, model_);
  ASSERT_TRUE(spaces.ok()) << spaces.status();
  EXPECT_EQ(Supervised(*spaces), "\u00e9y<|im_end|>");
}

TEST_F(PromptTemplateTest, LossOnAllSupervisesEverything) {
  const auto sample = Tokenize({{"xa", false}, {"by", true}}, PromptTemplate::kPlain, LossOn::kAll, model_);
  EXPECT_THAT(sample->supervised, ElementsAre(1, 1, 1, 1));
  EXPECT_EQ(sample->response_start, 1);
}

TEST_F(PromptTemplateTest, EmptyResponseStillTeachesToStop) {
  const auto sample = Tokenize({{"x", false}, {"", true}}, PromptTemplate::kPlain, LossOn::kResponse, model_);
  EXPECT_EQ(Supervised(*sample), "<|im_end|>");
  EXPECT_EQ(sample->response_start, 1);
}

TEST_F(PromptTemplateTest, ChatSupervisesEachAssistantTurnAndItsEnd) {
  const Record record = Chat({{"system", "s"}, {"user", "q"}, {"assistant", "a"}, {"user", "r"}, {"assistant", "b"}});
  const auto segments = RenderRecord(record, PromptTemplate::kAuto, model_);
  ASSERT_TRUE(segments.ok()) << segments.status();
  EXPECT_THAT(*segments,
              ElementsAre(Segment{"<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
                                  false},
                          Segment{"a<|im_end|>", true},
                          Segment{"\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n", false},
                          Segment{"b<|im_end|>", true}, Segment{"\n", false}));
  const auto sample = Tokenize(*segments, PromptTemplate::kChat, LossOn::kResponse, model_);
  EXPECT_EQ(Supervised(*sample), "a<|im_end|>b<|im_end|>");
  EXPECT_TRUE(All(*sample).ends_with("b<|im_end|>\n"));  // no second end token
}

TEST_F(PromptTemplateTest, RecordsOfOtherShapesBecomeATurnEach) {
  const auto segments = RenderRecord(Alpaca("i", "n", "o"), PromptTemplate::kChat, model_);
  ASSERT_TRUE(segments.ok());
  EXPECT_EQ((*segments)[0].text, "<|im_start|>user\ni\nn<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ((*segments)[1].text, "o<|im_end|>");
  EXPECT_EQ(RenderRecord(Chat({{"assistant", "a"}}), PromptTemplate::kAlpaca, model_).status().reason(),
            "TEMPLATE_MISMATCH");
  Record plain;
  plain.format = DatasetFormat::kPromptCompletion;
  plain.prompt = "p";
  plain.completion = "c";
  EXPECT_THAT(*RenderRecord(plain, PromptTemplate::kAuto, model_), ElementsAre(Segment{"p", false}, Segment{"c", true}));
  EXPECT_EQ((*RenderRecord(plain, PromptTemplate::kAlpaca, model_))[0].text, AlpacaPrompt("p", ""));
}

TEST_F(PromptTemplateTest, PromptIsTheBeginningOfTheTrainingSample) {
  for (const PromptTemplate prompt_template : {PromptTemplate::kAlpaca, PromptTemplate::kPlain,
                                               PromptTemplate::kChat}) {
    const Record record = Alpaca("the task", "ab", "out");
    const auto prompt = RenderPrompt(record, prompt_template, model_);
    const auto segments = RenderRecord(record, prompt_template, model_);
    ASSERT_TRUE(prompt.ok() && segments.ok());
    EXPECT_EQ((*segments)[0].text, *prompt);
    const auto ids = TokenizePrompt(*prompt, prompt_template, model_);
    const auto sample = Tokenize(*segments, prompt_template, LossOn::kResponse, model_);
    EXPECT_TRUE(std::equal(ids->begin(), ids->end(), sample->ids.begin()));
    EXPECT_EQ(static_cast<int64_t>(ids->size()), sample->response_start);
  }
}

TEST_F(PromptTemplateTest, NamesWhatATemplateCannotDo) {
  const TextModel bare = testing::OpenTinyTextModel(dir_.path() / "bare", false);
  EXPECT_EQ(RenderRecord(Chat({{"assistant", "a"}}), PromptTemplate::kChat, bare).status().reason(),
            "CHAT_TEMPLATE_MISSING");
  TextModel odd = testing::OpenTinyTextModel(dir_.path() / "odd");
  odd.chat_template = ChatTemplate::FromSource("{{ messages | length }} {{ messages[0]['content'] }}").value();
  EXPECT_EQ(RenderRecord(Chat({{"user", "u"}, {"assistant", "a"}}), PromptTemplate::kChat, odd).status().reason(),
            "CHAT_TEMPLATE_UNSTABLE");
}

TEST_F(PromptTemplateTest, ATokenizerMustNotPointBehindTheEmbedding) {
  const auto dir = dir_.path() / "large";
  testing::WriteTinyTextModel(dir);
  std::string config = ReadFile(dir / "config.json", 1 << 20).value();
  config.replace(config.find("\"vocab_size\": 128"), 17, "\"vocab_size\": 100");
  ASSERT_TRUE(WriteFileAtomic(dir / "config.json", config).ok());
  const Status status = TextModel::Open(dir).status();
  EXPECT_EQ(status.reason(), "TOKENIZER_VOCAB_MISMATCH");
  EXPECT_THAT(status.message(), ::testing::HasSubstr("the tokenizer has 106 tokens, the model's embedding 100"));
}

TEST_F(PromptTemplateTest, TextModelNeedsAnEndToken) {
  EXPECT_THAT(model_.eos_ids, ElementsAre(2));
  const auto dir = dir_.path() / "noend";
  testing::WriteTinyTextModel(dir);
  std::string config = ReadFile(dir / "config.json", 1 << 20).value();
  config.replace(config.find("\"eos_token_id\": 2"), 17, "\"eos_token_id\": null");
  ASSERT_TRUE(WriteFileAtomic(dir / "config.json", config).ok());
  ASSERT_TRUE(WriteFileAtomic(dir / "tokenizer_config.json", "{}").ok());
  EXPECT_EQ(TextModel::Open(dir).status().reason(), "EOS_TOKEN_MISSING");
  ASSERT_TRUE(WriteFileAtomic(dir / "tokenizer_config.json", "[").ok());
  EXPECT_EQ(TextModel::Open(dir).status().reason(), "TOKENIZER_CONFIG_MALFORMED");
  const std::string deep = R"({"eos_token": )" + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  ASSERT_TRUE(WriteFileAtomic(dir / "tokenizer_config.json", deep).ok());
  EXPECT_THAT(TextModel::Open(dir).status().message(), ::testing::HasSubstr("no JSON object of at most 64 levels"));
}

}  // namespace
}  // namespace sbora::data
