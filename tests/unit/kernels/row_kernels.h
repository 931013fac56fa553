/// What the tests of rms_norm, swiglu, rope, cross_entropy and adamw share: buffers with guard bands, lent to a call on the
/// CPU or, in the CUDA twins of the same case tables, copied to the device and back.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <span>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/types.h"
#include "tests/unit/kernels/element_access.h"

namespace sbora::kernels::testing {

inline constexpr uint32_t kSeed = 20240705;
inline constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

/// Elements with a guard band on each side. `shift` elements move the first from a 16-byte border.
class Buffer {
 public:
  Buffer(int64_t elements, DType dtype, int64_t shift = 0)
      : elements_(elements),
        dtype_(dtype),
        begin_(kGuard + static_cast<size_t>(shift) * SizeOf(dtype)),
        bytes_(begin_ + static_cast<size_t>(elements) * SizeOf(dtype) + kGuard, kMark) {}

  int64_t size() const { return elements_; }
  size_t begin() const { return begin_; }
  void* data() { return bytes_.data() + begin_; }
  std::vector<unsigned char>& bytes() { return bytes_; }

  double Get(int64_t i) const {
    return ReadElement(bytes_.data() + begin_ + static_cast<size_t>(i) * SizeOf(dtype_), dtype_);
  }
  void Set(int64_t i, double wide) {
    WriteElement(bytes_.data() + begin_ + static_cast<size_t>(i) * SizeOf(dtype_), dtype_, static_cast<float>(wide));
  }
  Buffer& FillNormal(uint32_t salt, double deviation = 1) {
    std::mt19937 rng(kSeed + salt);
    std::normal_distribution<double> normal(0, deviation);
    for (int64_t i = 0; i < elements_; ++i) Set(i, normal(rng));
    return *this;
  }
  std::vector<double> Values() const {
    std::vector<double> values;
    for (int64_t i = 0; i < elements_; ++i) values.push_back(Get(i));
    return values;
  }
  bool GuardsIntact() const {
    for (size_t i = 0; i < begin_; ++i) {
      if (bytes_[i] != kMark) return false;
    }
    for (size_t i = 0; i < kGuard; ++i) {
      if (bytes_[bytes_.size() - 1 - i] != kMark) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr unsigned char kMark = 0xA5;
  int64_t elements_;
  DType dtype_;
  size_t begin_;
  std::vector<unsigned char> bytes_;
};

/// Lends buffers to one call on `device`. Returned() must come between the call and a look at what it wrote.
class Lender {
 public:
  explicit Lender(Device device) : device(device) {}
  virtual ~Lender() = default;
  virtual void* Lend(Buffer& buffer) { return buffer.data(); }
  virtual const int64_t* Lend(std::vector<int64_t>& values) { return values.data(); }
  virtual void Returned() {}

  template <typename T>
  T* As(Buffer& buffer) {
    return static_cast<T*>(Lend(buffer));
  }

  const Device device;
};

inline double Unit(DType dtype) { return dtype == DType::kF32 ? 0x1p-23 : dtype == DType::kF16 ? 0x1p-10 : 0x1p-7; }

/// |got - want| <= units * (1 + |want|) for each element, and equal where not finite; guard bands intact.
inline void ExpectClose(const char* what, const Buffer& got, const Buffer& want, double unit, double units) {
  ASSERT_TRUE(got.GuardsIntact()) << what;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double a = got.Get(i);
    const double b = want.Get(i);
    if (std::isnan(b)) {
      ASSERT_TRUE(std::isnan(a)) << what << " " << i;
    } else if (std::isinf(b)) {
      ASSERT_EQ(a, b) << what << " " << i;
    } else {
      ASSERT_NEAR(a, b, unit * units * (1 + std::abs(b))) << what << " " << i;
    }
  }
}

inline void ExpectSameBits(const char* what, Buffer& a, Buffer& b) { ASSERT_TRUE(a.bytes() == b.bytes()) << what; }

/// The units of this processor, the baseline first.
inline std::vector<VectorUnit> Units() {
  std::vector<VectorUnit> units;
  for (const VectorUnit unit : {VectorUnit::kBaseline, VectorUnit::kAvx2, VectorUnit::kAvx512}) {
    if (unit <= internal::BestVectorUnit()) units.push_back(unit);
  }
  return units;
}

/// The slope of f at x[i], by central differences.
inline double Slope(const std::function<double(const std::vector<double>&)>& f, std::vector<double> x, size_t i) {
  constexpr double kStep = 1e-5;
  const double at = x[i];
  x[i] = at + kStep;
  const double up = f(x);
  x[i] = at - kStep;
  return (up - f(x)) / (2 * kStep);
}

/// The gradient that a kernel computed in float32 of f, at every few elements.
inline void ExpectGradient(const char* what, const std::function<double(const std::vector<double>&)>& f, const Buffer& x,
                           const Buffer& gradient) {
  const std::vector<double> values = x.Values();
  for (int64_t i = 0; i < x.size(); i += 1 + x.size() / 97) {
    ASSERT_NEAR(gradient.Get(i), Slope(f, values, static_cast<size_t>(i)), 2e-5 * (1 + std::abs(gradient.Get(i))))
        << what << " " << i;
  }
}

}  // namespace sbora::kernels::testing
