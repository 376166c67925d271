#include "core/error.h"

namespace imp {

std::string_view error_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::ok: return "ok";
    case ErrorCode::invalid_argument: return "invalid argument";
    case ErrorCode::out_of_memory: return "out of memory";
    case ErrorCode::cuda: return "device failure";
    case ErrorCode::file_not_found: return "file not found";
    case ErrorCode::invalid_model: return "invalid model";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::internal: return "internal error";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::io: return "input or output failed";
  }
  return "unknown error";
}

}  // namespace imp
