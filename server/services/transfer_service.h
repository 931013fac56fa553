/// Bytes in and out: unary calls on sync threads, the two streams as callbacks whose blocking parts run on the pool.
#pragma once

#include <condition_variable>
#include <set>
#include <string>
#include <utility>

#include "common/mutex.h"
#include "sbora/v1/transfer.grpc.pb.h"
#include "server/services/context.h"
#include "server/services/rpc.h"

namespace sbora::server {

/// One FinishUpload of an upload at a time: a repeat waits for the first, which may hash gigabytes, and then finds it done.
/// Thread-safe.
class FinishTurns {
 public:
  class Turn {
   public:
    Turn(Turn&& other) noexcept : turns_(std::exchange(other.turns_, nullptr)), uid_(std::move(other.uid_)) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn() {
      if (turns_ != nullptr) turns_->Return(uid_);
    }

   private:
    friend class FinishTurns;
    Turn(FinishTurns& turns, std::string uid) : turns_(&turns), uid_(std::move(uid)) {}
    FinishTurns* turns_;
    std::string uid_;
  };

  /// Blocks until nobody else has a turn for `uid`. CANCELLED CALL_CANCELLED when the caller is gone before.
  StatusOr<Turn> Take(const std::string& uid, const Call& call);

 private:
  void Return(const std::string& uid);

  Mutex mutex_;
  std::condition_variable_any changed_;
  std::set<std::string> taken_ SBORA_GUARDED_BY(mutex_);
};

/// Thread-safe; `services` must outlive it.
class TransferServiceImpl final
    : public v1::TransferService::WithCallbackMethod_WriteUpload<
          v1::TransferService::WithCallbackMethod_Download<v1::TransferService::Service>> {
 public:
  explicit TransferServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::Status CreateUpload(grpc::ServerContext* context, const v1::CreateUploadRequest* request, v1::Upload* upload) override;
  grpc::Status GetUpload(grpc::ServerContext* context, const v1::GetUploadRequest* request, v1::Upload* upload) override;
  grpc::Status FinishUpload(grpc::ServerContext* context, const v1::FinishUploadRequest* request, v1::Upload* upload) override;
  grpc::Status GetDownload(grpc::ServerContext* context, const v1::GetDownloadRequest* request,
                           v1::GetDownloadResponse* response) override;
  grpc::ServerReadReactor<v1::WriteUploadRequest>* WriteUpload(grpc::CallbackServerContext* context, v1::Upload* upload) override;
  grpc::ServerWriteReactor<v1::DownloadResponse>* Download(grpc::CallbackServerContext* context,
                                                           const v1::DownloadRequest* request) override;

 private:
  Status Create(const v1::CreateUploadRequest& request, v1::Upload& upload);
  Status Finish(const v1::FinishUploadRequest& request, const Call& call, v1::Upload& upload);
  /// Seals the bytes and makes them an object; `row` is then as stored.
  Status SealAndStore(UploadRow& row);
  /// The object's key has the announced bytes when this answers OK. UPLOAD_INCOMPLETE, HASH_MISMATCH, or the store's errors.
  Status Seal(const UploadRow& row);
  Status SealPart(const UploadRow& row);
  Status SealStaged(const UploadRow& row);
  Status CheckObject(const UploadRow& row, const std::string& key);

  const ServiceContext& services_;
  FinishTurns finish_turns_;
};

/// The upload `{uid}` of that project. NOT_FOUND UPLOAD_NOT_FOUND for another project's too.
StatusOr<UploadRow> FindUpload(const ServiceContext& services, const std::string& name);

}  // namespace sbora::server
