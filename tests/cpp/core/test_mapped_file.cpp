#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/mapped_file.h"
#include "support/temp_dir.h"

using namespace imp;

namespace {

void write_file(const std::string& path, std::string_view contents) {
  std::ofstream(path, std::ios::binary).write(contents.data(), static_cast<std::streamsize>(contents.size()));
}

std::string text(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

ErrorCode code_of_opening(const std::string& path) {
  try {
    MappedFile file(path);
  } catch (const Error& error) {
    CHECK(std::string(error.what()).size() > 10);
    return error.code();
  }
  return ErrorCode::ok;
}

}  // namespace

TEST_CASE("maps what the file holds, and moves") {
  const test::TempDir dir;
  const std::string path = dir / "model.bin";
  write_file(path, "seventeen bytes..");
  MappedFile file(path);
  CHECK(text(file) == "seventeen bytes..");
  CHECK(file.path() == path);
  file.require_unchanged();

  MappedFile moved(std::move(file));
  CHECK(text(moved) == "seventeen bytes..");
  write_file(dir / "other", "x");
  MappedFile other(dir / "other");
  other = std::move(moved);
  CHECK(text(other) == "seventeen bytes..");
  CHECK(other.path() == path);
}

TEST_CASE("paths that are not files are refused, and none of them waits") {
  const test::TempDir dir;
  CHECK(code_of_opening(dir / "missing") == ErrorCode::file_not_found);
  CHECK(code_of_opening(dir / "missing/below") == ErrorCode::file_not_found);
  CHECK(code_of_opening("") == ErrorCode::file_not_found);
  CHECK(code_of_opening(std::string(5000, 'x')) == ErrorCode::file_not_found);
  CHECK(code_of_opening(dir.path()) == ErrorCode::invalid_model);
  CHECK(code_of_opening("/dev/zero") == ErrorCode::invalid_model);

  write_file(dir / "empty", "");
  CHECK(code_of_opening(dir / "empty") == ErrorCode::invalid_model);
  write_file(dir / "file", "data");
  CHECK(code_of_opening(dir / "file/below") == ErrorCode::file_not_found);
  CHECK(code_of_opening(std::string(dir / "file") + '\0' + "tail") == ErrorCode::file_not_found);

  REQUIRE(mkfifo((dir / "fifo").c_str(), 0600) == 0);
  CHECK(code_of_opening(dir / "fifo") == ErrorCode::invalid_model);
  std::filesystem::create_symlink(dir / "fifo", dir / "link");
  CHECK(code_of_opening(dir / "link") == ErrorCode::invalid_model);
  std::filesystem::create_symlink(dir / "loop", dir / "loop");
  CHECK(code_of_opening(dir / "loop") == ErrorCode::io);
}

TEST_CASE("a file that shrinks or grows while mapped is noticed") {
  const test::TempDir dir;
  const std::string path = dir / "model.bin";
  write_file(path, std::string(10000, 'a'));
  const MappedFile file(path);
  file.require_unchanged();
  for (const int64_t size : {0, 9999, 10001}) {
    REQUIRE(truncate(path.c_str(), size) == 0);
    CHECK_THROWS_AS(file.require_unchanged(), Error);
  }
  REQUIRE(truncate(path.c_str(), 10000) == 0);
  file.require_unchanged();
}

TEST_CASE("a file that is replaced by rename keeps its contents for who has it open") {
  const test::TempDir dir;
  const std::string path = dir / "model.bin";
  write_file(path, "old contents");
  const MappedFile file(path);
  write_file(dir / "new", "new");
  std::filesystem::rename(dir / "new", path);
  file.require_unchanged();
  CHECK(text(file) == "old contents");
}
