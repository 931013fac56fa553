/// Between an AdapterSet on a device and the plain world: sets out of a request or a folder, the layout of their flat
/// buffers, and copies to and from the host. Include only from .cc files that see LibTorch.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "common/status.h"
#include "core/adapter.h"
#include "core/model_config.h"
#include "worker/trainer/checkpoint/adapter_layout.h"
#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/nn/llama.h"
#include "worker/trainer/session/train_session.h"

namespace sbora::trainer {

/// An adapter for `model` that training starts from (AdapterSet::Initialize, seeded by spec.index_seed). `indices` is
/// empty for methods without; `alive` as in Initialize. Errors: INVALID_ARGUMENT INDICES_MISMATCH unless `indices` names
/// each layer and target once; those of AdapterSet::Create and Initialize.
StatusOr<std::unique_ptr<AdapterSet>> CreateAdapter(const LlamaModel& model, const core::AdapterSpec& spec,
                                                    const std::vector<ModuleIndices>& indices,
                                                    const std::function<void()>& alive = {});

/// Loads a finished adapter folder for inference. Errors: those of core::AdapterFolder::Open; FAILED_PRECONDITION
/// BASE_HASH_MISMATCH, BASE_CONFIG_MISMATCH.
StatusOr<std::unique_ptr<AdapterSet>> LoadAdapter(const std::filesystem::path& dir, const core::ModelConfig& config,
                                                  const std::string& base_hash, at::Device device);

/// Where the set's tensors lie in an artifact of this config. Copies a frozen A to the host.
AdapterLayout LayoutOf(const AdapterSet& adapter, const core::AdapterConfig& config);

/// [P] on the host.
std::vector<float> ToHost(const at::Tensor& flat);
/// In place. REQUIRED: as many values as elements.
void CopyFromHost(std::span<const float> values, const at::Tensor& flat);

}  // namespace sbora::trainer
