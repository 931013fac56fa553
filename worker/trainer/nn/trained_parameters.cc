#include "worker/trainer/nn/trained_parameters.h"

#include <ATen/ATen.h>

namespace sbora::trainer {

void TrainedParameters::ZeroGradients() { gradients_.zero_(); }

}  // namespace sbora::trainer
