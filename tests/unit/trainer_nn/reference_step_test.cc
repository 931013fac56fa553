// A whole step with the fast kernels is the step with their references, and their threads are real.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <thread>

#include "tests/unit/trainer_nn/tiny_llama.h"
#include "worker/trainer/ops/kernel_call.h"
#include "worker/trainer/optim/adamw.h"

namespace sbora::trainer {
namespace {

using core::AdapterMethod;
using testing::MaxDifference;

struct Step {
  double loss = 0;
  at::Tensor gradients, parameters;
};

/// Three steps with clipping and dropout, on 340 tokens: more than one chunk of the loss.
Step MakeSteps(AdapterMethod method) {
  const auto model = testing::TinyModel();
  const auto adapter = testing::TinyAdapter(method, 0.1);
  AdamW optimizer(adapter->parameters(), {.weight_decay = 0.01});
  PackedBatch batch;
  for (int64_t n = 0; n < 10; ++n) batch.Append(static_cast<uint64_t>(n), testing::RandomIds(34, 1 + static_cast<uint32_t>(n)));
  Step step;
  for (int64_t i = 0; i < 3; ++i) {
    adapter->ZeroGradients();
    const LossResult loss = model->ForwardLoss(batch, adapter.get(), {.training = true, .seed = 1, .epoch = i});
    (loss.sum / static_cast<double>(loss.count)).backward();
    step.gradients = adapter->gradients().clone();
    step.loss = AdamW::Read(optimizer.Step(adapter->parameters(), adapter->gradients(), loss.sum, 1e-3, 0.5)).loss_sum;
  }
  step.parameters = adapter->parameters().clone();
  return step;
}

class ReferenceStepTest : public ::testing::TestWithParam<AdapterMethod> {};
INSTANTIATE_TEST_SUITE_P(Methods, ReferenceStepTest, ::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kSboraFb));

TEST_P(ReferenceStepTest, FastKernelsMakeTheStepOfTheReferences) {
  const Step fast = MakeSteps(GetParam());
  const Step slow = [&] {
    const ops::ReferenceKernels references;
    return MakeSteps(GetParam());
  }();
  EXPECT_NE(fast.loss, 0);
  EXPECT_FALSE(at::equal(fast.gradients, slow.gradients)) << "the references were not used";
  EXPECT_NEAR(fast.loss, slow.loss, 1e-6 * slow.loss);
  EXPECT_LT(MaxDifference(fast.gradients, slow.gradients), 1e-5 * slow.gradients.abs().max().item<double>());
  EXPECT_LT(MaxDifference(fast.parameters, slow.parameters), 1e-5);
}

TEST(Threads, AStepIsTheSameOnOneAndOnTwo) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Step one = MakeSteps(AdapterMethod::kSboraFa);
  at::set_num_threads(2);
  const Step two = MakeSteps(AdapterMethod::kSboraFa);
  at::set_num_threads(before);
  EXPECT_NEAR(one.loss, two.loss, 1e-6 * one.loss);  // products of matrices may sum in another order
  EXPECT_LT(MaxDifference(one.parameters, two.parameters), 1e-5);
}

// Compiled without OpenMP it would run on one, silently.
TEST(Threads, ParallelForUsesThem) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  at::set_num_threads(before);
  EXPECT_EQ(threads.size(), 2u);
}

}  // namespace
}  // namespace sbora::trainer
