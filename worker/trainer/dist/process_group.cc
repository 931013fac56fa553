#include "worker/trainer/dist/process_group.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <stdlib.h>

#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "common/check.h"
#include "common/clock.h"
#include "common/status_macros.h"
#include "worker/trainer/dist/backend.h"
#include "worker/trainer/dist/peer_process.h"

namespace sbora::trainer {
namespace {

constexpr auto kLookEvery = std::chrono::milliseconds(10);

/// Ranks of one worker listen where no other machine can reach them.
constexpr const char* kLoopback = "127.0.0.1";

/// c10d keeps a record of past sums, one for the whole process. Each sum looks in it for its group without the record's lock: two
/// groups that begin at once crash or never come back. Nobody here reads it.
void SwitchOffFlightRecorder() { [[maybe_unused]] static const int once = ::setenv("TORCH_FR_BUFFER_SIZE", "0", 1); }

std::string PeerKey(int rank) { return fmt::format("peer/{}", rank); }

/// c10d's texts carry the stack of C++ calls behind the first lines.
std::string FirstLine(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

std::string RankList(const std::vector<int>& ranks) {
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
}

}  // namespace

struct ProcessGroup::Impl {
  Options options;
  std::vector<PeerProcess> peers;  // by rank
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> backend;

  void OpenStore();
  Status MeetPeers();
  void Connect();
  std::string MeetingPlace() const;
  /// Whether the rank's process can be looked at from here.
  bool IsLocal(int rank) const;
  /// REQUIRED: called for an error that another rank may have caused.
  Status Lost(std::string_view what, const std::exception& error) const;
};

std::string ProcessGroup::Impl::MeetingPlace() const {
  if (!options.over_workers) return options.rendezvous_file.string();
  return fmt::format("{}:{}", options.over_workers->store_host, options.over_workers->store_port);
}

bool ProcessGroup::Impl::IsLocal(int rank) const {
  if (!options.over_workers) return true;
  const int first = options.over_workers->first_local_rank;
  return rank >= first && rank < first + options.over_workers->local_ranks;
}

void ProcessGroup::Impl::OpenStore() {
  if (options.over_workers) {
    c10d::TCPStoreOptions tcp;
    tcp.port = options.over_workers->store_port;
    tcp.isServer = options.rank == 0;
    tcp.numWorkers = static_cast<size_t>(options.world_size);
    tcp.waitWorkers = false;  // MeetPeers tells who is missing
    tcp.timeout = options.join_timeout;
    if (options.over_workers->listener >= 0) tcp.masterListenFd = options.over_workers->listener;
    store = c10::make_intrusive<c10d::TCPStore>(options.over_workers->store_host, tcp);
  } else {
    store = c10::make_intrusive<c10d::FileStore>(options.rendezvous_file.string(), options.world_size);
  }
  store->setTimeout(options.join_timeout);
}

Status ProcessGroup::Impl::MeetPeers() {
  SBORA_ASSIGN_OR_RETURN(const PeerProcess self, ThisProcess());
  const std::string text = ToText(self);
  store->set(PeerKey(options.rank), std::vector<uint8_t>(text.begin(), text.end()));
  std::vector<std::string> keys;
  for (int rank = 0; rank < options.world_size; ++rank) keys.push_back(PeerKey(rank));
  try {
    store->wait(keys, options.join_timeout);
  } catch (const std::exception&) {
    std::vector<int> missing;
    for (int rank = 0; rank < options.world_size; ++rank) {
      if (!store->check({PeerKey(rank)})) missing.push_back(rank);
    }
    return DeadlineExceeded("RENDEZVOUS_TIMEOUT",
                            fmt::format("{} of {} did not come to {} within {} ms; what the worker's log says of that rank "
                                        "tells why",
                                        RankList(missing), options.world_size, MeetingPlace(), options.join_timeout.count()));
  }
  for (const std::string& key : keys) {
    const std::vector<uint8_t> value = store->get(key);
    SBORA_ASSIGN_OR_RETURN(peers.emplace_back(), ParsePeerProcess({reinterpret_cast<const char*>(value.data()), value.size()}));
  }
  return OkStatus();
}

void ProcessGroup::Impl::Connect() {
  const BackendOptions backend_options{.rank = options.rank,
                                       .world_size = options.world_size,
                                       .device = options.device,
                                       .listen_on = options.over_workers ? options.over_workers->address : kLoopback,
                                       .join_timeout = options.join_timeout,
                                       .sum_timeout = options.sum_timeout};
  const auto prefixed = c10::make_intrusive<c10d::PrefixStore>("group", store);
#ifdef SBORA_WITH_CUDA
  if (options.device.is_cuda()) {
    backend = MakeNcclBackend(prefixed, backend_options);
    return;
  }
#endif
  backend = MakeGlooBackend(prefixed, backend_options);
}

Status ProcessGroup::Impl::Lost(std::string_view what, const std::exception& error) const {
  const MonotonicTime limit = SystemClock().Now() + options.blame_limit;
  for (;;) {
    std::vector<int> ended;
    std::vector<std::string> who;
    for (int rank = 0; rank < static_cast<int>(peers.size()); ++rank) {
      const PeerProcess& peer = peers[static_cast<size_t>(rank)];
      if (!IsLocal(rank) || !HasEnded(peer)) continue;
      ended.push_back(rank);
      who.push_back(fmt::format("process {}", peer.pid));
    }
    if (!ended.empty()) {
      return Unavailable("RANK_LOST", fmt::format("{} of {} ({}) ended while rank {} was {}; the job goes on from "
                                                  "its newest checkpoint. {}",
                                                  RankList(ended), options.world_size, fmt::join(who, ", "), options.rank, what,
                                                  FirstLine(error)));
    }
    if (peers.empty() || SystemClock().Now() >= limit) break;
    SystemClock().SleepUntil(SystemClock().Now() + kLookEvery, {});
  }
  return Unavailable("RANK_LOST", fmt::format("rank {} of {} was {} and another rank did not answer, though no rank's process "
                                              "on this worker has ended; the job goes on from its newest checkpoint. {}",
                                              options.rank, options.world_size, what, FirstLine(error)));
}

struct ProcessGroup::Reduction::State {
  const ProcessGroup::Impl* group;
  Status failed;  // to start
  c10::intrusive_ptr<c10d::Work> work;
};

ProcessGroup::Reduction::Reduction(std::unique_ptr<State> state) : state_(std::move(state)) {}
ProcessGroup::Reduction::Reduction(Reduction&&) noexcept = default;
ProcessGroup::Reduction::~Reduction() = default;

Status ProcessGroup::Reduction::Wait() {
  SBORA_RETURN_IF_ERROR(state_->failed);
  try {
    state_->work->wait();
    return OkStatus();
  } catch (const std::exception& error) {
    return state_->group->Lost("adding up", error);
  }
}

ProcessGroup::ProcessGroup(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ProcessGroup::~ProcessGroup() = default;

int ProcessGroup::rank() const { return impl_->options.rank; }
int ProcessGroup::world_size() const { return impl_->options.world_size; }
at::Device ProcessGroup::device() const { return impl_->options.device; }

StatusOr<std::unique_ptr<ProcessGroup>> ProcessGroup::Join(const Options& options) {
  SBORA_CHECK(options.rank >= 0 && options.rank < options.world_size, "rank {} of {}", options.rank, options.world_size);
#ifndef SBORA_WITH_CUDA
  if (!options.device.is_cpu()) {
    return Unimplemented("RANKS_DEVICE", fmt::format("ranks on {} need a build with CUDA; use DEVICE_CPU",
                                                     options.device.str()));
  }
#endif
  // c10d would wait for minutes for a folder that nobody makes.
  std::error_code error;
  if (!options.over_workers && !std::filesystem::is_directory(options.rendezvous_file.parent_path(), error)) {
    return NotFound("RENDEZVOUS_FOLDER", fmt::format("the ranks are to meet in \"{}\", whose folder does not exist",
                                                     options.rendezvous_file.string()));
  }
  SwitchOffFlightRecorder();
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  try {
    impl->OpenStore();
    SBORA_RETURN_IF_ERROR(impl->MeetPeers());
    impl->Connect();
  } catch (const std::exception& failed) {
    return impl->Lost("joining the others", failed);
  }
  return std::unique_ptr<ProcessGroup>(new ProcessGroup(std::move(impl)));
}

ProcessGroup::Reduction ProcessGroup::StartSum(at::Tensor tensor) {
  SBORA_CHECK(tensor.is_contiguous() && tensor.numel() > 0, "a sum needs a contiguous tensor of at least one element");
  auto state = std::make_unique<Reduction::State>(Reduction::State{.group = impl_.get(), .failed = {}, .work = {}});
  c10d::AllreduceOptions options;
  options.timeout = impl_->options.sum_timeout;
  std::vector<at::Tensor> tensors{std::move(tensor)};
  try {
    state->work = impl_->backend->allreduce(tensors, options);
  } catch (const std::exception& error) {
    state->failed = impl_->Lost("starting to add up", error);
  }
  return Reduction(std::move(state));
}

Status ProcessGroup::Barrier() {
  const at::Tensor one = at::ones({1}, at::TensorOptions().dtype(at::kDouble).device(impl_->options.device));
  SBORA_RETURN_IF_ERROR(Sum(one));
  const double ranks = one.item<double>();  // a GPU's host waits here
  SBORA_CHECK(ranks == impl_->options.world_size, "{} of {} ranks came to a barrier", ranks, impl_->options.world_size);
  return OkStatus();
}

}  // namespace sbora::trainer
