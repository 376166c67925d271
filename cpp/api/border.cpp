#include "api/border.h"

namespace imp::capi {
namespace {

thread_local std::string last_error;

}  // namespace

void set_last_error(std::string_view message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();  // no memory for the message; the status still tells
  }
}

const char* last_error_text() noexcept { return last_error.c_str(); }

void copy_text(std::string_view text, char* buffer, size_t size, size_t* length) {
  if (length) *length = text.size();
  if (!buffer && size == 0) {
    require(length, "length");
    return;
  }
  require(buffer, "buffer");
  size_t fits = size == 0 ? 0 : std::min(text.size(), size - 1);
  if (fits < text.size())
    while (fits > 0 && (static_cast<unsigned char>(text[fits]) & 0xc0) == 0x80) --fits;
  if (size > 0) {
    std::memcpy(buffer, text.data(), fits);
    buffer[fits] = 0;
  }
  if (size < text.size() + 1)
    fail(ErrorCode::invalid_argument, "the buffer of ", size, " bytes is too small; ", text.size() + 1, " are needed");
}

}  // namespace imp::capi
