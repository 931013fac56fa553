#include "worker/trainer/ops/adapter_linear.h"

#include "common/check.h"
#include "worker/trainer/ops/dora_linear.h"
#include "worker/trainer/ops/lora_linear.h"
#include "worker/trainer/ops/sbora_linear.h"

namespace sbora::trainer::ops {

at::Tensor AdapterLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, const AdapterSet& adapter,
                         const AdapterModule& module, const DropoutPlan& dropout, bool train) {
  switch (adapter.method()) {
    case core::AdapterMethod::kSboraFa:
    case core::AdapterMethod::kSboraFb:
      return SboraLinear(x_TI, w_OI, adapter, module, dropout, train);
    case core::AdapterMethod::kLora:
      return LoraLinear(x_TI, w_OI, adapter, module, dropout, train);
    case core::AdapterMethod::kDora:
      return DoraLinear(x_TI, w_OI, adapter, module, dropout, train);
    case core::AdapterMethod::kFull:
      break;
  }
  SBORA_CHECK(false, "{}: {} is no adapter", module.name, core::AdapterMethodName(adapter.method()));
}

}  // namespace sbora::trainer::ops
