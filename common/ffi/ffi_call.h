/// The one conversion between the C interface and our types. For common/ffi and common/storage only.
#pragma once

#include <string>
#include <string_view>

#include "common/ffi/sbora_ffi.h"
#include "common/status.h"

namespace sbora::ffi {

inline SboraFfiSlice ToSlice(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

/// A sink that appends to `*out`, which must outlive the call.
inline SboraFfiOutput AppendTo(std::string* out) {
  return {[](void* context, const uint8_t* data, size_t size) noexcept {
            static_cast<std::string*>(context)->append(reinterpret_cast<const char*>(data), size);
          },
          out};
}

/// The status of a call that returned `code` and filled `error` if that is not 0.
inline Status ToStatus(int32_t code, const SboraFfiError& error) {
  if (code == 0) return OkStatus();
  return Status(static_cast<StatusCode>(code), error.reason, error.message);
}

}  // namespace sbora::ffi
