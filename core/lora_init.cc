#include "core/lora_init.h"

#include <cmath>
#include <span>

#include "common/check.h"
#include "core/counter_rng.h"

namespace sbora::core {
namespace {

std::vector<float> KaimingUniform(uint64_t seed, std::string_view module_name, int64_t rank, int64_t in_features) {
  PhiloxStream stream(DeriveKey("sbora.lora_a.v1", seed, module_name));
  const auto bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(in_features)));
  std::vector<float> a_RI(static_cast<size_t>(rank * in_features));
  for (float& value : a_RI) value = (2 * stream.NextFloat() - 1) * bound;
  return a_RI;
}

/// The sum of eight uniform 16-bit numbers less its mean: close to normal, and exact, where logarithms and cosines differ
/// between C libraries. Its scale does not matter here.
double NearNormal(PhiloxStream& stream) {
  int64_t sum = 0;
  for (int word = 0; word < 4; ++word) {
    const uint32_t bits = stream.NextU32();
    sum += (bits & 0xFFFF) + (bits >> 16);
  }
  return static_cast<double>(2 * sum - 8 * 65535);
}

double Dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

std::vector<float> OrthonormalRows(uint64_t seed, std::string_view module_name, int64_t rank, int64_t in_features) {
  SBORA_CHECK(rank <= in_features, "{}: {} orthonormal rows of {} numbers", module_name, rank, in_features);
  PhiloxStream stream(DeriveKey("sbora.lora_a_orthonormal.v1", seed, module_name));
  const auto width = static_cast<size_t>(in_features);
  std::vector<double> rows(static_cast<size_t>(rank) * width);
  for (double& value : rows) value = NearNormal(stream);
  const auto row = [&](size_t r) { return std::span(rows).subspan(r * width, width); };
  for (size_t r = 0; r < static_cast<size_t>(rank); ++r) {
    const std::span<double> current = row(r);
    for (int pass = 0; pass < 2; ++pass) {  // one pass leaves what the first subtraction rounded away
      for (size_t before = 0; before < r; ++before) {
        const std::span<const double> other = row(before);
        const double overlap = Dot(current, other);
        for (size_t i = 0; i < width; ++i) current[i] -= overlap * other[i];
      }
      const double norm = std::sqrt(Dot(current, current));
      SBORA_CHECK(norm > 0, "{}: row {} depends on the rows before it", module_name, r);
      for (double& value : current) value /= norm;
    }
  }
  return {rows.begin(), rows.end()};
}

}  // namespace

std::vector<float> DrawLoraA(uint64_t seed, std::string_view module_name, int64_t rank, int64_t in_features,
                             FrozenFactor kind) {
  SBORA_CHECK(rank >= 1 && in_features >= 1, "{}: A of {} x {}", module_name, rank, in_features);
  return kind == FrozenFactor::kOrthonormal ? OrthonormalRows(seed, module_name, rank, in_features)
                                            : KaimingUniform(seed, module_name, rank, in_features);
}

}  // namespace sbora::core
