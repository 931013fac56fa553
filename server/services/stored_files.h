/// Files that requests name: finished uploads of a project and the objects behind them.
#pragma once

#include <string>
#include <vector>

#include "common/status.h"
#include "sbora/v1/common.pb.h"
#include "server/services/context.h"

namespace sbora::server {

/// "config.json" and the like: letters, digits, '.', '_' and '-', no leading dot, at most 200 characters.
/// Errors: INVALID_ARGUMENT BAD_FILE_NAME.
Status CheckFileName(const std::string& path, std::string_view field);

/// The file of a finished upload of `project`, called `path`.
/// Errors: NOT_FOUND UPLOAD_NOT_FOUND, FAILED_PRECONDITION UPLOAD_NOT_FINISHED, INVALID_ARGUMENT.
StatusOr<v1::File> FileOfUpload(const ServiceContext& services, const std::string& project, const std::string& upload,
                                const std::string& path, std::string_view field);

/// The object that `file` names, after comparing size and hash with what was sealed.
/// Errors: NOT_FOUND OBJECT_NOT_FOUND, DATA_LOSS HASH_MISMATCH, INVALID_ARGUMENT.
StatusOr<ObjectRow> CheckStoredFile(const ServiceContext& services, const std::string& project, const v1::File& file);

/// "projects/{p}/objects/{uid}" -> the row. Another project's object does not exist.
StatusOr<ObjectRow> FindObject(const ServiceContext& services, const std::string& object);

std::string ObjectKey(const std::string& project, const std::string& object_uid);
/// `{uid}` of "projects/{p}/objects/{uid}", as our own messages hold it.
std::string UidOfObject(const std::string& object);

}  // namespace sbora::server
