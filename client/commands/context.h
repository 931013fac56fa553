/// What a command works with: the global flags, the connection, and where results and messages go.
#pragma once

#include <google/longrunning/operations.pb.h>
#include <grpcpp/channel.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>

#include "client/exit_codes.h"
#include "client/output/format.h"
#include "client/output/progress.h"
#include "client/output/resources.h"
#include "client/sbora_client.h"
#include "common/status.h"

namespace sbora::client {

struct GlobalFlags {
  std::string server = "127.0.0.1:7400";
  std::string project = "default";
  std::string token_file;
  std::string tls_ca;
  OutputFormat output = OutputFormat::kTable;
  std::optional<double> timeout_seconds;
  bool quiet = false;
};

/// Not thread-safe; one object serves one run of the program.
class CommandContext {
 public:
  struct Options {
    std::ostream& out;                       ///< results; must outlive
    std::ostream& err;                       ///< progress and messages; must outlive
    bool terminal = false;                   ///< err is a terminal
    std::shared_ptr<grpc::Channel> channel;  ///< instead of one to `server`; shared with the caller
  };
  explicit CommandContext(Options options) : options_(std::move(options)) {}

  GlobalFlags& globals() { return globals_; }
  std::ostream& out() { return options_.out; }
  std::ostream& err() { return options_.err; }

  /// The client, made at the first call. Without --timeout a call may take `default_call`.
  StatusOr<Client*> Connect(std::chrono::seconds default_call = kDefaultCallDeadline);

  /// The result of a command, in the format asked for.
  template <typename Message>
  void Print(const Message& message) {
    if (globals_.output == OutputFormat::kTable) {
      out() << ToTable(message) << std::flush;
    } else {
      PrintStructured(message);
    }
  }
  /// A result without content: "{}" for programs, nothing for people.
  void PrintNothing();
  /// One message of a stream: a JSON line, or a YAML document.
  void PrintStreamed(const google::protobuf::Message& message);

  /// A line on stderr unless --quiet.
  void Note(const std::string& text);
  ProgressOptions ProgressStyle() const { return {.terminal = options_.terminal, .quiet = globals_.quiet}; }

  /// Waits for the operation with progress on stderr. Its own error comes back as the status and makes the program end
  /// with kFailed instead of the code's number (kCancelled for a cancelled one).
  StatusOr<google::longrunning::Operation> FinishOperation(google::longrunning::Operation operation,
                                                           const std::string& what);
  bool operation_failed() const { return operation_failed_; }

 private:
  void PrintStructured(const google::protobuf::Message& message);

  Options options_;
  GlobalFlags globals_;
  std::unique_ptr<Client> client_;
  bool operation_failed_ = false;
};

using CommandResult = StatusOr<ExitCode>;
using Command = std::function<CommandResult(CommandContext&)>;

}  // namespace sbora::client
