// The CUDA backends of rms_norm, swiglu, rope, cross_entropy and adamw on the case tables of their CPU tests. Needs a GPU.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "tests/unit/kernels/adamw_cases.h"
#include "tests/unit/kernels/cross_entropy_cases.h"
#include "tests/unit/kernels/on_device.h"
#include "tests/unit/kernels/rms_norm_cases.h"
#include "tests/unit/kernels/rope_cases.h"
#include "tests/unit/kernels/swiglu_cases.h"

namespace sbora::kernels {
namespace {

using testing::Buffer;

/// Copies buffers, guard bands included, to the device for each call and back after it.
class CudaLender final : public testing::Lender {
 public:
  CudaLender() : Lender(Device::kCuda) {}
  ~CudaLender() override { Returned(); }

  void* Lend(Buffer& buffer) override {
    return static_cast<unsigned char*>(Copy(buffer.bytes().data(), buffer.bytes().size(), &buffer)) + buffer.begin();
  }
  const int64_t* Lend(std::vector<int64_t>& values) override {
    return static_cast<const int64_t*>(Copy(values.data(), values.size() * sizeof(int64_t), nullptr));
  }
  void Returned() override {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (const Loan& loan : loans_) {
      if (loan.buffer != nullptr) {
        EXPECT_EQ(cudaMemcpy(loan.buffer->bytes().data(), loan.pointer, loan.size, cudaMemcpyDeviceToHost), cudaSuccess);
      }
      cudaFree(loan.pointer);
    }
    loans_.clear();
  }

 private:
  struct Loan {
    void* pointer;
    size_t size;
    Buffer* buffer;
  };
  void* Copy(const void* data, size_t size, Buffer* buffer) {
    void* pointer = nullptr;
    EXPECT_EQ(cudaMalloc(&pointer, size + 1), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(pointer, data, size, cudaMemcpyHostToDevice), cudaSuccess);
    loans_.push_back({pointer, size, buffer});
    return pointer;
  }
  std::vector<Loan> loans_;
};

TEST(RowKernelsCuda, RmsNormIsTheReferenceWithinRounding) {
  SBORA_NEEDS_GPU();
  CudaLender cuda;
  for (const DType dtype : testing::kDTypes) {
    for (const auto& c : testing::kRmsNormCases) testing::ExpectReference(c, dtype, cuda);
  }
  testing::ExpectReference(testing::RmsNormCase{70000, 8, true, 0}, DType::kBF16, cuda);  // more rows than blocks
}

TEST(RowKernelsCuda, SwiGluIsTheReferenceWithinRounding) {
  SBORA_NEEDS_GPU();
  CudaLender cuda;
  for (const DType dtype : testing::kDTypes) {
    for (const auto& c : testing::kSwiGluCases) testing::ExpectReference(c, dtype, cuda);
  }
  testing::ExpectReference(testing::SwiGluCase{70000, 8, 0, 0}, DType::kBF16, cuda);
}

TEST(RowKernelsCuda, RopeIsTheReferenceWithinRounding) {
  SBORA_NEEDS_GPU();
  CudaLender cuda;
  for (const DType dtype : testing::kDTypes) {
    for (const auto& c : testing::kRopeCases) testing::ExpectReference(c, dtype, cuda);
  }
  testing::ExpectReference(testing::RopeCase{70000, 1, 16, 0, 0}, DType::kBF16, cuda);
}

TEST(RowKernelsCuda, CrossEntropyIsTheReferenceWithinRounding) {
  SBORA_NEEDS_GPU();
  CudaLender cuda;
  for (const DType dtype : testing::kDTypes) {
    for (const auto& c : testing::kCrossEntropyCases) testing::ExpectReference(c, dtype, cuda);
  }
  testing::ExpectReference(testing::CrossEntropyCase{70000, 8, 0, 0, 1}, DType::kBF16, cuda);
  testing::CrossEntropyProblem p({2, 70, 0, 0, 1}, DType::kF32);
  p.targets[1] = 70;
  p.Run(cuda, true);
  EXPECT_TRUE(std::isfinite(p.loss.Get(0)));
  EXPECT_TRUE(std::isnan(p.loss.Get(1)));
}

TEST(RowKernelsCuda, AdamWIsTheReferenceWithinRoundingAndSkips) {
  SBORA_NEEDS_GPU();
  CudaLender cuda;
  for (const auto& c : testing::kAdamWCases) {
    testing::ExpectReference(c, cuda);
    testing::ExpectSkip(c, cuda);
  }
}

/// Two runs of everything give the same bits.
TEST(RowKernelsCuda, RunsRepeatBitForBit) {
  SBORA_NEEDS_GPU();
  CudaLender cuda;
  testing::RmsNormProblem norm({513, 4096, true, 0}, DType::kF32), norm_again({513, 4096, true, 0}, DType::kF32);
  norm.Run(cuda);
  norm_again.Run(cuda);
  testing::ExpectSameBits("y", norm.y, norm_again.y);
  testing::ExpectSameBits("dx", norm.dx, norm_again.dx);
  testing::ExpectSameBits("dw", norm.dw, norm_again.dw);
  testing::CrossEntropyProblem loss({37, 49152, 0, 0, 3}, DType::kF32), loss_again({37, 49152, 0, 0, 3}, DType::kF32);
  loss.Run(cuda, true);
  loss_again.Run(cuda, true);
  testing::ExpectSameBits("loss", loss.loss, loss_again.loss);
  testing::ExpectSameBits("gradient", loss.logits, loss_again.logits);
}

}  // namespace
}  // namespace sbora::kernels
