#include "core/r_index.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <set>

namespace sbora::core {
namespace {

using ::testing::ElementsAre;

// These vectors pin kIndexGeneratorVersion 1: a change of any is a new version.
TEST(DrawIndices, GoldenVectorsOfVersion1) {
  ASSERT_EQ(kIndexGeneratorVersion, 1);
  EXPECT_THAT(*DrawIndices(0, "model.layers.0.self_attn.q_proj", 4096, 8),
              ElementsAre(583, 2177, 2345, 2507, 2766, 3250, 3781, 4019));
  EXPECT_THAT(*DrawIndices(42, "model.layers.29.mlp.down_proj", 1536, 8),
              ElementsAre(21, 57, 171, 644, 856, 973, 1135, 1430));
  EXPECT_THAT(*DrawIndices(~uint64_t{0}, "m", 5, 3), ElementsAre(0, 1, 2));
}

TEST(DrawIndices, AreDistinctSortedAndInRange) {
  for (const int64_t rank : {1, 2, 100, 575, 576}) {
    const auto indices = DrawIndices(9, "m", 576, rank);
    ASSERT_TRUE(indices.ok());
    EXPECT_EQ(static_cast<int64_t>(indices->size()), rank);
    EXPECT_TRUE(CheckIndices(*indices, "m", 576).ok());
  }
}

TEST(DrawIndices, RefusesRanksOutsideTheLayer) {
  for (const int64_t rank : {-1, 0, 577}) {
    const auto result = DrawIndices(1, "q", 576, rank);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.status().reason(), "RANK_OUT_OF_RANGE");
  }
}

TEST(DrawIndices, EachIndexIsEquallyLikely) {
  std::vector<int> counts(32, 0);
  for (uint64_t seed = 0; seed < 8000; ++seed) {
    const auto indices = DrawIndices(seed, "m", 32, 4);
    for (const int32_t index : *indices) ++counts[static_cast<size_t>(index)];
  }
  double chi_square = 0;
  for (const int count : counts) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_square, 61.1);  // 31 degrees of freedom, p = 0.001
}

TEST(DrawIndices, ModulesOfOneSeedDrawIndependently) {
  const auto a = *DrawIndices(1, "model.layers.0.self_attn.q_proj", 4096, 64);
  const auto b = *DrawIndices(1, "model.layers.0.self_attn.k_proj", 4096, 64);
  std::vector<int32_t> common;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(common));
  EXPECT_LT(common.size(), 8u);
}

TEST(DrawIndicesAvoiding, NothingForbiddenEqualsPlainDraw) {
  EXPECT_EQ(*DrawIndicesAvoiding(3, "m", 100, 10, {}), *DrawIndices(3, "m", 100, 10));
}

TEST(DrawIndicesAvoiding, RegionsStayDisjointUntilTheLayerIsFull) {
  std::vector<int32_t> taken;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const auto region = DrawIndicesAvoiding(seed, "m", 64, 8, taken);
    ASSERT_TRUE(region.ok()) << region.status();
    EXPECT_TRUE(CheckIndices(*region, "m", 64).ok());
    taken.insert(taken.begin(), region->begin(), region->end());  // unsorted on purpose
  }
  EXPECT_EQ(std::set<int32_t>(taken.begin(), taken.end()).size(), 64u);
  const auto full = DrawIndicesAvoiding(9, "m", 64, 1, taken);
  ASSERT_FALSE(full.ok());
  EXPECT_EQ(full.status().reason(), "REGION_EXHAUSTED");
  EXPECT_EQ(full.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(full.status().metadata(), ::testing::Contains(std::pair<std::string, std::string>("capacity", "0")));
}

TEST(DrawIndicesAvoiding, RefusesForbiddenIndicesOutsideTheLayer) {
  const std::vector<int32_t> forbidden = {64};
  EXPECT_EQ(DrawIndicesAvoiding(1, "m", 64, 1, forbidden).status().reason(), "INDEX_OUT_OF_RANGE");
}

TEST(CheckIndices, NamesTheBadPosition) {
  EXPECT_EQ(CheckIndices(std::vector<int32_t>{0, 4}, "m", 4).reason(), "INDEX_OUT_OF_RANGE");
  EXPECT_EQ(CheckIndices(std::vector<int32_t>{-1, 2}, "m", 4).reason(), "INDEX_OUT_OF_RANGE");
  EXPECT_EQ(CheckIndices(std::vector<int32_t>{2, 2}, "m", 4).reason(), "INDEX_NOT_ASCENDING");
  EXPECT_EQ(CheckIndices({}, "m", 4).reason(), "RANK_OUT_OF_RANGE");
}

}  // namespace
}  // namespace sbora::core
