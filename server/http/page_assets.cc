#include "server/http/page_assets.h"

#include <array>

// The assembler reads the files: no generator step, and a change rebuilds this file (OBJECT_DEPENDS).
#define SBORA_EMBED(symbol, file)                          \
  __asm__(".section .rodata\n"                             \
          ".global sbora_asset_" #symbol "\n"              \
          ".global sbora_asset_" #symbol "_end\n"          \
          "sbora_asset_" #symbol ":\n"                     \
          ".incbin \"" file "\"\n"                         \
          "sbora_asset_" #symbol "_end:\n"                 \
          ".byte 0\n"                                      \
          ".previous\n");                                  \
  extern "C" const char sbora_asset_##symbol[];            \
  extern "C" const char sbora_asset_##symbol##_end[];

SBORA_EMBED(index, SBORA_PAGE_DIR "/index.html")
SBORA_EMBED(style, SBORA_PAGE_DIR "/style.css")
SBORA_EMBED(app, SBORA_PAGE_DIR "/app.js")
SBORA_EMBED(curves, SBORA_PAGE_DIR "/curves.js")
SBORA_EMBED(icon, SBORA_PAGE_DIR "/favicon.svg")
SBORA_EMBED(chart, SBORA_CHART_JS)

namespace sbora::server {
namespace {

std::string_view Between(const char* begin, const char* end) { return {begin, static_cast<size_t>(end - begin)}; }

}  // namespace

const PageAsset* FindPageAsset(std::string_view path) {
  static const std::array<PageAsset, 6> assets = {{
      {"/", "text/html; charset=utf-8", Between(sbora_asset_index, sbora_asset_index_end)},
      {"/style.css", "text/css; charset=utf-8", Between(sbora_asset_style, sbora_asset_style_end)},
      {"/app.js", "text/javascript; charset=utf-8", Between(sbora_asset_app, sbora_asset_app_end)},
      {"/curves.js", "text/javascript; charset=utf-8", Between(sbora_asset_curves, sbora_asset_curves_end)},
      {"/favicon.svg", "image/svg+xml", Between(sbora_asset_icon, sbora_asset_icon_end)},
      {"/chart.js", "text/javascript; charset=utf-8", Between(sbora_asset_chart, sbora_asset_chart_end)},
  }};
  for (const PageAsset& asset : assets) {
    if (asset.path == path) return &asset;
  }
  return nullptr;
}

}  // namespace sbora::server
