#pragma once
#include <string>
#include <string_view>

namespace imp {

/// `text` from a file, made fit for an error message: in quotes, control and non-ASCII bytes as \xNN, cut after 80.
std::string quoted(std::string_view text);

/// True for well-formed UTF-8 (no overlong forms, surrogates or values above 10FFFF) without ASCII control characters.
bool is_printable_utf8(std::string_view text);

}  // namespace imp
