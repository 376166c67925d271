#pragma once
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

#include "core/error.h"
#include "imp/imp.h"

// What crosses the C border: errors, structs of two versions, text into buffers.

namespace imp::capi {

void set_last_error(std::string_view message) noexcept;
const char* last_error_text() noexcept;

/// Runs `body`; whatever it throws becomes a status and the thread's message. The one catch-all of imp.
template <class Body>
imp_status guarded(const Body& body) noexcept {
  try {
    body();
    return IMP_OK;
  } catch (const Error& error) {
    set_last_error(error.what());
    return static_cast<imp_status>(error.code());
  } catch (const std::bad_alloc&) {
    set_last_error("the process is out of memory");
    return IMP_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return IMP_ERROR_INTERNAL;
  } catch (...) {
    set_last_error("an unknown exception");
    return IMP_ERROR_INTERNAL;
  }
}

template <class Pointer>
void require(Pointer* pointer, const char* name) {
  if (!pointer) fail(ErrorCode::invalid_argument, name, " is NULL");
}

inline void check_struct_size(size_t struct_size) {
  if (struct_size <= sizeof(size_t) || struct_size > 4096)
    fail(ErrorCode::invalid_argument, "struct_size is ", struct_size, "; set it to sizeof the struct before the call");
}

/// Fills the fields that the caller's version of the struct has.
template <class Params>
void write_params(Params* params, Params defaults) {
  require(params, "params");
  const size_t theirs = params->struct_size;
  check_struct_size(theirs);
  defaults.struct_size = theirs;
  std::memcpy(params, &defaults, std::min(theirs, sizeof(Params)));
}

/// The caller's struct as ours: fields it does not know yet have their defaults, fields we do not know must be zero.
template <class Params>
Params read_params(const Params* params, const Params& defaults) {
  if (!params) return defaults;
  const size_t theirs = params->struct_size;
  check_struct_size(theirs);
  const char* bytes = reinterpret_cast<const char*>(params);
  for (size_t i = sizeof(Params); i < theirs; ++i)
    if (bytes[i] != 0) fail(ErrorCode::unsupported, "the parameters use fields that this version of imp does not know");
  Params ours = defaults;
  std::memcpy(&ours, params, std::min(theirs, sizeof(Params)));
  return ours;
}

/// Text into the caller's buffer, terminated, cut between UTF-8 sequences where it is too small.
void copy_text(std::string_view text, char* buffer, size_t size, size_t* length);

}  // namespace imp::capi
