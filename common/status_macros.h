/// Early return on error.
///
///     SBORA_RETURN_IF_ERROR(store.Put(key, bytes));
///     SBORA_ASSIGN_OR_RETURN(const auto config, core::ParseModelConfig(text));
#pragma once

#include "common/status.h"

#define SBORA_RETURN_IF_ERROR(expression)                              \
  do {                                                                 \
    if (::sbora::Status sbora_status = (expression); !sbora_status.ok()) { \
      return sbora_status;                                             \
    }                                                                  \
  } while (false)

#define SBORA_MACRO_JOIN_INNER(a, b) a##b
#define SBORA_MACRO_JOIN(a, b) SBORA_MACRO_JOIN_INNER(a, b)

#define SBORA_ASSIGN_OR_RETURN(declaration, expression) \
  SBORA_ASSIGN_OR_RETURN_IMPL(SBORA_MACRO_JOIN(sbora_statusor_, __LINE__), declaration, expression)
#define SBORA_ASSIGN_OR_RETURN_IMPL(result, declaration, expression) \
  auto result = (expression);                                        \
  if (!result.ok()) return std::move(result).status();               \
  declaration = std::move(result).value()
