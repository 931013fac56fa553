#include "worker/trainer/optim/state_pages.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace sbora::trainer {
namespace {

c10::Event NewEvent(at::Device device) { return c10::Event(device.type()); }

}  // namespace

/// LibTorch's device-neutral streams: this file needs no CUDA headers.
struct StatePages::Streams {
  explicit Streams(at::Device device)
      : guard(device.type()),
        device(device),
        in(guard.getStreamFromGlobalPool(device)),
        out(guard.getStreamFromGlobalPool(device)) {}

  c10::Stream compute() const { return guard.getStream(device); }

  c10::impl::VirtualGuardImpl guard;
  at::Device device;
  c10::Stream in;
  c10::Stream out;
  std::array<c10::Event, 2> arrived{NewEvent(device), NewEvent(device)};
  std::array<c10::Event, 2> updated{NewEvent(device), NewEvent(device)};
  std::array<c10::Event, 2> left{NewEvent(device), NewEvent(device)};
};

at::Tensor StatePages::HostZeros(int64_t elements, at::ScalarType type, at::Device device) {
  return at::zeros({elements}, at::TensorOptions(at::kCPU).dtype(type).pinned_memory(device.is_cuda()));
}

StatePages::StatePages(std::vector<at::Tensor> state, std::vector<Page> pages, at::Device device)
    : state_(std::move(state)), pages_(std::move(pages)) {
  for (size_t t = 0; t < state_.size(); ++t) {
    int64_t largest = 0;
    for (const Page& page : pages_) {
      SBORA_CHECK(page.size() == state_.size(), "a page of {} slices for {} tensors", page.size(), state_.size());
      largest = std::max(largest, page[t].size);
    }
    for (auto& buffer : buffers_) buffer.push_back(at::empty({largest}, state_[t].options().device(device).pinned_memory(false)));
  }
  if (!device.is_cuda()) return;
  streams_ = std::make_unique<Streams>(device);
  // The buffers' memory may still be in use by what is queued on the stream that they were allocated for.
  c10::Event allocated = NewEvent(device);
  allocated.record(streams_->compute());
  allocated.block(streams_->in);
}

StatePages::~StatePages() { Settle(); }

std::vector<at::Tensor> StatePages::OnDevice(size_t page) const {
  std::vector<at::Tensor> slices;
  for (size_t t = 0; t < state_.size(); ++t) slices.push_back(buffers_[page % 2][t].narrow(0, 0, pages_[page][t].size));
  return slices;
}

void StatePages::BringIn(size_t page) {
  c10::OptionalStreamGuard guard;
  if (streams_) {
    // The buffer's last page and, in a new step, this page itself must have left: the stream `out` keeps their order.
    for (const c10::Event& event : streams_->left) event.block(streams_->in);
    guard.reset_stream(streams_->in);
  }
  const std::vector<at::Tensor> target = OnDevice(page);
  for (size_t t = 0; t < state_.size(); ++t) {
    const auto& [offset, size] = pages_[page][t];
    target[t].copy_(state_[t].narrow(0, offset, size), /*non_blocking=*/true);
  }
  if (streams_) streams_->arrived[page % 2].record(streams_->in);
}

void StatePages::TakeBack(size_t page) {
  c10::OptionalStreamGuard guard;
  if (streams_) {
    streams_->updated[page % 2].record(streams_->compute());
    streams_->updated[page % 2].block(streams_->out);
    guard.reset_stream(streams_->out);
  }
  const std::vector<at::Tensor> source = OnDevice(page);
  for (size_t t = 0; t < state_.size(); ++t) {
    const auto& [offset, size] = pages_[page][t];
    state_[t].narrow(0, offset, size).copy_(source[t], /*non_blocking=*/true);
  }
  if (streams_) streams_->left[page % 2].record(streams_->out);
}

void StatePages::Visit(const Update& update) {
  const size_t ahead = std::min<size_t>(2, pages_.size());
  if (!first_are_here_) {
    for (size_t page = 0; page < ahead; ++page) BringIn(page);
  }
  for (size_t page = 0; page < pages_.size(); ++page) {
    if (streams_) streams_->arrived[page % 2].block(streams_->compute());
    update(page, OnDevice(page));
    TakeBack(page);
    if (page + 2 < pages_.size()) BringIn(page + 2);
  }
  first_are_here_ = streams_ != nullptr;
  for (size_t page = 0; first_are_here_ && page < ahead; ++page) BringIn(page);
}

void StatePages::Settle() {
  first_are_here_ = false;
  if (!streams_) return;
  for (const c10::Event& event : streams_->left) event.synchronize();
}

}  // namespace sbora::trainer
