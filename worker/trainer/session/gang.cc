#include "worker/trainer/session/gang.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <vector>

#include "common/status_macros.h"

namespace sbora::trainer {
namespace {

/// As many hexadecimal digits of a run hash as a sum over any gang keeps exact in a double.
constexpr size_t kHashDigits = 10;

}  // namespace

StatusOr<std::unique_ptr<ProcessGroup>> JoinGang(const GangPlace& place, int64_t asked_ranks, at::Device device) {
  if (place.world_size != asked_ranks) {
    return FailedPrecondition("WORLD_SIZE", fmt::format("resources.ranks={}, but {} ranks were started", asked_ranks,
                                                        place.world_size));
  }
  if (place.world_size == 1) return std::unique_ptr<ProcessGroup>();
  return ProcessGroup::Join({.rank = place.rank, .world_size = place.world_size, .rendezvous_file = place.rendezvous_file,
                             .over_workers = place.over_workers, .device = device});
}

std::unique_ptr<GradientReducer> MakeReducer(ProcessGroup* group, Trainee& trainee, TaskObserver& observer) {
  AdapterSet* const adapter = trainee.adapter();
  std::unique_ptr<GradientReducer> reducer;
  if (group != nullptr) {
    std::vector<int64_t> sizes;
    for (const AdapterLayout::Factor& factor : trainee.layout().factors) sizes.push_back(c10::multiply_integers(factor.shape));
    reducer = std::make_unique<GradientReducer>(*group, trainee.trained().gradients(), sizes);
  }
  if (adapter == nullptr) return reducer;
  adapter->SetGradientReadyHook([&observer, reducer = reducer.get()](const AdapterModule& module) {
    observer.OnAlive();
    if (reducer != nullptr) reducer->Ready(module.offset, module.size);
  });
  return reducer;
}

Status CheckAgreement(ProcessGroup& group, int64_t step, const std::string& run_hash) {
  const int threads = at::get_num_threads();
  const uint64_t run = std::stoull(run_hash.substr(0, kHashDigits), nullptr, 16);
  const std::vector<double> mine = {static_cast<double>(step), static_cast<double>(run), static_cast<double>(threads)};
  const at::Tensor here = at::tensor(mine, at::kDouble);
  const at::Tensor sums = here.to(group.device(), /*non_blocking=*/false, /*copy=*/true);
  SBORA_RETURN_IF_ERROR(group.Sum(sums));
  // Where not all are equal, the rank with the largest value sees a smaller sum than its own would give.
  const at::Tensor mean = sums.cpu() / group.world_size();
  if (at::equal(mean, here)) return OkStatus();
  const double* values = mean.const_data_ptr<double>();
  return Aborted("RANKS_DISAGREE",
                 fmt::format("rank {} of {} is at step {} of run {} with {} threads, the mean over all ranks is step {} of "
                             "run {} with {} threads: they read different checkpoints, or were given different tasks",
                             group.rank(), group.world_size(), step, run, threads, values[0], values[1], values[2]));
}

}  // namespace sbora::trainer
