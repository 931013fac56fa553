/// The page's files, embedded when the server is built; no file is read at run time and nothing comes from elsewhere.
#pragma once

#include <string_view>

namespace sbora::server {

struct PageAsset {
  std::string_view path;  ///< as requested, for example "/app.js"
  std::string_view content_type;
  std::string_view content;
};

/// nullptr when there is no such file. `path` "/" is the page itself.
const PageAsset* FindPageAsset(std::string_view path);

}  // namespace sbora::server
