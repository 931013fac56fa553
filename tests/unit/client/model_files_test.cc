#include "client/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file.h"

namespace sbora::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

class PickModelFilesTest : public ::testing::Test {
 protected:
  void Put(const std::string& name, const std::string& text = "x") {
    ASSERT_TRUE(WriteFileAtomic(folder_.path() / name, text).ok());
  }
  std::vector<std::string> Names(const ModelFiles& picked) {
    std::vector<std::string> names;
    for (const LocalFile& file : picked.files) names.push_back(file.name);
    return names;
  }

  TempDirectory folder_ = *TempDirectory::Create(::testing::TempDir(), "model");
};

TEST_F(PickModelFilesTest, TakesWhatAnImportNeedsAndNothingElse) {
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
                           "chat_template.jinja", "README.md", "training_args.json", "model.onnx"}) {
    Put(name);
  }
  const auto picked = PickModelFiles(folder_.path());
  ASSERT_TRUE(picked.ok()) << picked.status();
  EXPECT_THAT(Names(*picked), UnorderedElementsAre("config.json", "tokenizer.json", "tokenizer_config.json",
                                                   "model.safetensors", "chat_template.jinja"));
}

TEST_F(PickModelFilesTest, ASentencePieceModelStandsInForTokenizerJson) {
  for (const char* name : {"config.json", "tokenizer.model", "model.safetensors"}) Put(name);
  EXPECT_THAT(Names(*PickModelFiles(folder_.path())),
              UnorderedElementsAre("config.json", "tokenizer.model", "model.safetensors"));
  Put("tokenizer.json");
  EXPECT_THAT(Names(*PickModelFiles(folder_.path())),
              UnorderedElementsAre("config.json", "tokenizer.json", "model.safetensors"));
}

TEST_F(PickModelFilesTest, IndexDecidesWhichShards) {
  for (const char* name : {"config.json", "tokenizer.json", "a.safetensors", "b.safetensors", "old.safetensors"})
    Put(name);
  Put("model.safetensors.index.json", R"({"weight_map": {"t1": "a.safetensors", "t2": "b.safetensors"}})");
  const auto picked = PickModelFiles(folder_.path());
  ASSERT_TRUE(picked.ok()) << picked.status();
  EXPECT_THAT(Names(*picked), UnorderedElementsAre("config.json", "tokenizer.json", "a.safetensors", "b.safetensors",
                                                   "model.safetensors.index.json"));
}

TEST_F(PickModelFilesTest, MissingShardIsNamed) {
  Put("config.json");
  Put("tokenizer.json");
  Put("model.safetensors.index.json", R"({"weight_map": {"t1": "a.safetensors"}})");
  const Status status = PickModelFiles(folder_.path()).status();
  EXPECT_EQ(status.reason(), "MODEL_FILE_MISSING");
  EXPECT_THAT(status.message(), HasSubstr("a.safetensors"));
}

TEST_F(PickModelFilesTest, BrokenIndexIsRefused) {
  Put("model.safetensors.index.json", "{");
  EXPECT_EQ(PickModelFiles(folder_.path()).status().reason(), "INDEX_MALFORMED");
  Put("model.safetensors.index.json", R"({"weight_map": {"t1": 3}})");
  EXPECT_EQ(PickModelFiles(folder_.path()).status().reason(), "INDEX_MALFORMED");
}

TEST_F(PickModelFilesTest, PicklesAreRefusedByName) {
  Put("config.json");
  Put("pytorch_model.bin");
  const Status status = PickModelFiles(folder_.path()).status();
  EXPECT_EQ(status.reason(), "PICKLE_REFUSED");
  EXPECT_THAT(status.message(), HasSubstr("pytorch_model.bin"));
  EXPECT_EQ(PickModelFiles(folder_.path() / "pytorch_model.bin").status().reason(), "PICKLE_REFUSED");
}

TEST_F(PickModelFilesTest, PicklesBesideSafetensorsAreLeftBehind) {
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors", "optimizer.pt"}) Put(name);
  const auto picked = PickModelFiles(folder_.path());
  ASSERT_TRUE(picked.ok());
  EXPECT_THAT(picked->skipped, ElementsAre("optimizer.pt"));
  EXPECT_EQ(picked->files.size(), 3u);
}

TEST_F(PickModelFilesTest, WhatAFolderLacksIsListed) {
  Put("config.json");
  const Status status = PickModelFiles(folder_.path()).status();
  EXPECT_EQ(status.reason(), "MODEL_FILE_MISSING");
  EXPECT_THAT(status.message(), HasSubstr("tokenizer.json, *.safetensors"));
}

TEST_F(PickModelFilesTest, OneGgufFileIsEnough) {
  Put("m.gguf");
  const auto picked = PickModelFiles(folder_.path() / "m.gguf");
  ASSERT_TRUE(picked.ok());
  EXPECT_THAT(Names(*picked), ElementsAre("m.gguf"));
  Put("notes.txt");
  EXPECT_EQ(PickModelFiles(folder_.path() / "notes.txt").status().reason(), "NOT_A_MODEL");
  EXPECT_THAT(PickModelFiles(folder_.path()).status().message(), HasSubstr("m.gguf"));
  EXPECT_EQ(PickModelFiles(folder_.path() / "nothing").status().reason(), "PATH_NOT_FOUND");
}

}  // namespace
}  // namespace sbora::client
