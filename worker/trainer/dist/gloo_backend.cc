#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "worker/trainer/dist/backend.h"

namespace sbora::trainer {

c10::intrusive_ptr<c10d::Backend> MakeGlooBackend(const c10::intrusive_ptr<c10d::Store>& store,
                                                  const BackendOptions& options) {
  // Of connecting; each sum has its own.
  auto gloo = c10d::ProcessGroupGloo::Options::create(options.join_timeout);
  gloo->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(options.listen_on)};
  // Sums run one after the other, so one thread is enough; more would take cores from the backward pass.
  gloo->threads = 1;
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, options.rank, options.world_size, std::move(gloo));
}

}  // namespace sbora::trainer
