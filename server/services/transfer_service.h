/// Bytes in and out: unary calls on sync threads, the two streams as callbacks whose blocking parts run on the pool.
#pragma once

#include "sbora/v1/transfer.grpc.pb.h"
#include "server/services/context.h"

namespace sbora::server {

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
  Status Finish(const v1::FinishUploadRequest& request, v1::Upload& upload);
  Status SealPart(const UploadRow& row);
  Status CheckPresigned(const UploadRow& row);

  const ServiceContext& services_;
};

/// The upload `{uid}` of that project. NOT_FOUND UPLOAD_NOT_FOUND for another project's too.
StatusOr<UploadRow> FindUpload(const ServiceContext& services, const std::string& name);

}  // namespace sbora::server
