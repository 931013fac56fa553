#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "worker/trainer/dist/backend.h"

namespace sbora::trainer {

c10::intrusive_ptr<c10d::Backend> MakeNcclBackend(const c10::intrusive_ptr<c10d::Store>& store,
                                                  const BackendOptions& options) {
  auto nccl = c10d::ProcessGroupNCCL::Options::create();
  nccl->timeout = options.sum_timeout;
  auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, options.rank, options.world_size, std::move(nccl));
  backend->setBoundDeviceId(options.device);
  return backend;
}

}  // namespace sbora::trainer
