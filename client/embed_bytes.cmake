# cmake -DIN=file -DOUT=header -DNAME=symbol -P embed_bytes.cmake: a binary file as a C++ array.
file(READ "${IN}" hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
file(WRITE "${OUT}" "#pragma once\n\nnamespace sbora::client {\ninline constexpr unsigned char ${NAME}[] = {\n${bytes}};\n}  // namespace sbora::client\n")
