# The Rust static library of common/ffi. Its build folder lives in SBORA_CACHE, so that a fresh clone does not
# compile the crates again. Target: sbora_ffi_rust.
find_program(SBORA_CARGO cargo REQUIRED)
set(SBORA_CARGO_TARGET "${SBORA_CACHE}/cargo-target")
set(_ffi_lib "${SBORA_CARGO_TARGET}/release/libsbora_ffi.a")
file(GLOB _ffi_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/common/ffi/src/*.rs")
# The archive is copied into this build tree: two checkouts that share the cache never link each other's build.
set(_ffi_copy "${CMAKE_BINARY_DIR}/ffi/libsbora_ffi.a")
add_custom_command(
  OUTPUT "${_ffi_copy}"
  COMMAND flock "${SBORA_CACHE}/cargo.lock" sh -c
          "'${SBORA_CARGO}' build --release --locked --quiet --manifest-path '${CMAKE_SOURCE_DIR}/common/ffi/Cargo.toml' --target-dir '${SBORA_CARGO_TARGET}' && cp '${_ffi_lib}' '${_ffi_copy}'"
  DEPENDS ${_ffi_sources} "${CMAKE_SOURCE_DIR}/common/ffi/Cargo.toml" "${CMAKE_SOURCE_DIR}/common/ffi/Cargo.lock"
  COMMENT "cargo build common/ffi (minutes the first time)"
  VERBATIM)
file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/ffi")
add_custom_target(sbora_ffi_build DEPENDS "${_ffi_copy}")
add_library(sbora_ffi_rust STATIC IMPORTED)
set_target_properties(sbora_ffi_rust PROPERTIES IMPORTED_LOCATION "${_ffi_copy}")
add_dependencies(sbora_ffi_rust sbora_ffi_build)
target_link_libraries(sbora_ffi_rust INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
