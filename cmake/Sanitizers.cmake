# -DSBORA_SANITIZE=address+undefined or thread, for every target. LibTorch is not instrumented: build with
# SBORA_WITH_TORCH=OFF under either.
if(SBORA_SANITIZE STREQUAL "address+undefined")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(SBORA_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
elseif(SBORA_SANITIZE)
  message(FATAL_ERROR "SBORA_SANITIZE=${SBORA_SANITIZE} is not known; use address+undefined or thread")
endif()
