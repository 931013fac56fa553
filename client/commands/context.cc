#include "client/commands/context.h"

#include <fmt/format.h>

#include "client/interrupt.h"
#include "common/grpc/status_convert.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

int32_t ProgressPercent(const google::longrunning::Operation& operation) {
  v1::ImportModelMetadata import;
  if (operation.metadata().UnpackTo(&import)) return import.progress_percent();
  v1::AdapterOperationMetadata adapter;
  if (operation.metadata().UnpackTo(&adapter)) return adapter.progress_percent();
  return 0;
}

}  // namespace

StatusOr<Client*> CommandContext::Connect(std::chrono::seconds default_call) {
  if (client_) return client_.get();
  ClientOptions options;
  options.server = globals_.server;
  options.project = globals_.project;
  options.channel.token_file = globals_.token_file;
  options.channel.tls_ca = globals_.tls_ca;
  options.call_timeout = default_call;
  if (globals_.timeout_seconds) {
    options.call_timeout = std::chrono::milliseconds(static_cast<int64_t>(*globals_.timeout_seconds * 1000.0));
    options.long_call_factor = 1;
  }
  if (options_.channel) {
    options.retry.initial = std::chrono::milliseconds(1);
    options.transfer_retry.initial = std::chrono::milliseconds(1);
    options.poll_interval = std::chrono::milliseconds(1);
    client_ = std::make_unique<Client>(options_.channel, std::move(options));
    return client_.get();
  }
  SBORA_ASSIGN_OR_RETURN(client_, Client::Connect(std::move(options)));
  return client_.get();
}

void CommandContext::PrintNothing() {
  if (globals_.output != OutputFormat::kTable) out() << "{}" << std::endl;
}

void CommandContext::PrintStructured(const google::protobuf::Message& message) {
  out() << (globals_.output == OutputFormat::kYaml ? ToYaml(message) : ToJson(message)) << std::flush;
}

void CommandContext::PrintStreamed(const google::protobuf::Message& message) {
  if (globals_.output == OutputFormat::kYaml) {
    out() << "---\n" << ToYaml(message) << std::flush;
  } else {
    out() << ToJson(message, true) << std::flush;
  }
}

void CommandContext::Note(const std::string& text) {
  if (!globals_.quiet) err() << text << std::endl;
}

StatusOr<google::longrunning::Operation> CommandContext::FinishOperation(google::longrunning::Operation operation,
                                                                         const std::string& what) {
  SBORA_ASSIGN_OR_RETURN(Client* const client, Connect());
  WaitScope wait(globals_.timeout_seconds);
  ProgressLine progress(err(), SystemClock(), ProgressStyle());
  const std::string name = operation.name();
  auto done = client->WaitOperation(std::move(operation), wait.token(), [&](const google::longrunning::Operation& now) {
    progress.Update(what, fmt::format("{}  {} %", what, now.done() ? 100 : ProgressPercent(now)));
  });
  progress.Finish();
  if (!done.ok()) return wait.Explain(done.status(), fmt::format("the operation goes on at the server: {}", name));
  if (done->has_error()) {
    operation_failed_ = true;
    return FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(done->error().code()), done->error().message(),
                                 done->error().SerializeAsString()));
  }
  return done;
}

}  // namespace sbora::client
