/// An optimiser's state in the host's memory that visits the device in pages: what QLoRA calls a paged optimiser (arXiv
/// 2305.14314, section 3), without its page faults. Pages come in one order, step after step, so each is on its way before
/// it is wanted: while one is updated, the next arrives and the one before leaves, on streams of their own; the first two
/// of a step arrive while the model is computed.
///
///     StatePages pages({m, v}, {{{0, n}, {0, n}}, {{n, n}, {n, n}}}, device);
///     pages.Visit([&](size_t page, const std::vector<at::Tensor>& state) { ... update these slices of m and v ... });
///
/// On the device are two pages at a time. Without streams (on the CPU) the same copies are made in the same order.
/// Ownership: shares the host tensors; whoever reads or writes them calls Settle() first. Threading: one thread at a time.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace sbora::trainer {

class StatePages {
 public:
  /// Elements [offset, offset + size) of one tensor.
  struct Slice {
    int64_t offset = 0;
    int64_t size = 0;
  };
  using Page = std::vector<Slice>;  ///< one slice of each tensor, empty ones included
  using Update = std::function<void(size_t page, const std::vector<at::Tensor>& state)>;

  /// A tensor of zeros for the constructor: on the host, page-locked when `device` is a GPU.
  static at::Tensor HostZeros(int64_t elements, at::ScalarType type, at::Device device);

  /// REQUIRED: tensors of HostZeros; pages that cover what is to be updated, without overlap.
  StatePages(std::vector<at::Tensor> state, std::vector<Page> pages, at::Device device);
  ~StatePages();
  StatePages(const StatePages&) = delete;
  StatePages& operator=(const StatePages&) = delete;

  /// Calls `update` once for each page, in order, with its slices on the device (on the current stream), and takes back
  /// what it wrote there.
  void Visit(const Update& update);
  /// Waits until all that was visited is in the host's tensors; the next visit reads them again.
  void Settle();

 private:
  struct Streams;

  void BringIn(size_t page);
  void TakeBack(size_t page);
  std::vector<at::Tensor> OnDevice(size_t page) const;

  std::vector<at::Tensor> state_;
  std::vector<Page> pages_;
  std::array<std::vector<at::Tensor>, 2> buffers_;  // page p is in buffer p % 2
  std::unique_ptr<Streams> streams_;                // null without
  bool first_are_here_ = false;                     // or on their way
};

}  // namespace sbora::trainer
