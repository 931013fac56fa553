// sbora-client: see README.md and `sbora-client --help`.
#include <signal.h>
#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "client/cli.h"

int main(int argc, char** argv) {
  // `sbora-client ... | head` must end quietly, and a lost server must not end it at all.
  ::signal(SIGPIPE, SIG_IGN);
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  return static_cast<int>(
      sbora::client::RunCli(arguments, {.out = std::cout, .err = std::cerr, .terminal = terminal, .channel = nullptr}));
}
