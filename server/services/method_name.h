/// The name of a method in adapters and in metric labels: "sbora_fa".
#pragma once

#include <string>

#include "sbora/v1/job.pb.h"

namespace sbora::server {

/// Empty for METHOD_UNSPECIFIED and for what a newer client sent.
inline std::string MethodName(v1::Method method) {
  switch (method) {
    case v1::METHOD_SBORA_FA: return "sbora_fa";
    case v1::METHOD_SBORA_FB: return "sbora_fb";
    case v1::METHOD_LORA: return "lora";
    case v1::METHOD_DORA: return "dora";
    case v1::METHOD_FULL: return "full";
    case v1::METHOD_UNSPECIFIED:
    case v1::Method_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::Method_INT_MAX_SENTINEL_DO_NOT_USE_: break;
  }
  return "";
}

}  // namespace sbora::server
