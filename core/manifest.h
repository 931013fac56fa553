/// manifest.json: size and SHA-256 of each file of an artifact or checkpoint, and a summary of the run.
///
/// The manifest is what "committed" means: the coordinator puts it last, after checking what it names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/status.h"
#include "core/safetensors.h"

namespace sbora::core {

inline constexpr std::string_view kManifestFile = "manifest.json";
inline constexpr int64_t kMaxManifestBytes = 16 << 20;

struct Manifest {
  std::vector<WrittenFile> files;  ///< ascending by name; names are plain file names, never paths
  nlohmann::json summary = nlohmann::json::object();

  int64_t total_bytes() const;
};

/// Stable text: files sorted by name, two-space indent.
std::string ToJson(const Manifest& manifest);
/// Errors: INVALID_ARGUMENT MANIFEST_MALFORMED (no JSON, missing field, unsafe or repeated file name, bad digest),
/// UNIMPLEMENTED MANIFEST_VERSION.
StatusOr<Manifest> ParseManifest(std::string_view json_text);
/// Reads dir/manifest.json.
StatusOr<Manifest> ReadManifest(const std::filesystem::path& dir);

/// Lists and hashes the regular files of `dir` (not manifest.json itself). `alive` as in DigestFile.
StatusOr<Manifest> BuildManifest(const std::filesystem::path& dir, nlohmann::json summary,
                                 const std::function<void()>& alive = {});
/// Writes dir/manifest.json atomically.
Status WriteManifest(const std::filesystem::path& dir, const Manifest& manifest);

/// Re-reads each named file of `dir`. Errors: DATA_LOSS MANIFEST_FILE_MISSING, MANIFEST_SIZE_MISMATCH,
/// MANIFEST_HASH_MISMATCH, naming file, expected and found. Files not named are ignored.
/// `alive` as in DigestFile.
Status VerifyManifest(const Manifest& manifest, const std::filesystem::path& dir,
                      const std::function<void()>& alive = {});

}  // namespace sbora::core
