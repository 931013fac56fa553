/// The cases that nf4_test.cc and nf4_cuda_test.cc share.
#pragma once

#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/elements.h"
#include "kernels/nf4/nf4.h"

namespace sbora::kernels::testing {

inline constexpr uint32_t kNf4Seed = 20240705;

/// A matrix that is a part of a weight, de-quantised with a stride.
struct Nf4Case {
  int64_t rows;
  int64_t columns;
  int64_t padding;    ///< stride - columns
  int64_t first_row;  ///< rows of the weight before the matrix
};

// 0, 1, the block and its neighbours, odd row lengths (blocks run across rows, rows begin in a half byte), strides.
inline const Nf4Case kNf4Cases[] = {{0, 64, 0, 0},  {3, 0, 0, 0},    {1, 1, 0, 0},    {1, 63, 0, 0},  {1, 64, 0, 0},
                                    {1, 65, 0, 0},  {2, 64, 3, 0},   {7, 9, 0, 0},    {7, 9, 2, 0},   {5, 33, 4, 3},
                                    {3, 128, 0, 2}, {4, 576, 32, 0}, {16, 40, 24, 1}, {257, 64, 0, 0}, {2, 4097, 7, 1},
                                    {70, 1000, 0, 5}};

inline const DType kNf4DTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

inline std::vector<uint8_t> ToBytes(const std::vector<float>& values, DType dtype) {
  std::vector<uint8_t> bytes(values.size() * SizeOf(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(&bytes[i * 4], &values[i], 4);
      continue;
    }
    const uint16_t bits = dtype == DType::kF16 ? internal::Narrow<internal::Float16>(values[i]).bits
                                               : internal::Narrow<internal::BFloat16>(values[i]).bits;
    std::memcpy(&bytes[i * 2], &bits, 2);
  }
  return bytes;
}

/// Normal values with a few large ones, zeros of both signs and one block of zeros.
inline std::vector<float> Nf4Values(int64_t elements) {
  std::mt19937 rng(kNf4Seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values;
  for (int64_t i = 0; i < elements; ++i) {
    const float value = normal(rng);
    values.push_back(i % 97 == 5 ? value * 30 : i % 41 == 7 ? 0.0f : i % 43 == 8 ? -0.0f : value);
    if (i / 64 == 2) values.back() = 0;
  }
  return values;
}

inline std::string Name(const Nf4Case& c, DType dtype) {
  return fmt::format("seed {} rows {} columns {} padding {} first_row {} {}", kNf4Seed, c.rows, c.columns, c.padding,
                     c.first_row, NameOf(dtype));
}

/// A quantised weight, its scales in both forms.
struct Nf4Parts {
  explicit Nf4Parts(int64_t elements)
      : codes(static_cast<size_t>(Nf4CodeBytes(elements))), scales(static_cast<size_t>(Nf4Blocks(elements))),
        scale_codes(scales.size()), group_scales(static_cast<size_t>(Nf4Groups(Nf4Blocks(elements)))) {}
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<uint8_t> scale_codes;
  std::vector<float> group_scales;
  float offset = 0;
};

}  // namespace sbora::kernels::testing
